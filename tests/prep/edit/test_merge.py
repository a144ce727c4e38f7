"""Merging data sets: shards with their bytes, labels by class name, what is refused before anything is written, and kills."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from manifests.manifest_io import read_header, read_manifest, read_originals, write_manifest
from manifests.records import InputError, ManifestHeader
from manifests.splits.label_split import make_split, read_split, write_split
from manifests.splits.settings import SplitSettings
from tests.extraction import tree
from tests.prep.edit.support import facts_in_tars, killed_at_each_step
from tests.prep.support import extract_videos
from tests.reliability import Reliability
from tgprep.check.check import check
from tgprep.check.repair import repair
from tgprep.convert.materialise import materialise
from tgprep.edit.merge import merge

Copy = Callable[[Path, str], Path]


def test_a_merged_data_set_is_sound_and_has_all_videos(first_made: Path, second_made: Path, tmp_path: Path) -> None:
    before = tree(first_made), tree(second_made)
    merged = merge([str(first_made), str(second_made)], tmp_path / "m")
    assert (tree(first_made), tree(second_made)) == before
    report = check(str(tmp_path / "m"), deep=True)
    assert report.sound, report.findings
    manifest = read_manifest(tmp_path / "m")
    assert manifest.header == merged.manifest.header
    assert manifest.header.classes == ("clap", "wave", "bow")
    counts = manifest.header.num_written, manifest.header.num_failed, manifest.header.num_skipped
    assert counts == (9, 1, 1)  # notes.xyz is in both
    rows = {row.key: (row.class_name, row.label) for row in manifest.videos if row.key}
    assert rows["wave/v_g00"] == rows["wave/v_g05"] == ("wave", 1)
    assert rows["bow/v_g00"] == ("bow", 2)
    # Shards have the bytes that they had, in the order of the data sets, and are the same files.
    sources = [*sorted(first_made.glob("*.tar")), *sorted(second_made.glob("*.tar"))]
    shards = sorted((tmp_path / "m").glob("*.tar"))
    assert [shard.name for shard in shards] == [f"shard-{number:06d}.tar" for number in range(len(sources))]
    assert all(shard.samefile(source) for shard, source in zip(shards, sources, strict=True))
    assert (merged.num_linked, merged.num_copied) == (len(shards), 0)
    # dataset.json says from what.
    assert [change["digest"] for change in manifest.header.changes] == [
        read_manifest(root).digest for root in (first_made, second_made)
    ]
    assert any("1 skipped" in note for note in merged.notes)
    assert not (tmp_path / "m" / ".tgprep").exists()


def test_labels_of_the_tables_count_and_the_tars_keep_theirs(
    first_made: Path, second_made: Path, tmp_path: Path
) -> None:
    merge([str(first_made), str(second_made)], tmp_path / "m")
    manifest = read_manifest(tmp_path / "m")
    assert facts_in_tars(tmp_path / "m")["wave/v_g05"]["label"] == 1
    assert facts_in_tars(tmp_path / "m")["bow/v_g00"]["label"] == 0  # bow is 2 in the table
    assert set(read_originals(manifest).videos.column("key")) == {"bow/v_g00", "bow/v_g01"}
    # Plain tars of a split have the labels of the table.
    write_split(tmp_path / "m", make_split(manifest, SplitSettings(percent=50.0, test_percent=20.0, name="s")))
    materialise(manifest, read_split(tmp_path / "m", "s"), tmp_path / "plain")
    labels = {row.key: (row.class_name, row.label) for row in manifest.videos if row.status == "written"}
    facts = facts_in_tars(tmp_path / "plain")
    assert {key: (fact["class_name"], fact["label"]) for key, fact in facts.items()} == labels


def test_a_merge_of_merges_and_its_repair(first_made: Path, second_made: Path, tmp_path: Path) -> None:
    """bow is renumbered twice; a damaged shard gets its bytes again from the videos of both."""
    merge([str(first_made), str(second_made)], tmp_path / "m")
    empty = tmp_path / "none"
    extract_videos(shutil.copytree(second_made.parent / "videos" / "bow", tmp_path / "v" / "Zoom").parent, empty)
    merge([str(empty), str(tmp_path / "m")], tmp_path / "mm", copy=True)
    manifest = read_manifest(tmp_path / "mm")
    assert manifest.header.classes == ("Zoom", "clap", "wave", "bow")
    assert len(manifest.header.changes) == 4
    shard = next(row.shard for row in manifest.videos if row.key == "bow/v_g00")
    os.truncate(tmp_path / "mm" / shard, 2000)
    assert not check(str(tmp_path / "mm")).sound
    for videos in (first_made, second_made):
        shutil.copytree(videos.parent / "videos", tmp_path / "all", dirs_exist_ok=True)
    assert repair(tmp_path / "mm", tmp_path / "all", [shard]).repaired == (shard,)
    assert check(str(tmp_path / "mm"), deep=True).sound


def test_copies_share_nothing_and_are_compared_with_their_sha256(
    first_made: Path, second_made: Path, tmp_path: Path, copy_of: Copy
) -> None:
    merge([str(first_made), str(second_made)], tmp_path / "m", copy=True)
    assert all(shard.stat().st_nlink == 1 for shard in (tmp_path / "m").glob("*.tar"))
    damaged = copy_of(second_made, "damaged")
    with (damaged / "shard-000001.tar").open("r+b") as file:
        file.seek(3000)
        file.write(b"\1\2\3")
    with pytest.raises(InputError, match=r"shard-000001\.tar: sha256 .* expected"):
        merge([str(first_made), str(damaged)], tmp_path / "n", copy=True)
    assert not (tmp_path / "n" / "dataset.json").exists()


def test_what_is_refused_writes_nothing(first_made: Path, second_made: Path, tmp_path: Path, copy_of: Copy) -> None:
    a, b = str(first_made), str(second_made)
    other = copy_of(second_made, "other")
    header = read_header(other)
    manifest = read_manifest(other)
    write_manifest(other, header_with(header, quality=50, videos_per_shard=7), manifest.videos, manifest.shards)
    (short := copy_of(second_made, "short")).joinpath("shard-000000.tar").unlink()
    linked = copy_of(second_made, "linked")
    (linked / "shard-000000.tar").rename(tmp_path / "secret.tar")
    (linked / "shard-000000.tar").symlink_to(tmp_path / "secret.tar")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    extracting = tmp_path / "extracting" / ".tgprep"
    extracting.mkdir(parents=True)
    (extracting / "plan.json").write_text("{}")
    (extracting / "lock").write_text("")
    before = tree(tmp_path)
    for roots, out, message in (
        ([a], "m", "two data sets or more"),
        ([a, a], "m", r"6 videos have the key or the path .*clap/v_g00, clap/v_g01.*They are the same data set"),
        ([a, b, a], "m", r"6 videos have the key"),
        ([a, str(other)], "m", r"(?s)other settings.*quality +95 +50"),
        ([a, str(short)], "m", r"shard-000000\.tar is missing"),
        ([a, str(linked)], "m", "leads out of"),
        ([a, b], "full", "is not empty"),
        ([a, b], "other", "holds another data set"),
        ([a, b], "extracting", "unfinished extraction"),
        ([str(other), a], "other/m", "lies in the data set"),
        ([str(other), a], ".", "or holds it"),
        ([a, str(tmp_path / "none")], "m", "No data set at"),
    ):
        with pytest.raises(InputError, match=message):
            merge(roots, tmp_path / out)
        (extracting / "lock").write_text("")
        assert tree(tmp_path) == before, message
        assert not (tmp_path / "m").exists()


def header_with(header: ManifestHeader, **settings: int | str) -> ManifestHeader:
    return replace(header, settings={**header.settings, **settings})


def test_what_does_not_matter_may_differ(second_made: Path, first_made: Path, tmp_path: Path, copy_of: Copy) -> None:
    other = copy_of(second_made, "other")
    manifest = read_manifest(other)
    header = header_with(manifest.header, videos_per_shard=7, on_damage="fail")
    write_manifest(other, header, manifest.videos, manifest.shards)
    merged = merge([str(other), str(first_made)], tmp_path / "m")
    assert merged.manifest.header.settings["on_damage"] == "keep"
    assert check(str(tmp_path / "m")).sound


def test_the_same_merge_again_changes_nothing(first_made: Path, second_made: Path, tmp_path: Path) -> None:
    roots = [str(first_made), str(second_made)]
    merge(roots, tmp_path / "m")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "m").iterdir()}
    again = merge(roots, tmp_path / "m")
    assert (again.num_linked, again.num_copied) == (0, 0)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "m").iterdir()} == before
    with pytest.raises(InputError, match="holds another data set"):
        merge(roots[::-1], tmp_path / "m")


def killed(roots: list[str], out: Path, copy: bool, every: int) -> int:
    """Merge after a kill at each step; give the number of kills."""
    merge(roots, whole := out.with_name("whole"), copy=copy)
    wanted, num_kills = tree(whole), 0
    run = killed_at_each_step(
        lambda: merge(roots, out, copy=copy), lambda: shutil.rmtree(out, ignore_errors=True), every
    )
    for step in run:
        num_kills += 1
        if (out / "dataset.json").exists():
            assert check(str(out)).sound, step
        else:
            with pytest.raises(InputError, match=r"unfinished|No data set|holds no data set"):
                read_manifest(out)
        merge(roots, out, copy=copy)
        assert tree(out) == wanted, step
    return num_kills


def test_a_kill_leaves_no_half_of_a_data_set(first_made: Path, second_made: Path, tmp_path: Path) -> None:
    assert killed([str(first_made), str(second_made)], tmp_path / "m", False, every=9) > 3


@pytest.mark.long
@pytest.mark.parametrize("copy", [False, True])
def test_a_kill_at_each_step_leaves_no_half_of_a_data_set(
    first_made: Path, second_made: Path, tmp_path: Path, copy: bool, reliability: Reliability
) -> None:
    num_kills = killed([str(first_made), str(second_made)], tmp_path / "m", copy, every=1)
    what = "kill -9 before each change of the folder by `tgprep merge`, then the same command"
    reliability.record("Data set", what, num_kills=num_kills, differing_files=0)


def test_an_unfinished_merge_is_nobody_elses_folder(first_made: Path, second_made: Path, tmp_path: Path) -> None:
    roots, out = [str(first_made), str(second_made)], tmp_path / "m"
    steps = killed_at_each_step(lambda: merge(roots, out), lambda: shutil.rmtree(out, ignore_errors=True), every=5)
    for _ in steps:
        if (out / ".tgprep" / "merge.json").exists() and list(out.glob("*.tar")):
            break
    steps.close()  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="unfinished merge"):
        extract_videos(first_made.parent / "videos", out)
    with pytest.raises(InputError, match="unfinished merge of other data sets"):
        merge(roots[::-1], out)
    with pytest.raises(InputError, match="run the same `tgprep merge` command again"):
        read_manifest(out)
