"""Leases on an OUT in a store: one owner at a time; a dead owner is replaced, on this machine at once, on another after silence."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time

import pytest

from manifests.files import create, exists, read_bytes, remove
from manifests.records import InputError
from tests.object_store import ObjectStore
from tgprep.extract import lease
from tgprep.extract.workers.shards import ShardError


@pytest.fixture
def url(store: ObjectStore, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.3)
    return store.bucket(f"claim-{abs(hash(request.node.name)) % 10**9}") + "/out/.tgprep/lock"


def of_another(**facts: object) -> dict[str, object]:
    return {
        "owner": "process 7 on far-away",
        "token": "theirs",
        "machine": "far-away",
        "process": 7,
        "beats": 0,
        **facts,
    }


def test_one_at_a_time(url: str) -> None:
    with lease.hold_lease(url, "OUT"):
        with pytest.raises(InputError, match=r"OUT is in use by process \d+ on .*Wait for it, or end it"):
            lease.take_lease(url, "OUT")
        time.sleep(0.8)
        assert json.loads(read_bytes(url))["beats"] >= 1
    assert not exists(url)
    lease.take_lease(url, "OUT").release()


def test_one_of_many_gets_the_lease(url: str) -> None:
    won: list[lease.Lease] = []
    barrier = threading.Barrier(4)

    def try_it() -> None:
        barrier.wait()
        with contextlib.suppress(InputError):
            won.append(lease.take_lease(url, "OUT"))

    threads = [threading.Thread(target=try_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    won[0].release()


def test_a_dead_process_on_this_machine_is_replaced_at_once(url: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    facts = of_another(machine=lease._machine(), process=child.pid, started=lease.process_started(child.pid))
    assert create(url, json.dumps(facts).encode())
    with pytest.raises(InputError, match="in use by process 7 on far-away"):
        lease.take_lease(url, "OUT")
    child.kill()
    child.wait()
    began = time.monotonic()
    lease.take_lease(url, "OUT").release()
    assert time.monotonic() - began < 5


def test_another_machine_is_replaced_after_silence_only(url: str) -> None:
    assert create(url, json.dumps(of_another()).encode())
    ended = threading.Event()

    def beat() -> None:
        number = 0
        while not ended.wait(0.2):
            number += 1
            lease._write(url, of_another(beats=number))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(InputError, match="in use by process 7 on far-away"):
            lease.take_lease(url, "OUT")
    finally:
        ended.set()
        thread.join()
    lease.take_lease(url, "OUT").release()


def test_a_replaced_owner_detects_it(url: str) -> None:
    mine = lease.take_lease(url, "OUT")
    mine.check()
    remove(url)
    assert create(url, json.dumps(of_another()).encode())
    time.sleep(1.0)
    with pytest.raises(ShardError, match="was taken over by another run"):
        mine.check()
    mine.release()
    assert json.loads(read_bytes(url))["token"] == "theirs"


def test_torn_and_foreign_leases_are_replaced(url: str) -> None:
    for content in (b"", b"no json", b"[]", b'{"process": "x"}', b'{"machine": 3}', b"[" * 99_999):
        assert create(url, content)
        lease.take_lease(url, "OUT").release()
        assert not exists(url)
    here = lease._machine()
    for process in ("abc", [1], -1, 10**30):
        assert not lease.is_alive(url, {"machine": here, "process": process, "started": ""})
