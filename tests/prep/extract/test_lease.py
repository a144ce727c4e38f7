"""Who owns an OUT in a store: one at a time; taken over from the dead, on this machine at once, on another after silence."""

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
from tgprep.extract import lease as claim
from tgprep.extract.workers.shards import ShardError


@pytest.fixture
def url(store: ObjectStore, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    monkeypatch.setattr(claim, "BEAT_SECONDS", 0.3)
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
    with claim.claimed(url, "OUT"):
        with pytest.raises(InputError, match=r"OUT is in use by process \d+ on .*Wait for it, or end it"):
            claim.take(url, "OUT")
        time.sleep(0.8)
        assert json.loads(read_bytes(url))["beats"] >= 1
    assert not exists(url)
    claim.take(url, "OUT").release()


def test_many_at_once_and_one_gets_it(url: str) -> None:
    won: list[claim.Claim] = []
    barrier = threading.Barrier(4)

    def try_it() -> None:
        barrier.wait()
        with contextlib.suppress(InputError):
            won.append(claim.take(url, "OUT"))

    threads = [threading.Thread(target=try_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    won[0].release()


def test_a_dead_process_of_this_machine_gives_way_at_once(url: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    facts = of_another(machine=claim._machine(), process=child.pid, started=claim._started(child.pid))
    assert create(url, json.dumps(facts).encode())
    with pytest.raises(InputError, match="in use by process 7 on far-away"):
        claim.take(url, "OUT")
    child.kill()
    child.wait()
    began = time.monotonic()
    claim.take(url, "OUT").release()
    assert time.monotonic() - began < 5


def test_another_machine_gives_way_after_silence_only(url: str) -> None:
    assert create(url, json.dumps(of_another()).encode())
    ended = threading.Event()

    def beat() -> None:
        number = 0
        while not ended.wait(0.2):
            number += 1
            claim._write(url, of_another(beats=number))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(InputError, match="in use by process 7 on far-away"):
            claim.take(url, "OUT")
    finally:
        ended.set()
        thread.join()
    claim.take(url, "OUT").release()


def test_who_was_taken_for_dead_learns_it(url: str) -> None:
    mine = claim.take(url, "OUT")
    mine.check()
    remove(url)
    assert create(url, json.dumps(of_another()).encode())
    time.sleep(1.0)
    with pytest.raises(ShardError, match="was taken over by another run"):
        mine.check()
    mine.release()
    assert json.loads(read_bytes(url))["token"] == "theirs"


def test_torn_and_foreign_claims_are_replaced(url: str) -> None:
    for content in (b"", b"no json", b"[]", b'{"process": "x"}', b'{"machine": 3}'):
        assert create(url, content)
        claim.take(url, "OUT").release()
        assert not exists(url)
