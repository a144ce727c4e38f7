"""The cache's folder: what is used longest ago goes first, nothing torn under a final name, kills leave nothing that blocks."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from manifests.records import InputError
from tests.train.data.stores.support import piece
from tgtrain.data.stores.cache import Cache, CacheSettings, Piece, is_cache


def put(cache: Cache, what: Piece, keep: tuple[str, ...] = (), **how: bool) -> bool:
    with cache.claim(what) as claim:
        if claim is None or not cache.reserve(claim, keep, **how):
            return False
        os.pwrite(claim.file, b"x" * what.size, 0)
        claim.publish()
        return True


def has(cache: Cache, what: Piece) -> bool:
    """Whether it is there; looking is no use of it."""
    return (cache.folder / what.name).exists()


def use(cache: Cache, what: Piece) -> bytes:
    file = cache.open(what)
    assert file is not None
    try:
        return os.pread(file, what.size, 0)
    finally:
        os.close(file)


def age(cache: Cache, what: Piece, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(cache.folder / what.name, (then, then))


def test_least_recently_used_is_evicted_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000)
    for number in range(10):
        assert put(cache, piece(number))
        age(cache, piece(number), 100 - number)
    use(cache, piece(0))
    use(cache, piece(2))
    for number in (10, 11, 12):
        assert put(cache, piece(number))
    there = {number for number in range(13) if has(cache, piece(number))}
    assert there == set(range(13)) - {1, 3, 4}
    assert cache.num_held() == 1000


def test_size_limit_holds(tmp_path: Path) -> None:
    """Against a plain list of names by last use, over random puts and uses of random sizes."""
    cache = Cache(tmp_path, 5_000)
    rng = random.Random(0)
    sizes = {number: rng.randint(1, 1500) for number in range(40)}
    by_use: list[int] = []
    clock = time.time() - 10_000
    for _ in range(400):
        number = rng.randrange(40)
        what = piece(number, sizes[number])
        if number in by_use:
            assert len(use(cache, what)) == what.size
            by_use.remove(number)
        else:
            while sum(sizes[n] for n in by_use) + what.size > 5_000:
                by_use.pop(0)
            assert put(cache, what)
        clock += 1
        os.utime(tmp_path / what.name, (clock, clock))
        by_use.append(number)
        assert cache.num_held() <= 5_000
        assert {n for n in range(40) if has(cache, piece(n, sizes[n]))} == set(by_use)


def test_protected_pieces_stay_unless_a_reader_waits(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 250)
    put(cache, piece(0))
    put(cache, piece(1))
    keep = (piece(0).name, piece(1).name)
    assert not put(cache, piece(2), keep)
    assert has(cache, piece(0))
    assert not (tmp_path / f"{piece(2).name}.part").exists()
    assert put(cache, piece(2), keep, evict_protected=True)
    assert not has(cache, piece(0))
    assert not put(cache, piece(3, 251), evict_protected=True)


def test_damaged_pieces_count_as_present(tmp_path: Path) -> None:
    """It is read, not fetched again, and kept like any other piece; looked for anew when the cache is opened again."""
    cache = Cache(tmp_path, 250)
    sample = Piece("shard-000001.tar", piece(1).digest, 512, 100, False)
    for what in (piece(0), sample):
        with cache.claim(what) as claim:
            assert claim is not None
            assert cache.reserve(claim, ())
            os.pwrite(claim.file, b"y" * what.size, 0)
            claim.publish(damaged=True)
    assert cache.names() == {"room", f"{piece(0).digest}.damaged", f"{piece(1).digest}-512-100.damaged"}
    assert {piece(0).name, sample.name} <= cache.pieces()
    for what in (piece(0), sample):
        assert use(cache, what) == b"y" * 100
        with cache.claim(what) as again:
            assert again is None
    assert not put(cache, piece(2), keep=(piece(0).name, sample.name))
    assert put(cache, piece(2), keep=(sample.name,))
    assert cache.open(piece(0)) is None
    assert use(cache, sample) == b"y" * 100
    cache.remove_leftovers()
    assert not cache.pieces() & {sample.name}


def test_evicted_file_stays_readable(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 150)
    put(cache, piece(0))
    file = cache.open(piece(0))
    assert file is not None
    put(cache, piece(1))
    assert not has(cache, piece(0))
    assert os.pread(file, 100, 0) == b"x" * 100
    os.close(file)


def test_truncated_file_is_not_used(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000)
    put(cache, piece(0))
    os.truncate(tmp_path / piece(0).name, 50)
    assert cache.open(piece(0)) is None
    assert put(cache, piece(0))


def test_only_one_process_fetches_a_piece(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000)
    with cache.claim(piece(0)) as first:
        assert first is not None
        assert cache.reserve(first, ())
        with cache.claim(piece(0)) as second:
            assert second is None
        with cache.claim(piece(1)) as other:
            assert other is not None
        cache.remove_leftovers()  # of others: this one is alive
        assert cache.open(piece(0)) is None
        first.publish()
    with cache.claim(piece(0)) as late:
        assert late is None
    assert cache.open(piece(1)) is None
    assert sorted(cache.names()) == [piece(0).name, "room"]


def test_error_while_fetching_leaves_nothing(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000)
    with pytest.raises(ZeroDivisionError), cache.claim(piece(0)) as claim:
        assert claim is not None
        cache.reserve(claim, ())
        raise ZeroDivisionError
    assert cache.names() == {"room"}
    assert put(cache, piece(0))


HOLDER = """
    import os, sys, time
    from pathlib import Path
    from tests.train.data.stores.support import piece
    from tgtrain.data.stores.cache import Cache
    cache = Cache(Path(sys.argv[1]), 1000)
    with cache.claim(piece(0, 900)) as claim, cache.slot(1) as free:
        assert free and cache.reserve(claim, ())
        os.pwrite(claim.file, b"half", 0)
        print("ready", flush=True)
        time.sleep(60)
"""


def test_kill_9_of_a_process_that_fetches(tmp_path: Path) -> None:
    """Neither its lock, its place for downloads nor its half file stays in the way; nothing half is ever read."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    cache = Cache(tmp_path, 1000)
    assert not put(cache, piece(0, 900))
    assert not put(cache, piece(1, 900), evict_protected=True)
    with cache.slot(1) as is_free:
        assert not is_free
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert (tmp_path / f"{piece(0).name}.part").exists()
    with cache.slot(1) as is_free:
        assert is_free
    assert put(cache, piece(1, 900))  # what it had reserved is free again
    assert not (tmp_path / f"{piece(0).name}.part").exists()
    assert put(cache, piece(0, 900))
    assert use(cache, piece(0, 900)) == b"x" * 900


def test_opening_removes_leftovers_and_nothing_else(tmp_path: Path) -> None:
    folder = CacheSettings(str(tmp_path), 1000).open().folder
    leftovers = (f"{piece(0).name}.part", f"{piece(1).digest}.damaged")
    own = ("mine.txt", "film.part", "photo.damaged", "backup.tar", f"{'A' * 64}.tar", "x.sample")
    for place in (folder, tmp_path):
        for name in (*leftovers, *own):
            (place / name).write_bytes(b"x" * 600)
    cache = CacheSettings(str(tmp_path), 1000).open()
    assert put(cache, piece(2, 500))
    assert put(cache, piece(3, 900))  # evicts
    assert cache.names() == {*own, "room", piece(3).name}
    assert {path.name for path in tmp_path.iterdir()} == {*leftovers, *own, folder.name}


def test_a_folder_that_is_no_cache_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "tgtrain-shards"
    folder.mkdir()
    (folder / f"{piece(0).name}.part").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"is not empty .* holds no cache of shards. Name another folder with --cache"):
        CacheSettings(str(tmp_path), 1000).open()
    assert [path.name for path in folder.iterdir()] == [f"{piece(0).name}.part"]
    assert not is_cache(str(tmp_path))
    CacheSettings(str(tmp_path / "other"), 1000).open()
    assert is_cache(str(tmp_path / "other"))
    assert (tmp_path / "other" / folder.name / "CACHEDIR.TAG").read_bytes().startswith(b"Signature: 8a477f597d28d172")


@pytest.mark.parametrize(
    "digest", ["../" * 8 + "tmp/x", "/etc/passwd", "", "a" * 63, "A" * 64, "a" * 64 + "/", "é" * 64]
)
def test_a_digest_is_no_path(digest: str) -> None:
    with pytest.raises(InputError, match="expected 64 hexadecimal digits"):
        Piece("shard-000000.tar", digest, 0, 100, True)
    with pytest.raises(InputError, match="no negative number"):
        Piece("shard-000000.tar", "a" * 64, -5, 100, False)


def _hammer(folder: Path, seed: int, stop: Event) -> None:
    cache = Cache(folder, 1000)
    rng = random.Random(seed)
    while not stop.is_set():
        what = piece(rng.randrange(15))
        file = cache.open(what)
        if file is None:
            with cache.claim(what) as claim:
                if claim is not None and cache.reserve(claim, (), evict_protected=True):
                    os.pwrite(claim.file, bytes([len(what.shard)]) * 60, 0)
                    time.sleep(0.001)
                    os.pwrite(claim.file, bytes([len(what.shard)]) * 40, 60)
                    claim.publish()
            continue
        assert os.pread(file, 101, 0) == bytes([len(what.shard)]) * 100
        os.close(file)


def test_processes_share_it_while_some_are_killed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    stop = context.Event()
    processes = [context.Process(target=_hammer, args=(tmp_path, seed, stop)) for seed in range(2)]
    for process in processes:
        process.start()
    cache = Cache(tmp_path, 1000)
    deadline = time.monotonic() + 20
    while not len([name for name in cache.names() if name.endswith(".tar")]) > 5:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    processes[1].kill()
    held = []
    for _ in range(50):
        held.append(cache.num_held())
        time.sleep(0.01)
    stop.set()
    processes[0].join()
    processes[1].join()
    assert processes[0].exitcode == 0
    # A scan that is not atomic may count a file under both its names.
    assert max(held) <= 1200
    cache.remove_leftovers()
    assert cache.num_held() <= 1000
    for number in range(15):
        if has(cache, piece(number)):
            assert len(use(cache, piece(number))) == 100


def test_one_warning_for_all_processes(tmp_path: Path) -> None:
    one, other = Cache(tmp_path, 1000), Cache(tmp_path, 1000)
    assert not one.already_warned("s3://bucket")
    assert other.already_warned("s3://bucket")
    assert not other.already_warned("s3://other")
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0))
    assert not one.already_warned("s3://bucket")  # that was another time of trouble
    assert other.already_warned("s3://bucket")


def test_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    cache = CacheSettings().open()
    assert cache.folder == tmp_path / "xdg" / "tgtrain" / "tgtrain-shards"
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    assert 0.7 * free < cache.num_bytes < 0.9 * free
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be the cache of shards: .* Name another folder with --cache"):
        CacheSettings(str(tmp_path / "file" / "in it")).open()
