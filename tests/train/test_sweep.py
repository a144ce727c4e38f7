"""The grid of a sweep: its lists are read, its cells are named, and their progress is seen from their folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.records import InputError
from tests.train.report.pages import write_run, write_test
from tgtrain.evaluate.results import EvalProtocol
from tgtrain.sweep import Cell, Grid, make_cells, parse_seeds, parse_vary, progress_of


def cells(*pairs: tuple[str, str], **options: object) -> tuple[Cell, ...]:
    return make_cells(Grid(pairs=pairs or (("demo", "half"),), **options), num_classes=2)  # type: ignore[arg-type]


@given(st.lists(st.integers(0, 10**18 - 1), min_size=1, max_size=20, unique=True))
def test_seeds_are_read(seeds: list[int]) -> None:
    assert parse_seeds(" , ".join(map(str, seeds))) == tuple(seeds)


@pytest.mark.parametrize(
    "text", ["", "1,,2", "a", "1.5", "-1", "1-3", "1,1", "9" * 19, "٣,x", ",".join(map(str, range(1001)))]
)
def test_other_lists_of_seeds_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--seeds"):
        parse_seeds(text)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a.b=1", ("1",)),
        ("a.b=1, 2 ,3", ("1", "2", "3")),
        ("a.b=[1,2],[3]", ("[1,2]", "[3]")),
        ('a.b="x,y",\'z,\'', ('"x,y"', "'z,'")),
        ('a.b=["p,q",[1,2]],{c=1,d=2}', ('["p,q",[1,2]]', "{c=1,d=2}")),
        ("a.b=k=v,w", ("k=v", "w")),
    ],
)  # fmt: skip
def test_commas_within_a_value_belong_to_it(text: str, values: tuple[str, ...]) -> None:
    assert parse_vary(text) == ("a.b", values)


@pytest.mark.parametrize("text", ["", "a.b", "a.b=", "a.b=1,", "a=1", "=1", "runtime.seed=1"])
def test_other_settings_to_vary_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--vary"):
        parse_vary(text)


def test_cells_are_in_the_order_of_the_grid_and_named_by_it() -> None:
    found = cells(("demo", "p5"), ("demo-supervised", "p5"), seeds=(3, 1), vary=(("data.size", ("32", "64")),))
    assert [cell.number for cell in found] == list(range(8))
    assert [cell.name for cell in found[:5]] == [
        "demo_p5_s3_data.size-32", "demo_p5_s3_data.size-64", "demo-supervised_p5_s3_data.size-32", "demo-supervised_p5_s3_data.size-64",
        "demo_p5_s1_data.size-32",
    ]  # fmt: skip
    assert found[4].overrides == ("data.size=32", "runtime.seed=1")
    assert (found[4].config.runtime.seed, found[4].config.data.size, found[4].config.model.num_classes) == (1, 32, 2)
    more = cells(("demo", "p5"), ("demo-supervised", "p5"), seeds=(3, 1, 2), vary=(("data.size", ("32", "64")),))
    assert more[:8] == found
    assert cells()[0].name == "demo_half_s0"
    assert cells(overrides=("runtime.seed=5",))[0].name == "demo_half_s5"


def test_names_hold_nothing_that_a_file_system_minds(tmp_path: Path) -> None:
    recipe = tmp_path / "..my recipe/é.toml"
    recipe.parent.mkdir()
    recipe.write_text('extends = "demo"')
    (cell,) = cells((str(recipe), "half"), vary=(("description", ("x",)),)[:0])
    assert cell.name == "_half_s0"  # nothing of é is left
    long = cells(
        vary=tuple(
            (key, (value,)) for key, value in (("data.area", "[0.5, 1.0]"), ("runtime.cache", '"/' + "a/" * 200 + '"'))
        )
    )
    assert len(long[0].name) == 189
    assert long[0].name.startswith("demo_half_s0_data.area-0.5,1.0_runtime.cache-aaaa")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pairs": (("demo", "half"), ("demo", "half"))}, "are the same"),
        ({"vary": (("data.size", ("32", "32")),)}, "are the same"),
        ({"vary": (("data.size", ("32", "64")), ("data.size", ("16",)))}, "given twice"),
        ({"vary": (("runtime.cache", ("a b", "ab")),)}, "the same folder"),
        ({"pairs": (("demo", "half"), ("demo", "HALF"))}, "the same folder"),
        ({"pairs": (("dmo", "half"), ("deom", "half"))}, "No recipe 'dmo'.*\n.*No recipe 'deom'"),
        ({"seeds": tuple(range(1000)), "vary": (("data.size", tuple(map(str, range(16, 32)))),)}, "16,000 cells"),
    ],
)  # fmt: skip
def test_grids_that_cannot_be_run_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        make_cells(Grid(**{"pairs": (("demo", "half"),), **options}), num_classes=2)  # type: ignore[arg-type]


def test_progress_is_seen_from_the_folder(tmp_path: Path) -> None:
    (cell,) = cells(views=EvalProtocol(2, 1))
    folder = tmp_path / cell.name
    assert progress_of(cell, folder).state == "new"
    write_run(folder, steps=24)
    assert progress_of(cell, folder).state == "new"
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir()
    (checkpoints / "step-00000012.pt").touch()
    assert progress_of(cell, folder).state == "begun"
    (checkpoints / "step-00000024.due.pt").touch()
    assert progress_of(cell, folder).state == "begun"  # its evaluation is missing
    (checkpoints / "step-00000024.pt").touch()
    (checkpoints / "step-00000024.due.pt").unlink()
    assert progress_of(cell, folder).state == "trained"
    for protocol, modality, step in (("10x3", "rgb", 24), ("2x1", "rgb", 24), ("2x1", "tg", 24), ("2x1", "both", 12)):
        write_test(folder, [[1, 0], [0, 1]], protocol=protocol, modality=modality, step=step)
    assert progress_of(cell, folder).state == "trained"  # the test of both is of an earlier step
    write_test(folder, [[1, 0], [0, 1]], protocol="2x1", modality="both", step=24, num_bad=3)
    found = progress_of(cell, folder)
    assert (found.state, [result.modality for result in found.results], found.num_bad) == (
        "tested",
        ["rgb", "tg", "both"],
        3,
    )
    for change in (
        {"rule": "best"},
        {"average": "probabilities"},
        {"part": "validation"},
        {"batch_norm": "measured for this test"},
    ):
        write_test(folder, [[1, 0], [0, 1]], protocol="2x1", step=24)
        path = folder / "test-2x1.json"
        path.write_text(json.dumps({**json.loads(path.read_bytes()), **change}))
        assert progress_of(cell, folder).state == "trained", change
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        progress_of(cell, folder)
