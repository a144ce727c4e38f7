"""Places of videos: looked up for any number of videos, in the caller's order, and cheap to hand on."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from manifests.manifest_io import read_manifest
from manifests.records import InputError
from manifests.table import VIDEO_SCHEMA, Manifest, VideoTable
from tgtrain.data.stores.video_index import index_of


def large(num_videos: int, data_set: Path) -> Manifest:
    """A manifest of many videos, sorted by key, with facts that tell each video."""
    number = np.arange(num_videos)
    text = {
        "key": [f"class{n // 1000:03d}/ü_{n:07d}" for n in number],
        "shard": [f"shard-{n // 100:06d}.tar" for n in number],
        "status": ["written"] * num_videos,
        "subsets": [["train"]] * num_videos,
    }
    columns = []
    for field in VIDEO_SCHEMA:
        if field.name in text or pa.types.is_string(field.type):
            columns.append(pa.array(text.get(field.name, [""] * num_videos), field.type))
        else:
            columns.append(pa.array(number % 2**31, field.type))
    return replace(read_manifest(data_set), videos=VideoTable(pa.table(columns, schema=VIDEO_SCHEMA)))


def test_index_has_manifest_rows_in_the_given_order(data_set: Path) -> None:
    manifest = read_manifest(data_set)
    rows = {row.key: row for row in manifest.videos}
    keys = sorted(rows, reverse=True)[1:]
    index = index_of(manifest, keys)
    assert len(index) == len(keys)
    for number, (key, video) in enumerate(zip(keys, index, strict=True)):
        row = rows[key]
        assert (video.key, video.shard, video.members) == (key, row.shard, row.members)
        assert (video.num_frames, video.height, video.width) == (row.num_frames, row.height, row.width)
        assert index.key(number) == key
    assert index.sizes() == {(48, 64): len(keys)}
    assert [video.key for video in index[2:4]] == keys[2:4]
    assert len(index_of(manifest, [])) == 0


def test_index_can_be_pickled(data_set: Path) -> None:
    manifest = read_manifest(data_set)
    index = index_of(manifest, manifest.videos.column("key"))
    assert list(pickle.loads(pickle.dumps(index))) == list(index)


def test_many_videos_cost_little(data_set: Path) -> None:
    manifest = large(100_000, data_set)
    keys = manifest.videos.column("key")
    began = time.perf_counter()
    index = index_of(manifest, keys)
    message = ForkingPickler.dumps(index)  # what a loader process is sent
    seconds = time.perf_counter() - began
    assert index[73_421].key == keys[73_421]
    assert index[73_421].num_frames == 73_421
    assert seconds < 2, "650,000 videos would take longer than a first batch may"
    assert len(message) < 100_000
    assert len(pickle.dumps(index)) < 25_000_000


def test_missing_videos_are_named(data_set: Path, make_data_set: Callable[..., Path]) -> None:
    manifest = read_manifest(data_set)
    with pytest.raises(InputError, match=r"2 videos of the split .* \(the first: class9/none\)"):
        index_of(manifest, ["class0/v_00", "class9/none", "x/y"])
    table = manifest.videos.arrow
    status = pa.array(["failed" if key == "class1/v_02" else "written" for key in table["key"].to_pylist()])
    error = pa.array(["cannot be decoded"] * len(table))
    at = {name: table.schema.get_field_index(name) for name in ("status", "error")}
    table = table.set_column(at["status"], "status", status).set_column(at["error"], "error", error)
    with pytest.raises(InputError, match="class1/v_02 of the split has no sample: cannot be decoded"):
        index_of(replace(manifest, videos=VideoTable(table)), ["class0/v_00", "class1/v_02"])


def test_sizes_are_counted_by_height_and_width(data_set: Path) -> None:
    manifest = read_manifest(data_set)
    index = index_of(manifest, manifest.videos.column("key"))
    index.numbers[:, 1:3] = [[65_535, 1]] * (len(index) - 3) + [[1, 65_535], [240, 320], [240, 320]]
    assert index.sizes() == {(1, 65_535): 1, (240, 320): 2, (65_535, 1): len(index) - 3}
    assert list(index.sizes()) == [(1, 65_535), (240, 320), (65_535, 1)]
    assert index_of(manifest, []).sizes() == {}
