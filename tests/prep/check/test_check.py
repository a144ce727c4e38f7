"""`tgprep check`: a valid data set passes, every changed byte and every broken rule is found and named."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.prep import main
from manifests.records import InputError, Members
from manifests.splits.label_split import list_splits
from manifests.table import Manifest
from tests.conftest import Reliability
from tests.prep.check.support import kinds, make, patch
from tests.prep.support import check_after
from tgprep.check.check import check


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"space": "rgb", "quality": 60},
        {"gradient_source": "jpeg"},
        {"gradient": "derived"},
        {"subsampling": "444"},
        {"store": "video"},
        {"flow": "dis"},
        {"store": "video", "flow": "farneback", "compat": "flow_magnitude"},
    ],
)
def test_what_extract_writes_is_sound(videos: Path, tmp_path: Path, settings: dict[str, object]) -> None:
    manifest = make(videos, tmp_path / "out", **settings)
    report = check(str(tmp_path / "out"), deep=True, against=videos)
    assert report.findings == ()
    frames = sum(manifest.videos.column("num_frames"))
    num_pair_streams = manifest.header.gradient.stored + ("flow" in settings)
    assert report.num_frames == frames + num_pair_streams * (frames - 8)
    assert (report.num_videos, report.num_shards, report.num_splits, report.num_sources) == (9, 3, 1, 8)
    assert report.num_bytes == sum(shard.num_bytes for shard in manifest.shards)


def flip_all(folder: Path, count: int, seed: int) -> None:
    """Flip single bits at random places of every file, weighted by size, with at least a share for the small ones."""
    generator = random.Random(seed)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "README.md")
    assert {path.name.split(".")[-1] for path in files} == {"tar", "parquet", "json"}
    for number in range(count):
        path = generator.choice(files) if number % 2 else max(files, key=lambda file: file.stat().st_size)
        good = path.read_bytes()
        place, bit = generator.randrange(len(good)), generator.randrange(8)
        path.write_bytes(good[:place] + bytes([good[place] ^ 1 << bit]) + good[place + 1 :])
        try:
            report = check(str(folder), threads=1)
        except InputError as error:
            pytest.fail(f"{path.name}, byte {place}, bit {bit}: {error}")
        assert not report.sound, f"{path.name}, byte {place}, bit {bit} was not found"
        assert any(path.name in finding.place for finding in report.findings), (path.name, report.findings)
        path.write_bytes(good)
    assert check(str(folder)).sound


def test_every_flipped_bit_is_found(copy: Path) -> None:
    flip_all(copy, 60, seed=6)


@pytest.mark.long
def test_every_flipped_bit_is_found_in_full(copy: Path, reliability: Reliability) -> None:
    flip_all(copy, 500, seed=500)
    reliability.record(
        "Damage to a data set",
        "one bit flipped at a random place of shards, tables, header and split; told by `tgprep check`",
        num_flips=500,
        num_not_found=0,
    )


def test_changed_bytes_of_header_and_split_are_found(copy: Path) -> None:
    for path in (copy / "dataset.json", next((copy / "splits").iterdir())):
        good = path.read_bytes()
        for place in range(0, len(good), 23):
            path.write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
            assert not check(str(copy), threads=1).sound, (path.name, place)
        path.write_bytes(good)


def first_changed(**changes: object) -> Callable[[Manifest], Manifest]:
    def change(manifest: Manifest) -> Manifest:
        rows = list(manifest.videos)
        place = next(at for at, row in enumerate(rows) if row.status == "written" and row.sample_offset == 0)
        members = {name: value for name, value in changes.items() if name in Members.__slots__}
        rows[place] = dataclasses.replace(
            rows[place],
            members=dataclasses.replace(rows[place].members, **members),  # type: ignore[arg-type]
            **{name: value for name, value in changes.items() if name not in members},
        )
        return dataclasses.replace(manifest, videos=type(manifest.videos).from_rows(rows))

    return change


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"class_name": "Nothing"}, "label"),
        ({"label": 7}, "table"),
        ({"num_frames": 5}, "members"),
        ({"fps": 24.0}, "facts"),
        ({"group": "g99"}, "facts"),
        ({"source_sha256": "0" * 64}, "facts"),
        ({"height": 32}, "facts"),
        ({"height": 0}, "table"),
        ({"rgb_offset": 5000}, "member-place"),
        ({"sample_bytes": 512}, "table"),
        ({"subsets": ("train", "test", "train")}, "subsets"),
        ({"error": "odd"}, "error"),
        ({"source_sha256": ""}, "source"),
        ({"shard": "shard-000099.tar"}, "table"),
        ({"status": "failed", "error": "odd"}, "count"),
        ({"status": "lost"}, "table"),
        ({"key": "no-slash"}, "table"),
    ],
)
def test_broken_rows_are_found(copy: Path, changes: dict[str, object], kind: str) -> None:
    assert kind in kinds(check_after(copy, first_changed(**changes)))


@pytest.mark.parametrize("key", ["__background__/a", "wave/__a"])
def test_keys_that_other_readers_pass_over_are_a_note(copy: Path, key: str) -> None:
    report = check_after(copy, first_changed(key=key))
    assert any("pass over" in note and key in note for note in report.notes)
    assert "key-hidden" not in kinds(report)


def test_odd_entries_among_the_splits_are_findings(copy: Path) -> None:
    before = list_splits(copy)
    (copy / "splits/folder.parquet").mkdir()
    (copy / "splits/link.parquet").symlink_to("nowhere")
    os.mkfifo(copy / "splits/fifo.parquet")
    assert list_splits(copy) == before
    found = [finding.place for finding in check(str(copy), threads=1).findings]
    assert found == [str(copy / f"splits/{name}.parquet") for name in ("fifo", "folder", "link")]


def test_unchanged_rows_pass(copy: Path) -> None:
    assert check_after(copy, lambda manifest: manifest).sound


def test_unknown_and_missing_shards_are_found(copy: Path) -> None:
    shutil.copy(copy / "shard-000000.tar", copy / "shard-000003.tar")
    (copy / "shard-000001.tar").unlink()
    (copy / ".tmp-1-shard-000001.tar").write_bytes(b"x")
    report = check(str(copy))
    assert kinds(report) == {"stranger", "shard-missing"}
    assert report.damaged_shards == ("shard-000001.tar",)
    assert any(".tmp-1" in note for note in report.notes)


def test_quick_checks_tables_splits_and_shard_sizes(copy: Path, videos: Path) -> None:
    assert check(str(copy), quick=True).sound
    patch(copy / "shard-000002.tar", b"\x93NUMPY", b"\x93NUMPX")
    report = check(str(copy), quick=True)
    assert (report.sound, report.quick, report.num_shards) == (True, True, 3)  # not found: it reads no bytes of shards
    assert not check(str(copy)).sound
    (copy / "shard-000000.tar").unlink()
    with (copy / "shard-000001.tar").open("ab") as file:
        file.write(b"x")
    report = check(str(copy), quick=True)
    assert [(finding.place, finding.kind) for finding in report.findings] == [
        ("shard-000000.tar", "shard-missing"),
        ("shard-000001.tar", "shard-size"),
    ]
    assert report.damaged_shards == ("shard-000000.tar", "shard-000001.tar")
    (split,) = (copy / "splits").iterdir()
    split.write_bytes(split.read_bytes()[:-1])
    assert "split" in {finding.kind.partition("-")[0] for finding in check(str(copy), quick=True).findings}
    for words in (["--deep"], ["--against", str(videos)], ["--repair", "--against", str(videos)]):
        refused = CliRunner().invoke(main, ["check", str(copy), "--quick", *words])
        assert refused.exit_code == 2
        assert "--quick reads no bytes" in refused.stderr
    result = CliRunner().invoke(main, ["check", str(copy), "--quick"])
    assert result.exit_code == 1
    assert "bytes of shards not read" in result.stdout


def test_data_set_of_scale_benchmark_is_sound(tmp_path: Path) -> None:
    place = Path(__file__).parents[3] / "benchmarks" / "scale.py"
    loaded = importlib.util.spec_from_file_location("scale", place)
    assert loaded is not None
    assert loaded.loader is not None
    scale = importlib.util.module_from_spec(loaded)
    loaded.loader.exec_module(scale)
    scale.make(tmp_path / "dataset", 150)
    report = check(str(tmp_path / "dataset"), threads=1)
    assert (report.findings, report.num_videos, report.num_shards) == ((), 150, 3)


def test_changed_sources_are_found(sound: Path, videos: Path, tmp_path: Path) -> None:
    changed = Path(shutil.copytree(videos, tmp_path / "videos"))
    first, second, *_ = sorted(changed.rglob("v_*"))
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes(data)
    second.unlink()
    report = check(str(sound), against=changed)
    assert {(finding.kind, Path(finding.place).name) for finding in report.findings} == {
        ("source", first.name),
        ("source", second.name),
    }
    with pytest.raises(InputError, match="no such folder"):
        check(str(sound), against=tmp_path / "nowhere")


def test_command(copy: Path, videos: Path) -> None:
    run = CliRunner()
    good = run.invoke(main, ["check", str(copy), "--deep", "--json"])
    assert good.exit_code == 0, good.output
    assert json.loads(good.stdout)["sound"] is True
    (copy / "shard-000001.tar").write_bytes(b"gone")
    bad = run.invoke(main, ["check", str(copy)])
    assert bad.exit_code == 1
    assert "shard-000001.tar" in bad.stdout
    assert "--repair" in bad.stdout
    assert run.invoke(main, ["check", str(copy), "--repair"]).exit_code == 2
    mended = run.invoke(main, ["check", str(copy), "--repair", "--against", str(videos), "--json"])
    assert mended.exit_code == 0, mended.output
    assert json.loads(mended.stdout)["repaired"] == ["shard-000001.tar"]
    nothing = run.invoke(main, ["check", str(copy / "splits")])
    assert nothing.exit_code == 2
    assert "no data set" in nothing.stderr
