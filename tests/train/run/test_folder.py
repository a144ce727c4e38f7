"""The run folder: an invalid split is refused before anything is read, warnings are printed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from cli.train import main
from manifests.manifest_io import read_manifest
from manifests.records import InputError
from manifests.splits.label_split import read_split
from tests.train.support import SMALL
from tgtrain.config import load_recipe
from tgtrain.data.setup import prepare
from tgtrain.run.folder import owned

TRAIN = [f"class{label}/v_0{group}" for label in range(3) for group in range(4)]
TEST = [f"class{label}/v_0{group}" for label in range(3) for group in (4, 5)]


def write_by_hand(root: Path, rows: list[dict[str, Any]], digest: str | None) -> None:
    """A split as docs/format.md describes it, written without our code."""
    given = {"made": "by hand"} | ({} if digest is None else {"dataset_digest": digest})
    fields = [("key", pa.string()), ("label", pa.int32())]
    fields += [(part, pa.bool_()) for part in ("labelled", "unlabelled", "validation", "test")]
    schema = pa.schema(fields).with_metadata({"tgprep.provenance": json.dumps(given)})
    pq.write_table(
        pa.Table.from_pylist(sorted(rows, key=lambda row: row["key"]), schema), root / "splits" / "hand.parquet"
    )


def row(key: str, **parts: Any) -> dict[str, Any]:
    blank = {"labelled": False, "unlabelled": False, "validation": False, "test": False}
    return {"key": key, "label": int(key[5]), **blank, **parts}


def sound_rows() -> dict[str, dict[str, Any]]:
    rows = {key: row(key, unlabelled=True, labelled=key.endswith(("0", "1"))) for key in TRAIN}
    return rows | {key: row(key, test=True) for key in TEST}


def refusal(root: Path) -> str:
    manifest = read_manifest(root)
    with pytest.raises(InputError) as told:
        prepare(str(root), read_split(root, "hand"), manifest, load_recipe("demo", SMALL, num_classes=3))
    return str(told.value)


def test_invalid_split_is_refused(make_data_set: Callable[..., Path]) -> None:
    root = make_data_set()
    manifest = read_manifest(root)
    rows = sound_rows()
    write_by_hand(root, list(rows.values()), manifest.digest)
    setup = prepare(str(root), read_split(root, "hand"), manifest, load_recipe("demo", SMALL, num_classes=3))
    assert len(setup.split) == 18

    leaking = rows | {key: row(key, unlabelled=True, test=True) for key in TEST[:2]}
    write_by_hand(root, list(leaking.values()), manifest.digest)
    assert "2 videos are in both parts (test and train) (class0/v_04, class0/v_05)" in refusal(root)
    assert not list(root.parent.glob("run*"))

    strange = {key: value for key, value in rows.items() if key != TRAIN[0]} | {"x": row("class2/v_99", labelled=True)}
    broken = list(strange.values())
    broken[0]["label"] = 3
    write_by_hand(root, broken, manifest.digest)
    message = refusal(root)  # everything at once
    assert "1 video is not in the data set (class2/v_99)" in message
    assert "1 video has a label outside the 3 classes (class0/v_01)" in message

    for digest, said in ((None, "digest none"), ("0" * 64, "digest 000000000000")):
        write_by_hand(root, list(rows.values()), digest)
        assert f"was made for another state of the data set ({said}, now {manifest.digest[:12]})" in refusal(root)


def test_split_warnings_are_printed_once(make_data_set: Callable[..., Path], tmp_path: Path) -> None:
    root = make_data_set()
    rows = sound_rows()
    rows["class0/v_00"]["label"] = 1
    write_by_hand(root, list(rows.values()), read_manifest(root).digest)
    words = [
        "run",
        str(root),
        "--split",
        "hand",
        "--recipe",
        "demo",
        "--out",
        str(tmp_path / "run"),
        "--max-steps",
        "1",
    ]
    for setting in SMALL:
        words += ["--set", setting]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert done.stderr.count("warning: split hand: 1 video trains with another label than the class folder's") == 1


@pytest.mark.parametrize("name", ["checkpoints", "tensorboard"])
def test_a_run_writes_through_no_link(name: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / ".tmp-mine").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=f"{name} is a link to .*elsewhere"), owned(tmp_path / "run"):
        raise AssertionError("held")
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == [".tmp-mine"]
