"""`tgprep import-rawframes`: the bytes of every frame come through unchanged, and unfinished trees are not accepted."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from cli.prep import main
from manifests.manifest_io import read_manifest, write_manifest
from manifests.records import InputError
from manifests.table import Manifest
from tests.prep.support import extract_videos
from tgprep.check.check import check
from tgprep.convert.export_rawframes import export_rawframes, read_jpegs
from tgprep.convert.frame_tree import FramesError, find_frames
from tgprep.convert.import_rawframes import import_rawframes


def frames(manifest: Manifest, kind: str) -> dict[str, list[str]]:
    """key -> digests of its stored JPEG files."""
    return {
        row.key: [hashlib.sha256(jpeg).hexdigest() for jpeg in read_jpegs(manifest, row, kind)]
        for row in manifest.videos
        if row.status == "written"
    }


@pytest.mark.parametrize("form", ["ucf101", "folder"])
def test_round_trip_keeps_every_byte_of_every_frame(dataset: Path, tree: Path, tmp_path: Path, form: str) -> None:
    before = read_manifest(dataset)
    annotations = dataset.parent / "annotations" if form == "ucf101" else None
    after = import_rawframes(tree, tmp_path / "out", dataset=form, annotations=annotations).manifest
    for kind in ("rgb", "tg"):
        assert frames(after, kind) == frames(before, kind)
    assert after.header.classes == before.header.classes
    assert after.videos.column("label") == before.videos.column("label")
    assert after.header.gradient == before.header.gradient
    if form == "ucf101":
        assert after.videos.column("subsets") == before.videos.column("subsets")
        assert after.videos.column("group") == before.videos.column("group")
    report = check(str(tmp_path / "out"), deep=True, against=tree)
    assert report.findings == ()
    assert report.num_sources == 8
    export_rawframes(str(tmp_path / "out"), tmp_path / "again")
    for path in tree.rglob("*.jpg"):
        assert (tmp_path / "again" / path.relative_to(tree)).read_bytes() == path.read_bytes()


def test_same_tree_same_bytes(tree: Path, tmp_path: Path) -> None:
    for name, threads in (("one", 1), ("two", 3)):
        import_rawframes(tree, tmp_path / name, dataset="folder", threads=threads)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "two").iterdir())
    assert "dataset.json" in names
    assert ".tgprep" not in names
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_without_gradient(copy: Path, tmp_path: Path) -> None:
    first = import_rawframes(copy, tmp_path / "left-out", dataset="folder", tg=False).manifest
    for path in copy.rglob("tempgrad_*"):
        path.unlink()
    (copy / ".tgprep-export.json").unlink()
    second = import_rawframes(copy, tmp_path / "none", dataset="folder").manifest
    assert first.digest == second.digest
    assert not second.header.gradient.stored
    assert check(str(tmp_path / "none"), deep=True).sound
    # The reference's code needs TG files: export makes them from the JPEG files, as its own script does.
    export_rawframes(str(tmp_path / "none"), tmp_path / "again")
    row = second.videos[0]
    folder = tmp_path / "again" / row.key
    images = [cv2.imread(str(folder / f"img_{n:05d}.jpg")).astype(np.float32) for n in (1, 2)]  # type: ignore[union-attr]
    expected = ((images[0] - images[1] + 255) / 2).astype(np.uint8).astype(int)
    stored = cv2.imread(str(folder / "tempgrad_00001.jpg"))
    assert stored is not None
    assert np.abs(stored.astype(int) - expected).mean() < 2
    back = import_rawframes(tmp_path / "again", tmp_path / "back", dataset="folder").manifest
    assert (back.header.gradient.stored, back.header.gradient.source) == (True, "jpeg")
    assert check(str(tmp_path / "back"), deep=True).sound


def test_broken_videos_fail_with_a_reason(copy: Path, tmp_path: Path) -> None:
    folders = sorted(path for path in copy.glob("*/*") if path.is_dir())
    (folders[0] / "img_00004.jpg").unlink()
    (folders[1] / "tempgrad_00007.jpg").unlink()
    (folders[2] / "img_00002.jpg").write_bytes((folders[2] / "img_00002.jpg").read_bytes()[:-50])
    cv2.imwrite(str(folders[3] / "img_00003.jpg"), np.zeros((20, 20, 3), np.uint8))
    for path in list(folders[4].iterdir())[1:]:
        path.unlink()
    for path in folders[4].iterdir():
        path.rename(folders[4] / "img_00001.jpg")
    run = CliRunner().invoke(
        main, ["import-rawframes", str(copy), str(tmp_path / "out"), "--dataset", "folder", "--json"]
    )
    assert run.exit_code == 1, run.output
    told = json.loads(run.stdout)
    assert (told["num_videos"], told["num_written"], told["num_failed"]) == (8, 3, 5)
    reasons = {entry["path"]: entry["error"] for entry in told["failed"]}
    for folder, reason in zip(
        folders,
        (
            "img file number 4 is missing",
            "tempgrad file",
            "img_00002.jpg is not a complete JPEG file",
            "img_00003.jpg is 20x20",
            "1 frames",
        ),
        strict=False,
    ):
        assert reason in reasons[folder.relative_to(copy).as_posix()]
    assert check(str(tmp_path / "out"), deep=True).sound


def test_numbers_may_begin_at_zero(tmp_path: Path) -> None:
    for number in (0, 1, 2):
        (tmp_path / f"img_{number:05d}.jpg").write_bytes(b"")
    for number in (1, 2):
        (tmp_path / f"tempgrad_{number:05d}.jpg").write_bytes(b"")
    files = find_frames(tmp_path, ["tg"])
    assert [path.name[-5:] for path in files["rgb"]] == ["0.jpg", "1.jpg", "2.jpg"]
    assert [path.name[-5:] for path in files["tg"]] == ["1.jpg", "2.jpg"]
    (tmp_path / "img_2.jpeg").write_bytes(b"")
    with pytest.raises(FramesError, match="same number"):
        find_frames(tmp_path, ["tg"])


def test_an_interrupted_import_continues(tree: Path, tmp_path: Path) -> None:
    whole = import_rawframes(tree, tmp_path / "whole", dataset="folder").manifest

    class StopError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise StopError

    out = tmp_path / "out"
    with pytest.raises(StopError):
        import_rawframes(tree, out, dataset="folder", threads=1, on_progress=stop)
    assert not (out / "dataset.json").exists()
    shard = out / "shard-000000.tar"
    made = shard.stat().st_mtime_ns
    again = import_rawframes(tree, out, dataset="folder").manifest
    assert again.digest == whole.digest
    assert shard.stat().st_mtime_ns == made
    assert not (out / ".tgprep").exists()


def test_mistakes(dataset: Path, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="not empty"):
        export_rawframes(str(dataset), tmp_path / "full")
    with pytest.raises(InputError, match="not empty"):
        import_rawframes(tree, tmp_path / "full", dataset="folder")
    with pytest.raises(InputError, match="holds no frames"):
        import_rawframes(tmp_path / "full", tmp_path / "out")
    with pytest.raises(InputError, match="no such folder"):
        import_rawframes(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(InputError, match="finished data set"):
        import_rawframes(tree, dataset, dataset="folder")
    with pytest.raises(InputError, match="name no written video"):
        export_rawframes(str(dataset), tmp_path / "out", keys=["No/such"])
    broken = Path(shutil.copytree(dataset, tmp_path / "broken"))
    (broken / "shard-000001.tar").write_bytes(b"")
    run = CliRunner().invoke(main, ["export", str(broken), str(tmp_path / "out2")])
    assert run.exit_code == 2
    assert "tgprep check" in run.stderr
    run = CliRunner().invoke(main, ["export", str(dataset), str(tmp_path / "some"), "--keys", "nothing/here"])
    assert run.exit_code == 2


def test_flow_is_imported(dataset: Path, tmp_path: Path) -> None:
    videos = dataset.parent / "videos"
    made = extract_videos(videos, tmp_path / "flow", videos_per_shard=3, flow="dis").manifest
    tree = tmp_path / "tree"
    export_rawframes(made.root, tree)
    after = import_rawframes(tree, tmp_path / "out", dataset="folder").manifest
    assert after.header.settings["flow"] == "dis"
    for kind in ("rgb", "tg", "flow"):
        assert frames(after, kind) == frames(made, kind)
    assert check(after.root, deep=True, against=tree).findings == ()
    run = CliRunner().invoke(main, ["import-rawframes", str(tree), str(tmp_path / "bare"), "--no-flow", "--json"])
    assert json.loads(run.stdout)["flow"] is False
    assert check(str(tmp_path / "bare"), deep=True).findings == ()

    (tree / ".tgprep-export.json").unlink()  # a tree of others, one video of it interrupted
    first = min(path for path in tree.glob("*/*") if path.is_dir())
    (first / "flow_xym_00003.jpg").unlink()
    theirs = import_rawframes(tree, tmp_path / "theirs", dataset="folder").manifest
    assert theirs.header.settings["flow"] == "imported"
    failed = [row for row in theirs.videos if row.status == "failed"]
    assert [(row.path, row.error) for row in failed] == [
        (first.relative_to(tree).as_posix(), "flow_xym file number 3 is missing")
    ]
    assert check(theirs.root, deep=True).findings == ()


def test_a_damaged_shard_is_repaired_from_the_tree(copy: Path, tmp_path: Path) -> None:
    whole = import_rawframes(copy, tmp_path / "out", dataset="folder").manifest
    out = tmp_path / "out"
    shards = {shard.name: (out / shard.name).read_bytes() for shard in whole.shards}
    name = next(iter(shards))
    (out / name).write_bytes(shards[name][:-1] + b"x")
    told = CliRunner().invoke(main, ["check", str(out)])
    assert told.exit_code == 1
    assert f"tgprep check {out} --against DIR --repair" in told.stdout
    mended = CliRunner().invoke(main, ["check", str(out), "--against", str(copy), "--repair"])
    assert mended.exit_code == 0, mended.output
    assert f"repaired  {name}" in mended.stdout
    assert {shard.name: (out / shard.name).read_bytes() for shard in whole.shards} == shards

    (out / name).unlink()
    lost = next(row.path for row in whole.videos if row.shard == name)
    shutil.rmtree(copy / lost)
    refused = CliRunner().invoke(main, ["check", str(out), "--against", str(copy), "--repair"])
    assert refused.exit_code == 1
    assert f"not repaired  {name}: 1 of its videos cannot be extracted: {lost}: cannot be read" in refused.stdout
    assert not (out / name).exists()


def test_findings_come_before_a_refusal_to_repair(dataset: Path, tmp_path: Path) -> None:
    """A data set of another program cannot be repaired; the findings are reported all the same."""
    manifest = read_manifest(dataset)
    out = tmp_path / "out"
    shutil.copytree(dataset, out)
    write_manifest(out, replace(manifest.header, settings={"of": "others"}), manifest.videos, manifest.shards)
    name = manifest.shards[0].name
    (out / name).write_bytes(b"gone")
    words = ["check", str(out), "--against", str(dataset.parent / "videos"), "--repair"]
    for form in ([], ["--json"]):
        refused = CliRunner().invoke(main, [*words, *form])
        assert refused.exit_code == 2
        assert "shard-size" in refused.stdout
        assert name in refused.stdout
        assert "was not made by `tgprep extract` of this version" in refused.stderr
    remote = CliRunner().invoke(main, ["check", "s3://bucket/data", "--against", str(out), "--repair"])
    assert remote.exit_code == 2
    assert "--repair works on a local folder; s3://bucket/data is remote" in remote.stderr
