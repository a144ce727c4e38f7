"""Label splits: parts, groups, files that are read back unchanged."""

from __future__ import annotations

import dataclasses
import io
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from manifests.records import InputError, VideoRow
from manifests.splits.check import check_split
from manifests.splits.label_split import (
    SPLIT_SCHEMA,
    LabelSplit,
    list_splits,
    make_split,
    read_split,
    split_table,
    write_split,
)
from manifests.splits.settings import PARTS, SplitSettings, share
from manifests.table import VideoTable
from tests.manifests.splits.support import check_problems, groups_of, manifest


def test_only_written_videos_take_part() -> None:
    data = manifest({"run": 30}, failed=("run/clip0003", "run/clip0020"))
    split = make_split(data, SplitSettings(percent=100))
    assert len(split) == 28
    assert not {"run/clip0003", "run/clip0020", ""} & set(split.key)
    assert split.labelled.all()


def test_unlabelled_rest() -> None:
    data = manifest({"run": 30})
    every, rest = (make_split(data, SplitSettings(percent=20, unlabelled=name)) for name in ("all", "rest"))
    assert (every.unlabelled.sum(), rest.unlabelled.sum()) == (30, 24)
    assert not (rest.unlabelled & rest.labelled).any()
    assert rest.train.all()
    assert rest.name == "p20-s0-f1-rest"


@pytest.mark.parametrize(
    ("dataset", "labelled_name", "pool_name", "group"),
    [
        ("csv", "a{0}", "b{0}", "film{0}"),  # the user's own groups
        ("ucf101", "v_run_g{0:02d}_c01", "v_run_g{0:02d}_c02", "v_run_g{0:02d}"),
        ("kinetics400", "abcdefghij{0}_000001_000011", "abcdefghij{0}_000021_000031", "abcdefghij{0}"),
    ],
)
@pytest.mark.parametrize("unlabelled", ["all", "rest"])
def test_videos_without_a_label_of_a_held_out_source_are_left_out(
    dataset: str, labelled_name: str, pool_name: str, group: str, unlabelled: str
) -> None:
    own_group = {"ucf101": "g{0:02d}", "kinetics400": ""}.get(dataset, group)
    rows = []
    for number in range(1, 7):
        held = "val" if dataset == "kinetics400" else "test"
        key, subset = f"run/{labelled_name.format(number)}", ("train", held)[number > 4]
        rows.append(VideoRow(key, f"{key}.avi", "run", 0, own_group.format(number), (subset,), "written"))
        key = f"unlabelled/{pool_name.format(number)}"
        rows.append(VideoRow(key, f"{key}.avi", "", -1, group.format(number), ("train",), "written"))
    plain = manifest({"run": 1}, dataset=dataset, subset=lambda number: "train")
    data = dataclasses.replace(plain, videos=VideoTable.from_rows(sorted(rows, key=lambda row: row.key)))
    split = make_split(data, SplitSettings(percent=50, unlabelled=unlabelled))
    pool = {key for key in split.keys_of("unlabelled") if key.startswith("unlabelled/")}
    assert pool == {f"unlabelled/{pool_name.format(number)}" for number in range(1, 5)}
    (note,) = [problem for problem in check_split(split, data) if problem.kind == "left-out"]
    assert (note.level, note.count) == ("note", 2)


def test_official_subsets_become_parts() -> None:
    names = ("train", "train", "val", "test", "unused", "")
    data = manifest({"run": 60}, subset=lambda number: names[number % 6])
    split = make_split(data, SplitSettings(percent=50))
    assert [int(split.part(part).sum()) for part in PARTS] == [10, 20, 10, 10]
    kinetics = dataclasses.replace(data, header=dataclasses.replace(data.header, dataset="kinetics400"))
    split = make_split(kinetics, SplitSettings(percent=50))
    assert [int(split.part(part).sum()) for part in PARTS] == [10, 20, 0, 10]
    assert {int(key[-4:]) % 6 for key in split.keys_of("test")} == {2}  # figures on Kinetics are given on val
    without_test = manifest({"run": 60}, subset=lambda number: "val" if number % 6 == 2 else "train")
    assert make_split(without_test, SplitSettings(percent=50)).test.sum() == 10


def test_set_aside_parts_keep_groups_together_and_every_class() -> None:
    data = manifest({"jump": 31, "run": 60, "wave": 4})
    split = make_split(data, SplitSettings(percent=20, test_percent=25, hold_out_percent=20))
    train, validation, test = (groups_of(data, split, part) for part in ("unlabelled", "validation", "test"))
    assert not train & test
    assert not train & validation
    assert not validation & test
    assert {name for name, _ in train} == {"jump", "run", "wave"}
    assert {name for name, _ in test} == {"jump", "run", "wave"}
    assert abs(int(split.test.sum()) - 95 * 0.25) <= 5
    assert int(split.labelled.sum()) == share(20, int(split.unlabelled.sum()))
    assert not {"groups-in-train-and-test", "groups-across-classes"} & check_problems(split, data)
    assert split.name == "p20-s0-f1-v20-t25"


def test_groups_with_several_classes_are_kept_together() -> None:
    actors = manifest({"jump": 30, "run": 30}, dataset="csv", group=lambda name, number: f"actor{number % 6}")
    split = make_split(actors, SplitSettings(percent=50, test_percent=30, by_group=True))
    by_part = {
        part: {group for _, group in groups_of(actors, split, part)} for part in ("unlabelled", "labelled", "test")
    }
    assert len(by_part["test"]) == 2
    assert by_part["test"] | by_part["unlabelled"] == {f"actor{number}" for number in range(6)}
    assert not by_part["test"] & by_part["unlabelled"]
    assert split.labelled.sum() == 20  # two of four actors, ten clips each
    with pytest.raises(InputError, match="contain several classes"):
        make_split(actors, SplitSettings(percent=50, strategy="stratified", by_group=True))


@pytest.mark.parametrize("strategy", ["random", "stratified"])
def test_by_group_labels_complete_groups(strategy: str) -> None:
    data = manifest({"jump": 30, "run": 60})
    split = make_split(data, SplitSettings(percent=20, strategy=strategy, by_group=True, unlabelled="rest"))
    assert not groups_of(data, split, "labelled") & groups_of(data, split, "unlabelled")
    assert int(split.labelled.sum()) == 18
    assert "groups-partly-labelled" not in check_problems(split, data)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"percent": 1}, "is less than one"),
        ({"percent": 20, "fold": 2}, "has 1 official fold."),
        ({"percent": 20, "test_percent": 10}, "already has a test part of 6 videos"),
    ],
)
def test_drawing_mistakes(values: dict[str, float], message: str) -> None:
    data = manifest({"run": 30}, subset=lambda number: "test" if number < 6 else "train")
    with pytest.raises(InputError, match=message):
        make_split(data, SplitSettings(**values))  # type: ignore[arg-type]


def test_nothing_to_set_aside_or_train() -> None:
    with pytest.raises(InputError, match="No test part of 30 % can be set aside: 1 group in 3"):
        make_split(manifest({"run": 3}), SplitSettings(percent=50, test_percent=30))
    with pytest.raises(InputError, match="no train videos in fold 1"):
        make_split(manifest({"run": 3}, subset=lambda number: "test"), SplitSettings(percent=50))
    with pytest.raises(InputError, match="no written videos"):
        make_split(manifest({"run": 1}, failed=("run/clip0000",)), SplitSettings(percent=50))


def test_a_split_is_read_back_unchanged(tmp_path: Path) -> None:
    data = manifest({"jump": 10, "run": 30}, subset=lambda number: "test" if number < 3 else "train")
    split = make_split(data, SplitSettings(percent=30))
    assert write_split(tmp_path, split) is True
    again = read_split(tmp_path, "p30-s0-f1")
    assert split_table(again).equals(split_table(split), check_metadata=True)
    assert again.provenance["percent"] == "30"
    assert again.provenance["dataset_digest"] == data.digest
    first = (tmp_path / "splits/p30-s0-f1.parquet").read_bytes()
    assert write_split(tmp_path, split) is False
    assert (tmp_path / "splits/p30-s0-f1.parquet").read_bytes() == first
    assert pq.read_schema(tmp_path / "splits/p30-s0-f1.parquet").equals(SPLIT_SCHEMA, check_metadata=False)
    assert os.listdir(tmp_path / "splits") == ["p30-s0-f1.parquet"]  # noqa: PTH208 - no temporary file is left


def test_a_systematic_split_of_a_million_videos_is_read_back(tmp_path: Path) -> None:
    count = 1_000_000
    labelled, none = np.arange(count) % 100 == 0, np.zeros(count, bool)
    keys = tuple(f"c{number // 2500:03d}/v{number:07d}" for number in range(count))
    label = (np.arange(count) // 2500).astype(np.int32)
    split = LabelSplit("large", keys, label, labelled, ~labelled, none, none, {})
    write_split(tmp_path, split)
    assert (tmp_path / "splits/large.parquet").stat().st_size < count
    again = read_split(tmp_path, "large")
    assert again.key == keys
    assert (again.labelled == labelled).all()


def test_another_split_of_the_same_name_needs_overwrite(tmp_path: Path) -> None:
    data = manifest({"run": 30})
    write_split(tmp_path, make_split(data, SplitSettings(percent=30, name="mine")))
    other = make_split(data, SplitSettings(percent=30, seed=5, name="mine"))
    with pytest.raises(InputError, match="seed 0 there, 5 now"):
        write_split(tmp_path, other)
    assert read_split(tmp_path, "mine").provenance["seed"] == "0"
    assert write_split(tmp_path, other, overwrite=True) is True
    assert read_split(tmp_path, "mine").provenance["seed"] == "5"


def test_the_newest_split_is_read_when_none_is_named(tmp_path: Path) -> None:
    data = manifest({"run": 30})
    for age, name in ((3, "b"), (1, "c"), (2, "a"), (2, "d")):
        write_split(tmp_path, make_split(data, SplitSettings(percent=30, name=name)))
        os.utime(tmp_path / "splits" / f"{name}.parquet", (1e9 - age, 1e9 - age))
    (tmp_path / "splits/.tmp-x-e.parquet").touch()
    (tmp_path / "splits/notes.txt").touch()
    assert list_splits(tmp_path) == ("c", "a", "d", "b")
    assert read_split(tmp_path).name == "c"


def test_splits_at_a_url(tmp_path: Path) -> None:
    data = manifest({"run": 30})
    url = f"memory://{tmp_path.name}"
    with pytest.raises(InputError, match="has no split yet"):
        read_split(url)
    assert write_split(url, make_split(data, SplitSettings(percent=30)))
    assert list_splits(url) == ("p30-s0-f1",)
    assert read_split(url).labelled.sum() == 9


def test_reading_mistakes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no split yet"):
        read_split(tmp_path)
    write_split(tmp_path, make_split(manifest({"run": 30}), SplitSettings(percent=30)))
    with pytest.raises(InputError, match=r"No split p20 .*there are: p30-s0-f1"):
        read_split(tmp_path, "p20")
    with pytest.raises(InputError, match="Split name"):
        read_split(tmp_path, "../dataset")
    place = tmp_path / "splits/p30-s0-f1.parquet"
    whole = place.read_bytes()
    place.write_bytes(whole[:-10])
    with pytest.raises(InputError, match="is damaged"):
        read_split(tmp_path)
    pq.write_table(pq.read_table(io.BytesIO(whole)).drop_columns(["test"]), place)
    with pytest.raises(InputError, match=r"columns are missing .*test \(bool\)"):
        read_split(tmp_path)


def test_a_split_checks_itself() -> None:
    split = make_split(manifest({"run": 30}), SplitSettings(percent=30))
    with pytest.raises(ValueError, match="differ in length"):
        dataclasses.replace(split, label=split.label[1:])
    with pytest.raises(ValueError, match="unique and sorted"):
        dataclasses.replace(split, key=split.key[::-1])
