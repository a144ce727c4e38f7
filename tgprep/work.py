"""OUT/.tgprep, the work folder of an unfinished extraction: who owns it, which shards are done, what to clean up."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from manifests.records import InputError, Members, ShardRow, VideoRow
from manifests.store import HEADER_NAME, SHARDS_NAME, TEMPORARY_PREFIX, atomic_write, read_header, settle_tables
from tgprep.supervise import ShardResult

WORK_FOLDER = ".tgprep"


def make_folder(out: Path) -> None:
    """Make OUT where it is absent; InputError where it cannot be, or holds something that is no data set of ours."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{out} is not a folder. Name a folder for the data set.") from None
    except OSError as error:
        raise InputError(f"Cannot make the folder {out}: {error.strerror}.") from None
    if not any((out / name).exists() for name in (HEADER_NAME, WORK_FOLDER, SHARDS_NAME)):
        others = sorted(path.name for path in out.iterdir())
        if others:
            raise InputError(
                f"{out} is not empty ({', '.join(others[:3])}{', …' if len(others) > 3 else ''}) and holds no data set. "
                f"Name a new or empty folder for OUT."
            )


@contextlib.contextmanager
def owned(out: Path) -> Iterator[Path]:
    """Hold OUT for this run alone and give its work folder; the lock vanishes with the process, however it ends."""
    with _opened(out, "lock") as lock:
        hold(lock, out)
        yield out / WORK_FOLDER


@contextlib.contextmanager
def joined(out: Path, name: str) -> Iterator[TextIO]:
    """Work on OUT beside others: gives the lock that all share, so that the last one can `hold` it alone.

    InputError where a run holds OUT alone, or where another process works under the same name.
    """
    with _opened(out, "lock") as lock, _opened(out, f"lock-{name}") as own:
        hold(own, out, f"{name} of {out}")
        hold(lock, out, shared=True)
        yield lock


def hold(lock: TextIO, out: Path, what: str = "", *, shared: bool = False) -> None:
    """Lock an opened lock file or turn a shared lock into one's own; InputError, naming the owner, where it is taken."""
    try:
        fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        owner = lock.read().strip() or "an unknown process"
        raise InputError(
            f"{what or out} is in use by {owner}. Wait for it, or end it and run this command again."
        ) from None
    except OSError:
        pass  # a file system without locks: one run at a time is then up to the user
    with contextlib.suppress(OSError):  # a full disk: the name of the owner is a courtesy
        lock.seek(0)
        lock.truncate()
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()


@contextlib.contextmanager
def alone(out: Path, name: str) -> Iterator[None]:
    """Wait until no other process is at the same point; for moments only."""
    with _opened(out, f"lock-{name}") as lock:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _opened(out: Path, name: str) -> TextIO:
    try:
        (out / WORK_FOLDER / "done").mkdir(parents=True, exist_ok=True)
        return (out / WORK_FOLDER / name).open("a+", encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"Cannot write to {out}: {error.strerror}. Make it writable, or name another folder."
        ) from None


def clear(work: Path) -> None:
    """Forget the plan and the journal of work that is finished or void; the lock stays."""
    (work / "plan.json").unlink(missing_ok=True)  # first: without it the rest means nothing
    (work / "plan.parquet").unlink(missing_ok=True)
    for entry in (work / "done").glob("*.json"):
        entry.unlink()


def remove_leftovers(out: Path, work: Path) -> None:
    """Remove what killed runs left behind: unfinished files and spools. Only while no other process works on OUT."""
    if (out / HEADER_NAME).exists():
        settle_tables(out, read_header(out))
    for folder in (out, work, work / "done"):
        for leftover in folder.glob(f"{TEMPORARY_PREFIX}*"):
            leftover.unlink(missing_ok=True)
    for scratch in work.glob("scratch*"):
        shutil.rmtree(scratch, ignore_errors=True)


def save_done(work: Path, result: ShardResult) -> None:
    """Note that a shard is finished, with the rows of its videos."""
    with atomic_write(work / "done" / f"{result.shard.name}.json") as file:
        file.write(json.dumps(dataclasses.asdict(result)).encode())


def load_done(out: Path, work: Path) -> dict[str, ShardResult]:
    """The shards that earlier runs finished: an entry of the journal, and a file of the right size."""
    done = {}
    for entry in sorted((work / "done").glob("*.json")):
        raw = json.loads(entry.read_bytes())
        shard = ShardRow(**raw["shard"])
        rows = tuple(
            VideoRow(**{**row, "members": Members(**row["members"]), "subsets": tuple(row["subsets"])})
            for row in raw["videos"]
        )
        with contextlib.suppress(FileNotFoundError):
            if (out / shard.name).stat().st_size == shard.num_bytes:
                done[shard.name] = ShardResult(shard, rows)
    return done
