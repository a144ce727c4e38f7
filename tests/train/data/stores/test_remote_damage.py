"""Remote shards that are damaged, missing or replaced, and caches without room."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from manifests.manifest_io import read_manifest
from manifests.records import InputError, VideoRow
from tests.extraction import wait_until
from tests.object_store import ObjectStore
from tests.train.data.stores.support import (
    PLAN,
    expected,
    open_remote,
    pixels,
    shards_of,
)
from tgtrain.data.reader import BadSampleError
from tgtrain.data.stores.video_index import Need


def test_damage_in_the_store_affects_only_its_samples(
    own_url: str, store: ObjectStore, local: Path, tmp_path: Path, warnings: list[str]
) -> None:
    """One flipped frame: the shard is warnings to be damaged once, the sample is bad, its neighbours are read."""
    row = flip_first_frames(store, own_url, local)
    for whole in (True, False):
        reader = open_remote(own_url, tmp_path / f"cache{whole}")
        needs: tuple[Need, ...] = reader.index.shards if whole else ()
        reader.shards.expect(lambda needs=needs: needs)  # type: ignore[misc]
        bad = []
        wanted = expected(local)
        for video in range(len(reader.index)):
            try:
                assert reader.read(video, PLAN).rgb.tobytes() == wanted[video]
            except BadSampleError as error:
                bad.append(str(error))
        reader.close()
        (problem,) = bad
        assert problem.startswith(f"{row.key} in {row.shard}: RGB frame")
    assert len(warnings) == 2  # one for each cache
    for warning, reason in zip(
        warnings, ("its sha256", f"in sample {row.key}, RGB frame 0 does not begin"), strict=True
    ):
        assert f"{row.shard} of {own_url} is damaged: {reason}" in warning
        assert "tgprep check" in warning
    # Mended in the store: the next run takes the new one.
    store.upload(local, own_url)
    for whole in (True, False):
        assert pixels(open_remote(own_url, tmp_path / f"cache{whole}")) == expected(local)


def flip_first_frames(store: ObjectStore, url: str, local: Path) -> VideoRow:
    """Damage one sample in the store: its row."""
    row = read_manifest(local).videos[0]
    content = bytearray((local / row.shard).read_bytes())
    content[row.members.rgb_offset : row.members.rgb_offset + row.members.rgb_bytes] = bytes(row.members.rgb_bytes)
    store.files().pipe_file(f"{url.removeprefix('s3://')}/{row.shard}", bytes(content))
    return row


@pytest.mark.parametrize("spare_bytes", [1000, 10**6])
def test_damaged_shard_is_fetched_at_most_twice(
    own_url: str, store: ObjectStore, local: Path, tmp_path: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch, spare_bytes: int
) -> None:  # fmt: skip
    """Once more in case it was damaged on its way; then never again, however often it is expected and read, in a full cache or not."""
    monkeypatch.setattr("tgtrain.data.stores.remote._PLAN_SECONDS", 0.01)
    row = flip_first_frames(store, own_url, local)
    rows = read_manifest(local).shards
    needed = [row.shard, next(shard.name for shard in rows if shard.name != row.shard)]
    sizes = {shard.name: shard.num_bytes for shard in rows}
    reader = open_remote(own_url, tmp_path / "cache", sum(sizes[name] for name in needed) + spare_bytes)
    cache = shards_of(reader).cache
    reader.shards.expect(lambda: needed)
    wait_until(lambda: len([name for name in cache.names() if name.endswith((".tar", ".damaged"))]) == 2)
    before = store.gate.num_bytes
    for _ in range(20):  # each plans anew; in the full cache another shard is wanted too, for which there is no room
        reader.shards.expect(lambda: [*needed, *(sizes if spare_bytes < 10**6 else ())])
        for video, place in enumerate(reader.index):
            if place.shard in needed and place.key != row.key:
                reader.read(video, PLAN)
        time.sleep(0.02)
    reader.close()
    assert store.gate.num_bytes == before
    assert len(warnings) == 1


def test_other_data_is_never_read_as_the_sample(own_url: str, store: ObjectStore, local: Path, tmp_path: Path) -> None:
    rows = read_manifest(local).shards
    other = next(row for row in rows if row.name != rows[0].name and row.num_bytes == rows[0].num_bytes)
    store.files().put_file(str(local / other.name), f"{own_url.removeprefix('s3://')}/{rows[0].name}")
    reader = open_remote(own_url, tmp_path / "cache")
    seen = []
    for video, place in enumerate(reader.index):
        if place.shard == rows[0].name:
            with pytest.raises(BadSampleError, match=f"{place.key} in {place.shard}: the store holds something else"):
                reader.read(video, PLAN)
            seen.append(video)
    assert seen


def test_missing_shard_is_named(own_url: str, store: ObjectStore, tmp_path: Path) -> None:
    reader = open_remote(own_url, tmp_path / "cache")
    name = reader.index[0].shard
    store.files().rm_file(f"{own_url.removeprefix('s3://')}/{name}")
    with pytest.raises(BadSampleError, match=f"{reader.index.key(0)} in {name}: "):
        reader.read(0, PLAN)


def test_shorter_shard_is_named(own_url: str, store: ObjectStore, local: Path, tmp_path: Path) -> None:
    reader = open_remote(own_url, tmp_path / "cache")
    place = reader.index[0]
    content = (local / place.shard).read_bytes()[: place.members.rgb_offset + 100]
    store.files().pipe_file(f"{own_url.removeprefix('s3://')}/{place.shard}", content)
    with pytest.raises(
        BadSampleError, match=f"{place.key} in {place.shard}: the store holds {len(content)} bytes of it"
    ):
        reader.read(0, PLAN)


def test_full_cache_disk_is_reported(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = open_remote(url, tmp_path / "cache")

    def full(file: int, content: bytes, offset: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tgtrain.data.stores.remote.os.pwrite", full)
    with pytest.raises(InputError, match=r"The cache .* cannot be written \(No space left on device\).*cache_gb"):
        reader.read(0, PLAN)


def test_cache_smaller_than_a_sample_is_rejected(url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"may hold 100 bytes, but shard-\d+.tar alone needs \d+"):
        open_remote(url, tmp_path / "cache", 100).read(0, PLAN)
