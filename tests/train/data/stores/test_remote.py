"""Shards from a real S3-compatible server: the same bytes as from disk, through latency, 5xx, truncated answers, restarts and kills."""

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
from dataclasses import replace
from pathlib import Path

import pytest

from manifests import object_store as stores
from manifests.manifest_io import read_manifest
from manifests.table import Manifest
from tests.extraction import wait_until
from tests.object_store import ObjectStore
from tests.train.data.stores.support import (
    PLAN,
    expected,
    open_remote,
    pixels,
    shards_of,
    whole_names,
)
from tgtrain.data.reader import ClipReader, open_reader
from tgtrain.data.stores.cache import CacheSettings


def test_pixels_equal_the_local_copy(url: str, local: Path, tmp_path: Path) -> None:
    reader = open_remote(url, tmp_path / "cache")
    assert pixels(reader) == expected(local)
    again = pickle.loads(pickle.dumps(reader))
    assert pixels(again) == expected(local)
    # Nothing was expected, so that samples were fetched alone; what is there is not fetched again.
    assert {name.rpartition(".")[2] for name in shards_of(reader).cache.names()} == {"sample", "room"}


def test_cached_pieces_need_no_store(url: str, store: ObjectStore, local: Path, tmp_path: Path) -> None:
    pixels(open_remote(url, tmp_path / "cache"))
    reader = open_remote(url, tmp_path / "cache")
    store.gate.shut()
    assert pixels(reader) == expected(local)


def test_shards_are_fetched_ahead_and_verified(url: str, store: ObjectStore, local: Path, tmp_path: Path) -> None:
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


def test_small_cache_keeps_the_next_shards(url: str, local: Path, tmp_path: Path) -> None:
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


def test_latency_failures_and_truncated_answers(
    url: str, store: ObjectStore, local: Path, tmp_path: Path, warnings: list[str]
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
    (warning,) = warnings
    assert warning.startswith(f"{url.rpartition('/')[0]} does not answer (")


def test_every_byte_through_truncated_answers(
    url: str, store: ObjectStore, local: Path, tmp_path: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch
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
    (warning,) = warnings
    assert warning.startswith(f"{url.rpartition('/')[0]} does not answer (")


def test_server_restart(url: str, store: ObjectStore, local: Path, tmp_path: Path, warnings: list[str]) -> None:
    reader = open_remote(url, tmp_path / "cache")
    reader.read(0, PLAN)
    store.gate.shut()
    other = open_remote_again(reader, read_manifest(local), tmp_path / "cache", url)
    reader.shards.expect(lambda: reader.index.shards)
    other.shards.expect(lambda: reader.index.shards)
    threading.Thread(target=lambda: (wait_until(lambda: warnings), time.sleep(1), store.gate.open())).start()
    assert pixels(other) == expected(local)
    reader.close()
    other.close()
    (warning,) = warnings
    assert warning.startswith(f"{url.rpartition('/')[0]} does not answer (")


def test_warning_before_the_cache_opens_is_not_repeated(
    url: str, store: ObjectStore, tmp_path: Path, warnings: list[str]
) -> None:
    """A start that met it while it read the tables, and then its loader processes, which share the cache."""
    store.gate.shut()
    threading.Thread(target=lambda: (wait_until(lambda: warnings), store.gate.open())).start()
    reader = open_remote(url, tmp_path / "cache")
    assert len(warnings) == 1
    assert shards_of(reader).cache.already_warned(url.rpartition("/")[0])


def test_unreachable_store_is_not_damage(
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
    wait_until(lambda: [name for name in os.listdir(cache / "tgtrain-shards") if name.endswith(".part")])  # noqa: PTH208
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
    fetched = store.gate.num_bytes - before
    assert total < fetched < 1.5 * total  # twice: 2.0; a reader of an earlier test may still finish a request
    for reader in readers:
        reader.close()


def test_cache_folder_removed_during_use(url: str, local: Path, tmp_path: Path) -> None:
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
