"""OUT/.tgprep, the work folder of an unfinished extraction: its locks, the journal of finished shards, and leftovers."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from manifests.files import (
    Location,
    atomic_write,
    below,
    exists,
    is_url,
    list_files,
    read_bytes,
    read_many,
    remove,
    require_own_folder,
)
from manifests.locks import hold_lock, wait_for_lock
from manifests.manifest_io import HEADER_NAME, SHARDS_NAME, TEMPORARY_PREFIX, read_header, settle_tables
from manifests.records import InputError, Members, ShardRow, VideoRow
from tgprep.extract.lease import hold_lease, is_alive, read_lease
from tgprep.extract.workers.request import WORK_FOLDER
from tgprep.extract.workers.shards import ShardResult


def check_output_folder(out: Location) -> None:
    """InputError if OUT cannot be made, or holds files but no data set; writes nothing."""
    if isinstance(out, Path) and not out.is_dir():
        parent = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
        if not parent.is_dir():
            raise InputError(
                f"{out} is not a folder{f' ({parent} is a file)' * (parent != out)}. Name a folder for the data set."
            )
        if not os.access(parent, os.W_OK | os.X_OK):
            read_only = os.statvfs(parent).f_flag & os.ST_RDONLY
            why = os.strerror(errno.EROFS) if read_only else "is not writable"
            raise InputError(f"Cannot make the folder {out}: {parent}: {why}. Name another folder.")
    try:
        require_own_folder(
            out, {HEADER_NAME, WORK_FOLDER, SHARDS_NAME}, "data set", "Name a new or empty folder for OUT."
        )
    except OSError as error:
        raise InputError(f"Cannot read the folder {out}: {error.strerror or error}.") from None


def make_folder(out: Location) -> None:
    """Make OUT if it does not exist; a store needs no folders."""
    if isinstance(out, Path):
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"Cannot make the folder {out}: {error.strerror}. Name another folder.") from None


Check = Callable[[], None]


@contextlib.contextmanager
def exclusive(out: Location) -> Iterator[Check]:
    """Hold OUT for this run alone; the lock vanishes with the process, however it ends.

    Gives a check that raises ShardError where another machine took OUT over (object stores, and file systems without locks).
    """
    if isinstance(out, Path):
        with _opened(out, "lock") as lock:
            if hold_lock(lock, str(out)):
                yield lambda: None
                return
    with hold_lease(_claim(out, "lock"), str(out)) as claim:
        _refuse_others(out, "lock-task")
        yield claim.check


@dataclasses.dataclass(frozen=True, slots=True)
class Joined:
    """A share in OUT. check: as `exclusive` gives. last: whether OUT is now ours alone, to join the shards."""

    check: Check
    last: Callable[[], contextlib.AbstractContextManager[bool]]


@contextlib.contextmanager
def shared(out: Location, name: str) -> Iterator[Joined]:
    """Work on OUT beside others. InputError where a run holds OUT alone, or another process works under the same name."""
    if isinstance(out, Path):
        with _opened(out, "lock") as lock, _opened(out, f"lock-{name}") as own:
            if hold_lock(own, f"{name} of {out}") and hold_lock(lock, str(out), shared=True):
                yield Joined(lambda: None, lambda: _held(lock, out))
                return
    with hold_lease(_claim(out, f"lock-{name.replace(' ', '-')}"), f"{name} of {out}") as claim:
        _refuse_others(out, "lock", whole=True)
        yield Joined(claim.check, lambda: _claimed_alone(out))


@contextlib.contextmanager
def _held(lock: TextIO, out: Path) -> Iterator[bool]:
    try:
        hold_lock(lock, str(out))
    except InputError:
        yield False  # others are still at work: the last of them joins
    else:
        yield True


@contextlib.contextmanager
def _claimed_alone(out: Location) -> Iterator[bool]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(hold_lease(_claim(out, "lock"), str(out)))
        except InputError:
            yield False
            return
        yield True


def _refuse_others(out: Location, name: str, *, whole: bool = False) -> None:
    claim = _claim(out, name)
    for other in list_files(below(out, WORK_FOLDER)):
        url = str(below(out, WORK_FOLDER, other))
        if url == claim if whole else url.startswith(claim):
            there = read_lease(url)
            if there and is_alive(url, there):
                raise InputError(
                    f"{out} is in use by {there.get('owner', 'another run')}. Wait for it, or end it and run this command again."
                )
            remove(url)


def _claim(out: Location, name: str) -> str:
    """What stands for a lock where there is none: an object of a store, or a file beside the lock that could not be had."""
    return str(below(out, WORK_FOLDER, name if is_url(out) else f"claim-{name}"))


@contextlib.contextmanager
def critical_section(out: Location, name: str) -> Iterator[None]:
    """Wait until no other process is at the same point; for moments only."""
    if isinstance(out, Path):
        with _opened(out, f"lock-{name}") as lock:
            locked = False
            with contextlib.suppress(OSError):  # a file system without locks: the claim below takes their place
                locked = wait_for_lock(lock)
            if locked:
                yield
                return
    with hold_lease(_claim(out, f"lock-{name}"), f"{name} of {out}", wait=True):
        yield


def _opened(out: Path, name: str) -> TextIO:
    try:
        (out / WORK_FOLDER / "done").mkdir(parents=True, exist_ok=True)
        return (out / WORK_FOLDER / name).open("a+", encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"Cannot write to {out}: {error.strerror}. Make it writable, or name another folder."
        ) from None


def clear(work: Location) -> None:
    """Remove plan and journal; the lock stays."""
    remove(below(work, "plan.json"))  # first: without it the rest is ignored
    remove(below(work, "plan.parquet"))
    for name in list_files(below(work, "done")):
        remove(below(work, "done", name))


def remove_leftovers(out: Location, work: Location) -> None:
    """Remove unfinished files and spools of killed runs. Call it only while no other process works on OUT."""
    if exists(below(out, HEADER_NAME)):
        settle_tables(out, read_header(out))
    if not isinstance(out, Path) or not isinstance(work, Path):
        return  # a store has no partial objects
    for folder in (out, work, work / "done"):
        for leftover in folder.glob(f"{TEMPORARY_PREFIX}*"):
            leftover.unlink(missing_ok=True)
    for scratch in work.glob("scratch*"):
        shutil.rmtree(scratch, ignore_errors=True)


def save_done(work: Location, result: ShardResult) -> None:
    """Add a finished shard, with the rows of its videos, to the journal."""
    with atomic_write(below(work, "done", f"{result.shard.name}.json")) as file:
        file.write(json.dumps(dataclasses.asdict(result)).encode())


def load_done(out: Location, work: Location) -> dict[str, ShardResult]:
    """Read the journal: finished shards by name, if their file has the right size."""
    done = {}
    sizes = list_files(out)
    entries = [below(work, "done", name) for name in list_files(below(work, "done")) if name.endswith(".json")]
    for content in read_many(map(str, entries)) if is_url(work) else map(read_bytes, entries):
        raw = json.loads(content)
        shard = ShardRow(**raw["shard"])
        rows = tuple(
            VideoRow(**{**row, "members": Members(**row["members"]), "subsets": tuple(row["subsets"])})
            for row in raw["videos"]
        )
        if sizes.get(shard.name) == shard.num_bytes:
            done[shard.name] = ShardResult(shard, rows)
    return done
