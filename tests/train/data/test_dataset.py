"""`open_dataset`: the trainer's own clips, as a map-style dataset for any loader."""

from __future__ import annotations

import doctest
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import tgtrain
from manifests.manifest_io import read_manifest
from manifests.splits.label_split import make_split, read_split, write_split
from manifests.splits.settings import SplitSettings
from tests.prep.support import number_of
from tests.train.data.support import CLIPS, batches_of, equal, extract_all, read_in_processes
from tests.train.support import setup_of
from tgtrain import ClipDataset, InputError, open_dataset
from tgtrain.data import dataset as module
from tgtrain.data.clip import plan_eval

OVERRIDES = ("data.area=[0.7, 1.0]", "runtime.seed=5")


@pytest.fixture(scope="module", params=["frames", "video"])
def extracted(videos: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A data set of real videos whose frames show their number, in both forms of a store."""
    out = tmp_path_factory.mktemp("api") / "dataset"
    manifest = extract_all(videos, out, store=request.param)
    settings = SplitSettings(percent=50, strategy="stratified", test_percent=50)
    write_split(out, make_split(manifest, settings))
    return out


def test_examples_in_the_documentation_hold(data_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data_set.parent)
    data_set.rename("dataset")
    try:
        assert doctest.testmod(module, raise_on_error=True).attempted == 6
    finally:
        Path("dataset").rename(data_set)


@pytest.mark.parametrize("part", ["labelled", "unlabelled"])
def test_clips_are_those_of_the_trainer(data_set: Path, part: str) -> None:
    setup = setup_of(data_set, *OVERRIDES)
    clips = open_dataset(data_set, part=part, seed=5, **CLIPS)  # type: ignore[arg-type]
    index_of = {clips.key(index): index for index in range(len(clips))}
    seen = dict.fromkeys(index_of, 0)
    for batch in batches_of(setup, 6):
        rows = getattr(batch, part)
        for row, key in enumerate(rows.keys):
            clips.set_epoch(seen[key])
            item = clips[index_of[key]]
            assert torch.equal(item["rgb"], rows.rgb[row])
            assert torch.equal(item["tg"], rows.tg[row])
            assert (item["label"], item["role"]) == (rows.labels[row], part)
            seen[key] += 1
    assert set(seen) == set(index_of)
    assert min(seen.values()) >= 2


@pytest.mark.parametrize("crop", ["centre", "three"])
def test_views_are_those_of_a_test(data_set: Path, crop: str) -> None:
    setup = setup_of(data_set, "data.test_size=32")
    settings = {**CLIPS, "num_clips": 2, "sampling": "uniform", "crop": crop}
    clips = open_dataset(data_set, part="test", **settings)
    for index, number in enumerate(setup.videos("test")):
        stored, item = setup.reader.index[number], clips[index]
        plans = plan_eval(*(stored.num_frames, stored.height, stored.width), setup.clip, 2, 3 if crop == "three" else 1)
        views = setup.reader.read_views(number, plans)
        assert np.array_equal(item["rgb"], [view.rgb for view in views])
        assert np.array_equal(item["tg"], [view.tg for view in views])
        assert item["frames"].tolist() == [list(plan.frames) for plan in plans for _ in plan.boxes]


def test_frames_are_those_that_are_named(extracted: Path) -> None:
    """The pictures show their numbers; a clip that is longer than its video wraps around, as the trainer's."""
    how: dict[str, Any] = {"part": "all", "crop": "none", "size": None}
    clips = open_dataset(extracted, **how, clip_frames=20, interval=3, seed=1)
    full = open_dataset(extracted, **how, sampling="full")
    every_third = open_dataset(extracted, **how, sampling="full", interval=3, streams="rgb")
    row_of = {row.key: row for row in read_manifest(extracted).videos}
    for index, (item, video, thirds) in enumerate(zip(clips, full, every_third, strict=True)):
        row = row_of[clips.key(index)]
        assert video["rgb"].shape == video["tg"].shape == (row.num_frames, row.height, row.width, 3)
        usable = row.num_frames - 1
        first = int(item["frames"][0])
        assert item["frames"].tolist() == [(first + 3 * k) % usable for k in range(20)]
        for frames, pictures in ((item["frames"], item["rgb"]), (video["frames"], video["rgb"])):
            assert [number_of(picture) for picture in pictures.numpy()] == frames.tolist()
        assert video["frames"].tolist() == list(range(row.num_frames))
        assert torch.equal(thirds["rgb"], video["rgb"][::3])
        assert "tg" not in thirds
        assert torch.equal(video["tg"][-1], video["tg"][-2])  # the last frame has no TG
        before, after = video["rgb"][:-1].int(), video["rgb"][1:].int()
        assert ((before - after + 255) // 2 - video["tg"][:-1].int()).abs().float().mean() < 2


def test_any_size_and_shape(extracted: Path) -> None:
    shapes = [tuple(item["rgb"].shape) for item in open_dataset(extracted, part="all", crop="none", size=20)]
    assert shapes == [(8, 20, 36, 3), (8, 20, 36, 3), (8, 20, 30, 3), (8, 20, 36, 3)]
    item = open_dataset(extracted, part="all", num_clips=3, clip_frames=2, interval=1, size=16)[0]
    assert item["rgb"].shape == item["tg"].shape == (3, 2, 16, 16, 3)
    firsts = item["frames"][:, 0].tolist()
    assert firsts == sorted(firsts)
    centred = open_dataset(extracted, part="all", crop="centre", size=16, seed=2)
    assert torch.equal(centred[1]["frames"], open_dataset(extracted, part="all", size=16, seed=2)[1]["frames"])


def test_parts_and_roles(data_set: Path) -> None:
    split = read_split(data_set)
    for part in ("labelled", "unlabelled", "train", "test"):
        clips = open_dataset(data_set, split.name, part)  # type: ignore[arg-type]
        assert [clips.key(index) for index in range(len(clips))] == split.keys_of(part)
        assert clips.labels.tolist() == split.label[split.part(part)].tolist()
    every = open_dataset(data_set, part="all")
    assert [every.key(index) for index in range(len(every))] == list(split.key)
    roles = {every.key(index): every.role(index) for index in range(len(every))}
    assert {key for key, role in roles.items() if role == "labelled"} == set(split.keys_of("labelled"))
    assert {key for key, role in roles.items() if role == "test"} == set(split.keys_of("test"))
    assert every.classes == ("class0", "class1", "class2")


def test_forked_loader_processes_read_the_same(extracted: Path) -> None:
    """OpenCV's threads, which this process has started, are not there after a fork."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(4)
    cv2.resize(np.zeros((1080, 1920, 3), np.uint8), (1600, 900))
    try:
        read_in_processes(extracted, "fork")
    finally:
        cv2.setNumThreads(before)


def test_spawned_loader_processes_read_the_same(data_set: Path) -> None:
    read_in_processes(data_set, "spawn")


def test_default_collate_and_samplers(data_set: Path) -> None:
    clips = open_dataset(data_set, **CLIPS)
    batch = next(iter(DataLoader(clips, batch_size=3, shuffle=True)))
    assert batch["rgb"].shape == (3, 4, 32, 32, 3)
    assert batch["frames"].shape == (3, 4)
    assert batch["role"] == [
        "labelled" if key in read_split(data_set).keys_of("labelled") else "unlabelled" for key in batch["key"]
    ]
    copy: ClipDataset = pickle.loads(pickle.dumps(clips))
    assert equal(copy[-1], clips[len(clips) - 1])
    with pytest.raises(IndexError):
        clips[len(clips)]
    with pytest.raises(InputError, match="set_epoch: got -1"):
        clips.set_epoch(-1)


def test_the_package_loads_no_torch() -> None:
    code = "import sys, tgtrain; assert not {'torch', 'numpy'} & set(sys.modules); from tgtrain import InputError; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'open_data_set'"):
        _ = tgtrain.open_data_set


def test_a_transform_sees_the_item(data_set: Path) -> None:
    clips = open_dataset(data_set, transform=lambda item: (item["rgb"].float() / 255, item["label"]), **CLIPS)
    pixels, labels = next(iter(DataLoader(clips, batch_size=2)))
    assert pixels.shape == (2, 4, 32, 32, 3)
    assert labels.shape == (2,)
    for wrong, what in ((lambda item: None, "None"), (lambda item: item["key"], "a str"), (lambda item: 3, "a int")):
        with pytest.raises(InputError, match=f"transform returned {what} for class0/v_00, expected a dict"):
            open_dataset(data_set, transform=wrong, **CLIPS)[0]


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"root": "nowhere"}, "No data set at nowhere: the folder does not exist"),
        ({"split": "p1"}, "No split p1 in .*; there are: p50"),
        ({"part": "trian"}, r"part 'trian' is unknown; split p50\S* has labelled \(6\), unlabelled \(12\), train \(12\), test \(6\), all \(18\)"),
        ({"part": "validation"}, "part 'validation' has no videos in it"),
        ({"clip_frames": 0}, "data.clip_frames .*got 0"),
        ({"clip_frames": 2.5, "interval": -1}, r"(?s)data.clip_frames.*got 2.5.*data.interval.*got -1"),
        ({"num_clips": 0}, "clips_per_video: got 0"),
        ({"size": 3}, "data.size .*got 3"),
        ({"size": None}, "size: got None, crop 'random' expects pixels"),
        ({"sampling": "dense"}, "sampling: got 'dense', expected one of random, uniform, full"),
        ({"crop": "random", "sampling": "uniform"}, "crop: got 'random', which draws as in training; sampling 'uniform' takes"),
        ({"crop": "five"}, "crop: got 'five', expected one of random, centre, three, none"),
        ({"sampling": "full", "num_clips": 2}, "num_clips: got 2, sampling 'full' has one clip"),
        ({"streams": "flow"}, "streams: got 'flow', expected one of rgb, tg"),
        ({"streams": ()}, r"streams: got \(\), expected"),
        ({"transform": 3}, "transform: got 3, expected a function"),
        ({"seed": -1}, "runtime.seed .*got -1"),
        ({"area": (0.5, 0.1)}, "setting area"),
    ],
)  # fmt: skip
def test_mistakes_are_one_kind_of_error(data_set: Path, keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_dataset(**{"root": data_set, **keywords})


def test_damage_names_the_sample_in_a_loader_too(tmp_path: Path, data_set: Path) -> None:
    clips = open_dataset(data_set, **CLIPS)
    reader = clips._reader
    clips._reader = type(reader)(replace_shards(reader.index), reader.shards)
    for workers in (0, 1):
        with pytest.raises(InputError, match="class0/v_00 in no.tar: .*`tgprep check` finds"):
            next(iter(DataLoader(clips, batch_size=2, num_workers=workers)))


def replace_shards(index: Any) -> Any:
    return replace(index, shards=tuple("no.tar" for _ in index.shards))
