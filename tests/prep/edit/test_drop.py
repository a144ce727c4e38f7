"""Dropping videos and restoring them: tables, readers, later extractions and merges, refusals, and kills."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from manifests.manifest_io import read_header, read_manifest, read_originals
from manifests.records import InputError
from manifests.splits.check import check_split
from manifests.splits.label_split import make_split, read_split, write_split
from manifests.splits.settings import SplitSettings
from tests.extraction import tree
from tests.prep.edit.support import facts_in_tars, killed_at_each_step
from tests.prep.support import extract_videos, moving_square, write_video
from tests.reliability import Reliability
from tgprep.check.check import check
from tgprep.convert.export_rawframes import export_rawframes
from tgprep.convert.materialise import materialise
from tgprep.duplicates.pairs import find_pairs
from tgprep.edit.drop import drop, restore
from tgprep.edit.merge import merge
from tgprep.extract.plan import Update
from tgprep.extract.work_folder import exclusive
from tgprep.view.preview import write_preview

Copy = Callable[[Path, str], Path]
GONE = ["clap/v_g01", "wave/broken"]


def split_of(data: Path, name: str = "s") -> None:
    manifest = read_manifest(data)
    write_split(data, make_split(manifest, SplitSettings(per_class=1, strategy="per-class", name=name)))


def test_a_dropped_video_is_in_no_reader_and_check_knows_it(first_made: Path, tmp_path: Path, copy_of: Copy) -> None:
    data = copy_of(first_made, "data")
    split_of(data)
    shards = {path.name: path.read_bytes() for path in data.glob("*.tar")}
    changed = drop(str(data), [key.upper() for key in GONE])  # case does not count
    assert (changed.num_changed, changed.num_same, changed.splits) == (2, 0, ("s",))
    manifest = read_manifest(data)
    keys = set(manifest.videos.column("key")) - {""}
    assert not keys & set(GONE)
    assert (manifest.header.num_written, manifest.header.num_failed, manifest.header.num_skipped) == (4, 0, 1)
    assert {path.name: path.read_bytes() for path in data.glob("*.tar")} == shards
    # The old split is refused, for its state and for the video.
    kinds = {problem.kind for problem in check_split(read_split(data, "s"), manifest)}
    assert {"other-data-set", "unknown-videos"} <= kinds
    with pytest.raises(InputError, match="must not be used"):
        materialise(manifest, read_split(data, "s"), tmp_path / "plain")
    shutil.rmtree(data / "splits")
    split_of(data)
    report = check(str(data), deep=True)
    assert report.sound, report.findings
    assert any("2 videos were dropped" in note for note in report.notes)
    # Readers: plain tars of a split, frames, page, near-copies.
    materialise(manifest, read_split(data, "s"), tmp_path / "plain")
    assert set(facts_in_tars(tmp_path / "plain")) == keys
    assert GONE[0] in facts_in_tars(data)  # as docs/editing.md says
    export_rawframes(str(data), tmp_path / "frames", threads=1)
    assert {f"{path.parent.name}/{path.name}" for path in (tmp_path / "frames").glob("*/v_*")} == keys
    write_preview(str(data), tmp_path / "page.html")
    assert GONE[0] not in (tmp_path / "page.html").read_text()
    assert not {key for pair in find_pairs(manifest) for key in (pair.first, pair.second)} & set(GONE)


def test_dropping_all_of_a_shard(first_made: Path, copy_of: Copy) -> None:
    data = copy_of(first_made, "data")
    manifest = read_manifest(data)
    shard = manifest.shards[0].name
    drop(str(data), [row.key for row in manifest.videos if row.shard == shard])
    assert check(str(data), deep=True).sound
    (data / shard).write_bytes(b"")  # its bytes are looked at, although nothing reads them
    assert not check(str(data), quick=True).sound


def test_restore_gives_the_tables_back(first_made: Path, copy_of: Copy) -> None:
    data = copy_of(first_made, "data")
    split_of(data)
    before = tree(data)
    drop(str(data), GONE)
    drop(str(data), ["clap/v_g00"])
    assert restore(str(data), ["clap/v_g00"]).num_changed == 1
    assert read_manifest(data).header.num_written == 4
    again = restore(str(data))
    assert (again.num_changed, again.manifest.header.num_failed) == (2, 1)
    assert {name: tree(data)[name] for name in before if name != "dataset.json"} == {
        name: digest for name, digest in before.items() if name != "dataset.json"
    }
    assert not (data / "originals.parquet").exists()
    report = check(str(data), deep=True)  # the split counts again
    assert report.sound
    assert [change["change"] for change in read_header(data).changes] == ["drop", "drop", "restore", "restore"]


def test_an_update_leaves_dropped_videos_out(first_made: Path, tmp_path: Path, copy_of: Copy) -> None:
    data = copy_of(first_made, "data")
    videos = Path(shutil.copytree(first_made.parent / "videos", tmp_path / "videos"))
    drop(str(data), GONE)
    assert not any("--add" in note for note in extract_videos(videos, data, videos_per_shard=2).notes)
    assert extract_videos(videos, data, update=Update(add=True), videos_per_shard=2).already_finished
    # A new file whose name gives the key of a dropped one gets another key: the shards have that one.
    write_video(videos / "clap" / "v g01.avi", moving_square(4, 48, 32))
    for name in ("v_g01.avi", "v_g02.avi"):
        (videos / "clap" / name).unlink()
    outcome = extract_videos(videos, data, update=Update(add=True, retry_failed=True), videos_per_shard=2)
    keys = [row.key for row in outcome.manifest.videos if row.path == "clap/v g01.avi"]
    assert len(keys) == 1
    assert keys[0].startswith("clap/v_g01_")
    assert set(read_originals(outcome.manifest).videos.column("key")) == set(GONE)
    assert read_header(data).changes[0]["change"] == "drop"
    assert check(str(data), deep=True).sound


def test_dropped_videos_clash_with_nothing_in_a_merge(
    first_made: Path, second_made: Path, tmp_path: Path, copy_of: Copy
) -> None:
    first, same, second = copy_of(first_made, "first"), copy_of(first_made, "same"), str(second_made)
    everything = [row.key for row in read_manifest(first).videos if row.key]
    drop(str(first), everything[:3])
    drop(str(same), everything[3:])
    merged = merge([str(first), str(same), second], tmp_path / "m").manifest
    assert merged.header.num_written == 9
    assert check(str(tmp_path / "m"), deep=True).sound
    with pytest.raises(
        InputError, match=r"6 of the videos to restore have the key or path of another one: .*clap/v_g00"
    ):
        restore(str(tmp_path / "m"))
    # A key that was dropped twice cannot come back twice.
    drop(str(tmp_path / "m"), everything[:1])
    with pytest.raises(InputError, match="1 of the videos to restore"):
        restore(str(tmp_path / "m"), everything[:1])
    assert check(str(tmp_path / "m"), deep=True).sound


def test_what_is_refused_changes_nothing(first_made: Path, copy_of: Copy) -> None:
    data = copy_of(first_made, "data")
    before = tree(data)
    everything = [row.key for row in read_manifest(data).videos if row.key]
    unknown = [f"clap/none{number:02d}" for number in range(12)]
    for keys, message in (
        (["clap/v_g00", *unknown], r"12 of 13 name no video .*'clap/none00', .*'clap/none09', …\. Nothing was changed"),
        (["notes.xyz", ""], "name no video"),
        (everything, "none would be left"),
    ):
        with pytest.raises(InputError, match=message):
            drop(str(data), keys)
        assert tree(data) == before
    with pytest.raises(InputError, match="1 of 1 name no video"):
        restore(str(data), ["clap/none"])
    assert restore(str(data), ["clap/v_g00"]).num_changed == 0
    assert drop(str(data), GONE, dry_run=True).num_changed == 2
    assert tree(data) == before
    with exclusive(data), pytest.raises(InputError, match="in use by process"):
        drop(str(data), GONE)
    assert tree(data) == before


def killed(data: Path, work: Path, every: int) -> int:
    """Drop after a kill at each step; give the number of kills."""
    shutil.copytree(data, whole := work / "whole")
    drop(str(whole), GONE)
    wanted, old, place, num_kills = tree(whole), read_header(data), work / "data", 0

    def fresh() -> None:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(data, place)

    for step in killed_at_each_step(lambda: drop(str(place), GONE), fresh, every):
        num_kills += 1
        state = read_manifest(place)
        assert state.header in (old, read_header(whole)), step
        assert check(str(place)).sound
        assert drop(str(place), GONE).num_changed + len(read_originals(state)) == 2
        assert tree(place) == wanted, step
    return num_kills


def test_a_kill_leaves_the_old_state_or_the_new(first_made: Path, tmp_path: Path) -> None:
    assert killed(first_made, tmp_path, every=9) > 1


@pytest.mark.long
def test_a_kill_at_each_step_leaves_the_old_state_or_the_new(
    first_made: Path, tmp_path: Path, reliability: Reliability
) -> None:
    num_kills = killed(first_made, tmp_path, every=1)
    what = "kill -9 before each change of the folder by `tgprep drop`, then the same command"
    reliability.record("Data set", what, num_kills=num_kills, differing_files=0)
