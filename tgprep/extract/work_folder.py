"""OUT/.tgprep, the work folder of an unfinished extraction: its locks, the journal of finished shards, and leftovers."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TextIO

from pydantic import TypeAdapter

from manifests.files import (
    TEMPORARY_PREFIX,
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
from manifests.manifest_io import HEADER_NAME, SHARDS_NAME, read_header, settle_tables
from manifests.records import InputError
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
_RESULT = TypeAdapter(ShardResult)


@contextlib.contextmanager
def exclusive(out: Location) -> Iterator[Check]:
    """Hold OUT for this run alone; the hold ends with the process.

    Gives a check that raises ShardError if another machine took OUT over (object stores, and file systems without locks).
    """
    if isinstance(out, Path):
        with _opened(out, "lock") as lock:
            if hold_lock(lock, str(out)):
                yield lambda: None
                return
    with hold_lease(_lease(out, "lock"), str(out)) as lease:
        _refuse_other_leases(out, "lock-task*")
        yield lease.check


@dataclasses.dataclass(frozen=True, slots=True)
class Share:
    """A shared hold of OUT."""

    check: Check  # as `exclusive` gives
    last: Callable[[], contextlib.AbstractContextManager[bool]]  # holds OUT alone; False while others work on it


@contextlib.contextmanager
def shared(out: Location, name: str) -> Iterator[Share]:
    """Work on OUT beside others. InputError if a run holds OUT alone, or another process works under the same name."""
    if isinstance(out, Path):
        with _opened(out, "lock") as lock, _opened(out, f"lock-{name}") as own_lock:
            if hold_lock(own_lock, f"{name} of {out}") and hold_lock(lock, str(out), shared=True):
                yield Share(lambda: None, lambda: _attempt(_held(lock, out)))
                return
    with hold_lease(_lease(out, f"lock-{name.replace(' ', '-')}"), f"{name} of {out}") as lease:
        _refuse_other_leases(out, "lock")
        yield Share(lease.check, lambda: _attempt(hold_lease(_lease(out, "lock"), str(out))))


@contextlib.contextmanager
def _held(lock: TextIO, out: Path) -> Iterator[None]:
    hold_lock(lock, str(out))
    yield


@contextlib.contextmanager
def _attempt(holding: contextlib.AbstractContextManager[object]) -> Iterator[bool]:
    """Whether OUT can be held; if so, hold it for the block."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(holding)
            is_free = True
        except InputError:
            is_free = False
        yield is_free


def _refuse_other_leases(out: Location, pattern: str) -> None:
    """InputError if a living process has a lease with a matching name; other such leases are removed."""
    pattern = _lease_name(out, pattern)
    for name in list_files(below(out, WORK_FOLDER)):
        if fnmatchcase(name, pattern):
            url = str(below(out, WORK_FOLDER, name))
            facts = read_lease(url)
            if facts and is_alive(url, facts):
                owner = facts.get("owner", "another run")
                raise InputError(f"{out} is in use by {owner}. Wait for it, or end it and run this command again.")
            remove(url)


def _lease(out: Location, name: str) -> str:
    return str(below(out, WORK_FOLDER, _lease_name(out, name)))


def _lease_name(out: Location, name: str) -> str:
    """An object of a store, or a file beside the lock that the file system does not support."""
    return name if is_url(out) else f"claim-{name}"


@contextlib.contextmanager
def critical_section(out: Location, name: str) -> Iterator[None]:
    """Block until this process holds the named lock. Keep the section short."""
    if isinstance(out, Path):
        with _opened(out, f"lock-{name}") as lock:
            locked = False
            with contextlib.suppress(OSError):  # a file system without locks: a lease replaces it
                locked = wait_for_lock(lock)
            if locked:
                yield
                return
    with hold_lease(_lease(out, f"lock-{name}"), f"{name} of {out}", wait=True):
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
        result = _RESULT.validate_python(json.loads(content))
        if sizes.get(result.shard.name) == result.shard.num_bytes:
            done[result.shard.name] = result
    return done
