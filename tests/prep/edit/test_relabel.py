"""Relabelling videos: tables, new classes, labels taken and given, what later commands make of it, and refusals."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from manifests.manifest_io import read_header, read_manifest, read_originals
from manifests.records import InputError
from manifests.splits.check import check_split
from manifests.splits.label_split import make_split, read_split, write_split
from manifests.splits.settings import SplitSettings
from manifests.targets.target_file import Targets, read_targets, write_targets
from tests.extraction import tree
from tests.prep.edit.support import facts_in_tars, killed_at_each_step
from tests.prep.support import extract_videos
from tests.reliability import Reliability
from tgprep.check.check import check
from tgprep.check.repair import repair
from tgprep.convert.export_rawframes import export_rawframes
from tgprep.convert.import_rawframes import import_rawframes
from tgprep.convert.materialise import materialise
from tgprep.edit.drop import drop, restore
from tgprep.edit.relabel import relabel
from tgprep.extract.plan import Update
from tgprep.extract.work_folder import exclusive

Copy = Callable[[Path, str], Path]
LIST = "key,label\nclap/v_g00,wave\nclap/v_g01,\nwave/v_g00,bow\nwave/v_g01,wave\n"
NEW = {
    "clap/v_g00": ("wave", 1),
    "clap/v_g01": ("", -1),
    "clap/v_g02": ("clap", 0),
    "wave/v_g00": ("bow", 2),
    "wave/v_g01": ("wave", 1),
}


def listed(folder: Path, text: str = LIST) -> Path:
    (file := folder / "labels.csv").write_text(text)
    return file


def labels_of(data: Path, by: str = "key") -> dict[str, tuple[str, int]]:
    rows = (row for row in read_manifest(data).videos if row.status == "written")
    return {getattr(row, by): (row.class_name, row.label) for row in rows}


def test_the_tables_change_and_everything_follows_them(first_made: Path, tmp_path: Path, copy_of: Copy) -> None:
    data = copy_of(first_made, "data")
    write_split(data, make_split(read_manifest(data), SplitSettings(per_class=1, strategy="per-class", name="old")))
    even = Targets("t", ("clap/v_g00",), np.full((1, 2), 0.5, np.float32), ("clap", "wave"), {})
    write_targets(data, even)
    shards = {path.name: path.read_bytes() for path in data.glob("*.tar")}
    done = relabel(str(data), listed(tmp_path))
    assert (done.changed.num_changed, done.changed.num_same) == (3, 1)
    assert done.moves == {("clap", ""): 1, ("clap", "wave"): 1, ("wave", "bow"): 1}
    assert done.new_classes == ("bow",)
    assert labels_of(data) == NEW
    manifest = read_manifest(data)
    assert manifest.header.classes == ("clap", "wave", "bow")
    assert {path.name: path.read_bytes() for path in data.glob("*.tar")} == shards
    assert "1 of the videos have no label" in (data / "README.md").read_text()
    assert "other-data-set" in {problem.kind for problem in check_split(read_split(data, "old"), manifest)}
    with pytest.raises(InputError, match="targets for other classes"):
        read_targets(data, "t", manifest.header.classes)
    shutil.rmtree(data / "splits")
    write_split(data, make_split(manifest, SplitSettings(per_class=1, strategy="per-class", name="s")))
    split = read_split(data, "s")
    assert dict(zip(split.key, split.label.tolist(), strict=True)) == {key: label for key, (_, label) in NEW.items()}
    report = check(str(data), deep=True)
    assert report.sound, report.findings
    assert any("3 videos have another class or label" in note for note in report.notes)
    # Readers of tars alone see the old labels in the data set, and the new ones in the tars of a split.
    materialise(manifest, split, tmp_path / "plain")
    facts = facts_in_tars(tmp_path / "plain")
    assert {key: (fact["class_name"], fact["label"]) for key, fact in facts.items()} == NEW
    assert facts_in_tars(data)["wave/v_g00"]["class_name"] == "wave"
    # An export and an import have the new ones, although folders have the names of keys.
    export_rawframes(str(data), tmp_path / "frames", threads=1)
    import_rawframes(tmp_path / "frames", tmp_path / "again")
    assert labels_of(tmp_path / "again", by="path") == NEW


def test_a_class_that_is_renamed_as_a_whole_survives_an_export(first_made: Path, tmp_path: Path, copy_of: Copy) -> None:
    data = copy_of(first_made, "data")
    text = "key,label\n" + "".join(f"{key},{'applaud' if key.startswith('clap') else ''}\n" for key in NEW)
    relabel(str(data), listed(tmp_path, text))
    export_rawframes(str(data), tmp_path / "frames", threads=1)
    import_rawframes(tmp_path / "frames", tmp_path / "again")
    assert labels_of(tmp_path / "again", by="path") == labels_of(data)
    assert set(labels_of(data).values()) == {("applaud", 2), ("", -1)}


def test_back_and_forth_gives_the_same_tables(first_made: Path, tmp_path: Path, copy_of: Copy) -> None:
    data = copy_of(first_made, "data")
    before = read_manifest(data).digest
    to_wave = listed(tmp_path, "key,label\nclap/v_g00,wave\nclap/v_g01,1\n")
    relabel(str(data), to_wave)
    assert relabel(str(data), to_wave).changed.num_changed == 0
    drop(str(data), ["clap/v_g00"])
    restore(str(data))
    assert labels_of(data)["clap/v_g00"] == ("wave", 1)  # not the class of its shard
    assert check(str(data), deep=True).sound
    relabel(str(data), listed(tmp_path, "clap/v_g00.avi 0\nclap/v_g01.avi 0\n"))
    assert read_manifest(data).digest == before
    assert len(read_originals(read_manifest(data))) == 0
    assert not (data / "originals.parquet").exists()


def test_updates_and_repairs_keep_the_labels(first_made: Path, tmp_path: Path, copy_of: Copy) -> None:
    data = copy_of(first_made, "data")
    relabel(str(data), listed(tmp_path))
    videos = Path(shutil.copytree(first_made.parent / "videos", tmp_path / "videos"))
    shutil.copy(videos / "clap" / "v_g00.avi", videos / "clap" / "v_g09.avi")
    extract_videos(videos, data, update=Update(add=True), videos_per_shard=2)
    assert labels_of(data) == {**NEW, "clap/v_g09": ("clap", 0)}
    assert check(str(data), deep=True).sound
    # A repair makes the bytes of relabelled videos, and of one that was dropped, too.
    shards = sorted({row.shard for row in read_manifest(data).videos if row.key in ("clap/v_g00", "wave/v_g00")})
    drop(str(data), ["wave/v_g00"])
    for shard in shards:
        (data / shard).write_bytes(b"")
    assert repair(data, videos, shards).repaired == tuple(shards)
    assert check(str(data), deep=True).sound
    assert read_header(data).changes[0]["change"] == "relabel"


def test_what_is_refused_changes_nothing(first_made: Path, tmp_path: Path, copy_of: Copy) -> None:
    data = copy_of(first_made, "data")
    before = tree(data)
    many = "".join(f"clap/none{number:02d},wave\n" for number in range(12))
    for text, message in (
        ("key,label\nclap/v_g00,wave\n" + many, r"12 of 13 lines name no video .*line 3 \('clap/none00"),
        ("key,label\nclap/v_g00,wave\nclap/v_g00,clap\n", "listed before, in line 2"),
        ("key,label\nwave/broken,clap\n", "none of its|1 of 1 line names"),
        ("key,label\nclap/v_g00,2\n", "label 2, and .* has 2 classes"),
        ("key,label\nclap/v_g00,-1\n", "expected a class name, or a whole number"),
        ("clap/v_g00\n", "no label"),
        (f"key,label\nclap/v_g00,{'x' * 1025}\n", "cannot be the name of a class"),
        ("key,label\nother/x,clap\n", "none of its 1 line names a video"),
        ("", "empty|no line"),
    ):
        with pytest.raises(InputError, match=message):
            relabel(str(data), listed(tmp_path, text))
        assert tree(data) == before, message
    assert relabel(str(data), listed(tmp_path), dry_run=True).changed.num_changed == 3
    assert tree(data) == before
    with exclusive(data), pytest.raises(InputError, match="in use by process"):
        relabel(str(data), listed(tmp_path))


def test_spellings_and_subsets_of_a_list(first_made: Path, tmp_path: Path, copy_of: Copy) -> None:
    data = copy_of(first_made, "data")
    text = "video_path,class,split\nclap/v_g00.avi,WAVE,test\nclap/v_g01.avi,clapp,train\nclap/v_g02.avi,Clapp,val\n"
    done = relabel(str(data), listed(tmp_path, text))
    assert done.new_classes == ("Clapp",)
    assert {key: labels_of(data)[key] for key in list(NEW)[:3]} == {
        "clap/v_g00": ("wave", 1),
        "clap/v_g01": ("Clapp", 2),
        "clap/v_g02": ("Clapp", 2),
    }
    assert any("is clap meant?" in note for note in done.notes)
    assert any("count within their class" in note for note in done.notes)


@pytest.mark.long
def test_a_kill_at_each_step_leaves_the_old_state_or_the_new(
    first_made: Path, tmp_path: Path, reliability: Reliability
) -> None:
    file, place, num_kills = listed(tmp_path), tmp_path / "data", 0
    shutil.copytree(first_made, whole := tmp_path / "whole")
    relabel(str(whole), file)
    wanted, states = tree(whole), (read_header(first_made), read_header(whole))

    def fresh() -> None:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(first_made, place)

    for step in killed_at_each_step(lambda: relabel(str(place), file), fresh):
        num_kills += 1
        assert read_manifest(place).header in states, step
        assert check(str(place)).sound
        relabel(str(place), file)
        assert tree(place) == wanted, step
    what = "kill -9 before each change of the folder by `tgprep relabel`, then the same command"
    reliability.record("Data set", what, num_kills=num_kills, differing_files=0)
