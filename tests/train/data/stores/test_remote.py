"""Shards from a real S3-compatible server: the same bytes as from disk, through latency, 5xx, cut answers, restarts and kills."""

from __future__ import annotations

import os
import pickle
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from manifests import object_store as stores
from manifests.manifest_io import read_manifest
from manifests.records import InputError, VideoRow
from manifests.table import Manifest
from tests.extraction import wait_until
from tests.object_store import ObjectStore
from tests.train.support import write_data_set
from tgtrain.data.clip import ClipSettings, plan_eval
from tgtrain.data.reader import BadSampleError, ClipReader, open_reader
from tgtrain.data.stores.cache import CacheSettings
from tgtrain.data.stores.remote import RemoteShards
from tgtrain.data.stores.video_index import Need

SETTINGS = ClipSettings(clip_frames=4, interval=3, size=32)
(PLAN,) = plan_eval(20, 48, 64, SETTINGS)
NUM_SHARDS = 6


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:

    root = tmp_path_factory.mktemp("remote") / "set"
    write_data_set(root, num_shards=NUM_SHARDS)
    return root


@pytest.fixture(scope="module")
def uploaded(store_server: ObjectStore, local: Path) -> str:
    place = store_server.bucket("remote-shards") + "/set"
    store_server.upload(local, place)
    return place


@pytest.fixture
def url(uploaded: str, store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The data set in the store; not to be changed."""
    monkeypatch.setattr(stores, "_trouble", {})
    monkeypatch.setattr(stores, "_heard", None)
    yield uploaded
    store.gate.delay_seconds, store.gate.cut_next = 0.0, 0


@pytest.fixture
def own_url(url: str, store: ObjectStore, local: Path, tmp_path: Path) -> str:
    """A copy that a test may change."""
    place = store.bucket(f"b{abs(hash(tmp_path)) % 10**9}") + "/set"
    store.upload(local, place)
    return place


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(stores, "_warning_handler", lambda root, text: lines.append(text))
    return lines


def open_remote(url: str, cache: Path, num_bytes: int = 10**9) -> ClipReader:
    manifest = read_manifest(url)
    return open_reader(manifest, manifest.videos.column("key"), CacheSettings(str(cache), num_bytes))


def shards_of(reader: ClipReader) -> RemoteShards:
    assert isinstance(reader.shards, RemoteShards)
    return reader.shards


def pixels(reader: ClipReader) -> list[bytes]:
    """All videos, in order."""
    return [reader.read(video, PLAN).rgb.tobytes() for video in range(len(reader.index))]


def expected(local: Path) -> list[bytes]:
    manifest = read_manifest(local)
    return pixels(open_reader(manifest, manifest.videos.column("key")))


def whole_names(manifest: Manifest) -> set[str]:
    return {f"{shard.sha256}.tar" for shard in manifest.shards}


def test_the_same_pixels_as_from_disk(url: str, local: Path, tmp_path: Path) -> None:
    reader = open_remote(url, tmp_path / "cache")
    assert pixels(reader) == expected(local)
    again = pickle.loads(pickle.dumps(reader))
    assert pixels(again) == expected(local)
    # Nothing was expected, so that samples were fetched alone; what is there is not fetched again.
    assert {name.rpartition(".")[2] for name in shards_of(reader).cache.names()} == {"sample", "room"}


def test_what_is_there_is_read_without_the_store(url: str, store: ObjectStore, local: Path, tmp_path: Path) -> None:
    pixels(open_remote(url, tmp_path / "cache"))
    reader = open_remote(url, tmp_path / "cache")
    store.gate.shut()
    assert pixels(reader) == expected(local)


def test_shards_come_ahead_and_are_verified(url: str, store: ObjectStore, local: Path, tmp_path: Path) -> None:
    manifest = read_manifest(url)
    reader = open_remote(url, tmp_path / "cache")
    cache = shards_of(reader).cache
    reader.shards.expect(lambda: reader.index.shards)
    wait_until(lambda: whole_names(manifest) <= cache.names())
    for shard in manifest.shards:
        assert (cache.folder / f"{shard.sha256}.tar").read_bytes() == (local / shard.name).read_bytes()
    store.gate.shut()
    assert pixels(reader) == expected(local)
    reader.close()


def test_a_small_cache_keeps_what_comes_soonest(url: str, local: Path, tmp_path: Path) -> None:
    """Room for two shards: those that are expected first stay, whatever else could be fetched; all is read in the end."""
    manifest = read_manifest(url)
    sizes = [shard.num_bytes for shard in manifest.shards]
    reader = open_remote(url, tmp_path / "cache", sizes[0] + sizes[1] + max(sizes) // 2)
    cache = shards_of(reader).cache
    names = [shard.name for shard in manifest.shards]
    reader.shards.expect(lambda: names)
    soonest = {f"{shard.sha256}.tar" for shard in manifest.shards[:2]}
    wait_until(lambda: soonest <= cache.names())
    time.sleep(0.3)
    assert {name for name in cache.names() if name.endswith(".tar")} == soonest
    by_shard = sorted(range(len(reader.index)), key=lambda video: reader.index[video].shard)
    wanted = expected(local)
    for number, video in enumerate(by_shard):
        at = names.index(reader.index[video].shard)
        reader.shards.expect(lambda at=at: names[at:])  # type: ignore[misc]
        assert reader.read(video, PLAN).rgb.tobytes() == wanted[video], number
        assert cache.num_held() <= cache.num_bytes
    reader.close()


def test_latency_failures_and_cut_answers(
    url: str, store: ObjectStore, local: Path, tmp_path: Path, told: list[str]
) -> None:
    reader = open_remote(url, tmp_path / "cache")
    store.gate.delay_seconds = 0.02
    failed, cut = store.gate.num_failed, store.gate.num_cut
    store.gate.shut()  # connections that are open would pass by what fails
    store.gate.fail_next, store.gate.cut_next = 2, 4
    store.gate.open()
    reader.shards.expect(lambda: reader.index.shards)
    assert pixels(reader) == expected(local)
    reader.close()
    assert store.gate.num_failed - failed == 2
    assert store.gate.num_cut - cut == 4
    (warning,) = told
    assert warning.startswith(f"{url.rpartition('/')[0]} does not answer (")


def test_every_byte_through_cut_answers(
    url: str, store: ObjectStore, local: Path, tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples one by one, each of the first answers cut at another place; two readers, one warning."""
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)  # it is our own trying again that is tested
    cut = store.gate.num_cut
    readers = [open_remote(url, tmp_path / "cache") for _ in range(2)]
    wanted = expected(local)
    for video in range(len(wanted)):
        if video < 8:
            store.gate.cut_next, store.gate.cut_bytes = 1, 2_000 + 4_000 * video
        assert readers[video % 2].read(video, PLAN).rgb.tobytes() == wanted[video]
    assert store.gate.num_cut - cut == 8
    (warning,) = told
    assert warning.startswith(f"{url.rpartition('/')[0]} does not answer (")


def test_a_restart_of_the_server(url: str, store: ObjectStore, local: Path, tmp_path: Path, told: list[str]) -> None:
    reader = open_remote(url, tmp_path / "cache")
    reader.read(0, PLAN)
    store.gate.shut()
    other = open_remote_again(reader, read_manifest(local), tmp_path / "cache", url)
    reader.shards.expect(lambda: reader.index.shards)
    other.shards.expect(lambda: reader.index.shards)
    threading.Thread(target=lambda: (wait_until(lambda: told), time.sleep(1), store.gate.open())).start()
    assert pixels(other) == expected(local)
    reader.close()
    other.close()
    (warning,) = told
    assert warning.startswith(f"{url.rpartition('/')[0]} does not answer (")


def test_trouble_before_the_cache_is_open_is_not_told_again(
    url: str, store: ObjectStore, tmp_path: Path, told: list[str]
) -> None:
    """A start that met it while it read the tables, and then its loader processes, which share the cache."""
    store.gate.shut()
    threading.Thread(target=lambda: (wait_until(lambda: told), store.gate.open())).start()
    reader = open_remote(url, tmp_path / "cache")
    assert len(told) == 1
    assert shards_of(reader).cache.already_warned(url.rpartition("/")[0])


def test_a_store_that_stays_away_is_no_damage(
    url: str, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = open_remote(url, tmp_path / "cache")
    reader.read(0, PLAN)
    monkeypatch.setattr(stores, "patience", 0.5)
    store.gate.shut()
    with pytest.raises(stores.UnreachableError, match="did not answer for"):
        reader.read(1, PLAN)
    store.gate.open()
    reader.read(1, PLAN)


FETCHER = """
    import sys, time
    from manifests.manifest_io import read_manifest
    from tgtrain.data.stores.cache import CacheSettings
    from tgtrain.data.reader import open_reader
    url, cache = sys.argv[1:]
    manifest = read_manifest(url)
    reader = open_reader(manifest, manifest.videos.column("key"), CacheSettings(cache, 10**9))
    print("ready", flush=True)
    reader.shards.expect(lambda: reader.index.shards)
    time.sleep(60)
"""


def test_kill_9_while_downloading(url: str, store: ObjectStore, local: Path, tmp_path: Path) -> None:
    """Whatever the moment, another process that is waiting for the same shards goes on, and a third finds all in order."""
    cache = tmp_path / "cache"
    reader = open_remote(url, cache)
    store.gate.delay_seconds = 0.3
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(FETCHER), url, str(cache)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    wait_until(lambda: [name for name in os.listdir(cache) if name.endswith(".part")])  # noqa: PTH208
    reader.shards.expect(lambda: reader.index.shards)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    store.gate.delay_seconds = 0.0
    assert pixels(reader) == expected(local)
    reader.close()
    manifest = read_manifest(url)
    wait_until(lambda: not [name for name in shards_of(reader).cache.names() if name.endswith(".part")])
    store.gate.shut()
    third = open_remote_again(reader, manifest, cache, url)
    assert {name for name in shards_of(third).cache.names() if name.endswith(".tar")} <= whole_names(manifest)
    assert pixels(third) == expected(local)


def open_remote_again(reader: ClipReader, manifest: Manifest, cache: Path, url: str) -> ClipReader:
    """Another reader of the same, without a question to the store."""
    manifest = replace(manifest, root=url)
    return open_reader(manifest, [place.key for place in reader.index], CacheSettings(str(cache), 10**9))


def test_two_readers_fetch_each_shard_once(url: str, store: ObjectStore, local: Path, tmp_path: Path) -> None:
    readers = [open_remote(url, tmp_path / "cache") for _ in range(2)]
    before = store.gate.num_bytes
    for reader in readers:
        reader.shards.expect(lambda: readers[0].index.shards)
    assert pixels(readers[0]) == expected(local)
    assert pixels(readers[1]) == expected(local)
    total = sum(shard.num_bytes for shard in read_manifest(local).shards)
    assert total < store.gate.num_bytes - before < 1.1 * total
    for reader in readers:
        reader.close()


def test_damage_in_the_store_costs_its_samples_alone(
    own_url: str, store: ObjectStore, local: Path, tmp_path: Path, told: list[str]
) -> None:
    """One flipped frame: the shard is told to be damaged once, the sample is bad, its neighbours are read."""
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
    assert len(told) == 2  # one for each cache
    for warning, reason in zip(told, ("its sha256", f"in sample {row.key}, RGB frame 0 does not begin"), strict=True):
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
def test_a_damaged_shard_is_fetched_no_more_than_twice(
    own_url: str, store: ObjectStore, local: Path, tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch, spare_bytes: int
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
    assert len(told) == 1


def test_other_data_under_the_name_is_never_taken_for_the_sample(
    own_url: str, store: ObjectStore, local: Path, tmp_path: Path
) -> None:
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


def test_a_shard_that_is_gone_is_named(own_url: str, store: ObjectStore, tmp_path: Path) -> None:
    reader = open_remote(own_url, tmp_path / "cache")
    name = reader.index[0].shard
    store.files().rm_file(f"{own_url.removeprefix('s3://')}/{name}")
    with pytest.raises(BadSampleError, match=f"{reader.index.key(0)} in {name}: "):
        reader.read(0, PLAN)


def test_a_shard_that_is_shorter_in_the_store_is_named(
    own_url: str, store: ObjectStore, local: Path, tmp_path: Path
) -> None:
    reader = open_remote(own_url, tmp_path / "cache")
    place = reader.index[0]
    content = (local / place.shard).read_bytes()[: place.members.rgb_offset + 100]
    store.files().pipe_file(f"{own_url.removeprefix('s3://')}/{place.shard}", content)
    with pytest.raises(
        BadSampleError, match=f"{place.key} in {place.shard}: the store holds {len(content)} bytes of it"
    ):
        reader.read(0, PLAN)


def test_a_full_disk_of_the_cache_says_so(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = open_remote(url, tmp_path / "cache")

    def full(file: int, content: bytes, offset: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tgtrain.data.stores.remote.os.pwrite", full)
    with pytest.raises(InputError, match=r"The cache .* cannot be written \(No space left on device\).*cache_gb"):
        reader.read(0, PLAN)


def test_a_cache_smaller_than_a_sample_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"may hold 100 bytes, but shard-\d+.tar alone needs \d+"):
        open_remote(url, tmp_path / "cache", 100).read(0, PLAN)


def test_the_cache_may_be_removed_while_it_is_used(url: str, local: Path, tmp_path: Path) -> None:
    import shutil

    reader = open_remote(url, tmp_path / "cache")
    pixels(reader)
    shutil.rmtree(tmp_path / "cache")
    assert pixels(reader) == expected(local)


def test_random_reads_by_threads_in_a_tiny_cache(url: str, local: Path, tmp_path: Path) -> None:
    """Room for three samples, four readers that ask for anything: always the right bytes."""
    wanted = expected(local)
    readers = [open_remote(url, tmp_path / "cache", 130_000) for _ in range(4)]
    wrong: list[int] = []

    def work(number: int) -> None:
        rng = random.Random(number)
        for _ in range(25):
            video = rng.randrange(len(wanted))
            if readers[number].read(video, PLAN).rgb.tobytes() != wanted[video]:
                wrong.append(video)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert shards_of(readers[0]).cache.num_held() <= 130_000
