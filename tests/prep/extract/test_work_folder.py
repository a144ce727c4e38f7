"""Leases on an OUT on a file system without locks: a file beside the lock replaces it, as an object does in a store."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from manifests.records import InputError, ShardRow
from tests.extraction import BACKENDS, call, start, tree, wait_until
from tgprep.config import ExtractSettings, WorkerSettings
from tgprep.extract import array_jobs, lease, pipeline
from tgprep.extract.work_folder import critical_section, exclusive, finished_shards, load_done, save_done, shared
from tgprep.extract.workers.shards import Request, ShardResult
from tgprep.scan.scan import scan

HOW = ("--decoder", "fake_backends:open_video", "--videos-per-shard", "2", "--threads", "1", "--dataset", "folder")


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: object, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.3)


def test_one_run_at_a_time(tmp_path: Path, no_locks: None) -> None:
    with exclusive(tmp_path) as check:
        check()
        with pytest.raises(InputError, match=rf"is in use by process {os.getpid()} on "), exclusive(tmp_path):
            pass
        with pytest.raises(InputError, match=r"is in use by"), shared(tmp_path, "task 0"):
            pass
    with exclusive(tmp_path):
        pass


def test_tasks_share_out_and_the_last_one_joins(tmp_path: Path, no_locks: None) -> None:
    with shared(tmp_path, "task 0") as first:
        with shared(tmp_path, "task 1") as second, critical_section(tmp_path, "plan", threading.Event()):
            with pytest.raises(InputError, match="task 0 of .* is in use by"), shared(tmp_path, "task 0"):
                pass
            with pytest.raises(InputError, match="is in use by"), exclusive(tmp_path):
                pass
            second.check()
        assert first.is_last()


@pytest.mark.parametrize("name", ["", "done", "lock"])
def test_a_link_leads_no_work_out_of_the_folder(tmp_path: Path, name: str) -> None:
    """OUT may come from a stranger: nothing is made where its links point."""
    out, mine = tmp_path / "out", tmp_path / "mine"
    mine.mkdir()
    place = out / ".tgprep" / name if name else out / ".tgprep"
    place.parent.mkdir(parents=True)
    place.symlink_to(mine / "new" if name == "lock" else mine)
    with pytest.raises(InputError, match="is a link: work in progress stays in OUT"), exclusive(out):
        pass
    assert not list(mine.iterdir())


def test_two_real_runs(tmp_path: Path) -> None:
    """The second run is refused, the killed first one is replaced, and no lease stays in the data set."""
    (tmp_path / "fake_backends.py").write_text(BACKENDS)
    videos, out = tmp_path / "videos", tmp_path / "out"
    for number in range(8):
        path = videos / "class" / f"v{number}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number + 1]) * 10)
    assert call("extract", videos, tmp_path / "whole", *HOW, path=tmp_path).returncode == 0
    (tmp_path / "sitecustomize.py").write_text(
        "import errno, fcntl\n"
        "def flock(file, how):\n    raise OSError(errno.EOPNOTSUPP, 'Operation not supported')\n"
        "fcntl.flock = flock\n"
    )
    first = start("extract", videos, out, *HOW, path=tmp_path, FAKE_SECONDS="0.1")
    wait_until(lambda: list(out.glob("shard-*.tar")))
    assert (out / ".tgprep" / "claim-lock").exists()
    first.send_signal(signal.SIGSTOP)  # so that it cannot end before the second has looked
    second = call("extract", videos, out, *HOW, path=tmp_path)
    assert second.returncode == 2
    assert f"Error: {out} is in use by process {first.pid} on {os.uname().nodename}" in second.stderr
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate(timeout=60)
    done = call("extract", videos, out, *HOW, path=tmp_path)
    assert done.returncode == 0, done.stderr
    assert tree(out) == tree(tmp_path / "whole")


def test_journal_is_read_while_another_process_adds_to_it(tmp_path: Path) -> None:
    done = tmp_path / ".tgprep" / "done"
    done.mkdir(parents=True)
    (done / ".tmp-0123-shard-000001.tar.json").write_bytes(b"")  # as atomic_write has it before it writes
    assert load_done(tmp_path, tmp_path / ".tgprep", "", []) == {}


def test_a_task_reads_and_judges_its_own_entries_alone(tmp_path: Path) -> None:
    work = tmp_path / ".tgprep"
    for number in range(3):
        name = f"shard-{number:06d}.tar"
        (tmp_path / name).write_bytes(b"12345")
        work.mkdir(exist_ok=True)
        save_done(work, ShardResult(ShardRow(name, 0, 5, "0" * 64), ()), "plan")
    damaged = work / "done" / "shard-000001.tar.json"
    damaged.write_bytes(b"{}")
    notes: list[str] = []
    assert list(load_done(tmp_path, work, "plan", notes, ["shard-000002.tar", "shard-000009.tar"])) == [
        "shard-000002.tar"
    ]
    assert not notes
    assert len(finished_shards(work)) == 3
    assert list(load_done(tmp_path, work, "plan", notes)) == ["shard-000000.tar", "shard-000002.tar"]
    assert len(notes) == 1
    assert not damaged.exists()


def test_tasks_that_wait_for_the_first_plan_read_it_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only making the plan is done by one task at a time."""
    inside: list[str] = []

    @contextlib.contextmanager
    def watched(out: Path, name: str, stop: threading.Event) -> Iterator[None]:
        with critical_section(out, name, stop):
            inside.append("made" if not (out / ".tgprep" / "plan.json").exists() else "found")
            held.append(name)
            yield
            held.pop()

    held: list[str] = []
    read = pipeline.load_plan
    monkeypatch.setattr(array_jobs, "critical_section", watched)
    monkeypatch.setattr(pipeline, "load_plan", lambda work: (inside.append(f"read {len(held)}"), read(work))[1])
    videos = tmp_path / "videos"
    (videos / "a").mkdir(parents=True)
    (videos / "a" / "v.avi").write_bytes(b"1")
    out = tmp_path / "out"
    request = pipeline.prepare(Request(videos, out, ExtractSettings(), WorkerSettings()))
    (out / ".tgprep").mkdir(parents=True)
    found = scan(videos, dataset="folder")
    plan, _ = array_jobs._common_plan(request, found)
    assert inside == ["made", "read 1"]
    assert array_jobs._common_plan(request, found)[0] == plan
    assert inside == ["made", "read 1", "read 0"]
    # One that saw no plan, and waited while another made it.
    seen = iter([False])
    monkeypatch.setattr(array_jobs, "exists", lambda place: next(seen, True))
    assert array_jobs._common_plan(request, found)[0] == plan
    assert inside == ["made", "read 1", "read 0", "found", "read 0"]
