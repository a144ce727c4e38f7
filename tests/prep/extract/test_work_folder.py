"""Leases on an OUT on a file system without locks: a file beside the lock replaces it, as an object does in a store."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import threading
from pathlib import Path

import pytest

from manifests.records import InputError
from tests.extraction import BACKENDS, call, start, tree, wait_until
from tgprep.extract import lease
from tgprep.extract.work_folder import critical_section, exclusive, load_done, shared

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
