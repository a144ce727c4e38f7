"""OUT/.tgprep, the work folder of an unfinished extraction: its locks, the journal of finished shards, and leftovers."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TextIO

from pydantic import TypeAdapter

from manifests import files
from manifests.card import CARD_NAME
from manifests.console import waiting
from manifests.locks import hold_lock, wait_for_lock
from manifests.manifest_io import HEADER_NAME, SHARDS_NAME, read_header, settle_tables
from manifests.records import InputError
from tgprep.extract.lease import hold_lease, is_alive, read_lease
from tgprep.extract.workers.shards import WORK_FOLDER, ShardResult, StoppedError


def check_output_folder(out: files.Location) -> None:
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
        files.require_own_folder(
            out,
            {HEADER_NAME, WORK_FOLDER, SHARDS_NAME},
            "data set",
            "Name a new or empty folder for OUT.",
            ignored=(CARD_NAME,),
        )
    except OSError as error:
        raise InputError(f"Cannot read the folder {out}: {error.strerror or error}.") from None


def make_folder(out: files.Location) -> None:
    """Make OUT if it does not exist (a store needs no folders). InputError if it holds files but no data set."""
    check_output_folder(out)  # again: a scan of hours may lie between
    if isinstance(out, Path):
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"Cannot make the folder {out}: {error.strerror}. Name another folder.") from None


Check = Callable[[], None]
_RESULT = TypeAdapter(ShardResult)


@contextlib.contextmanager
def exclusive(out: files.Location) -> Iterator[Check]:
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
    is_last: Callable[[], bool]  # False while others work on OUT; True: this process holds it alone from now on


@contextlib.contextmanager
def shared(out: files.Location, name: str) -> Iterator[Share]:
    """Work on OUT beside others. InputError if a run holds OUT alone, or another process works under the same name."""
    what = f"{name} of {out}"
    with contextlib.ExitStack() as stack:
        if isinstance(out, Path):
            lock, own_lock = (stack.enter_context(_opened(out, file)) for file in ("lock", f"lock-{name}"))
            if hold_lock(own_lock, what) and hold_lock(lock, str(out), shared=True):
                yield Share(lambda: None, lambda: _succeeds(lambda: hold_lock(lock, str(out))))
                return
        lease = stack.enter_context(hold_lease(_lease(out, f"lock-{name.replace(' ', '-')}"), what))
        _refuse_other_leases(out, "lock")
        alone = hold_lease(_lease(out, "lock"), str(out))
        yield Share(lease.check, lambda: _succeeds(lambda: stack.enter_context(alone)))


def _succeeds(hold: Callable[[], object]) -> bool:
    """Whether OUT can be held: `hold` raises InputError if another process has it."""
    try:
        hold()
    except InputError:
        return False
    return True


def _refuse_other_leases(out: files.Location, pattern: str) -> None:
    """InputError if a living process has a lease with a matching name; other such leases are removed."""
    pattern = _lease(out, pattern).rpartition("/")[2]
    for name in files.list_files(files.below(out, WORK_FOLDER)):
        if fnmatchcase(name, pattern):
            url = str(files.below(out, WORK_FOLDER, name))
            facts = read_lease(url)
            if facts and is_alive(url, facts):
                owner = facts.get("owner", "another run")
                raise InputError(f"{out} is in use by {owner}. Wait for it, or end it and run this command again.")
            files.remove(url)


def _lease(out: files.Location, name: str) -> str:
    """Path or URL of a lease: an object of a store, or a file beside the lock that the file system does not support."""
    return str(files.below(out, WORK_FOLDER, name if files.is_url(out) else f"claim-{name}"))


@contextlib.contextmanager
def critical_section(out: files.Location, name: str, stop: threading.Event) -> Iterator[None]:
    """Block until this process holds the named lock; StoppedError once `stop` is set. Keep the section short."""
    what = f"another task that holds the {name} of {out}"
    if isinstance(out, Path):
        with _opened(out, f"lock-{name}") as lock:
            locked = False
            with contextlib.suppress(OSError), waiting(what):  # a file system without locks: a lease replaces it
                locked = wait_for_lock(lock, give_up=stop.is_set)
            if stop.is_set():
                raise StoppedError
            if locked:
                yield
                return
    with contextlib.ExitStack() as stack:
        with waiting(what):
            stack.enter_context(hold_lease(_lease(out, f"lock-{name}"), f"{name} of {out}", wait=stop))
        yield


def _opened(out: Path, name: str) -> TextIO:
    work = out / WORK_FOLDER
    for place in (work, work / "done", work / name):
        if place.is_symlink():  # a stranger may have made OUT, and files are written and removed there
            raise InputError(
                f"{place} is a link: work in progress stays in OUT. Remove it (--scratch names another disk)."
            )
    try:
        (work / "done").mkdir(parents=True, exist_ok=True)
        return (work / name).open("a+", encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"Cannot write to {out}: {error.strerror}. Make it writable, or name another folder."
        ) from None


def clear(work: files.Location) -> None:
    """Remove plan and journal; the lock stays."""
    files.remove(files.below(work, "plan.json"))  # first: without it the rest is ignored
    files.remove(files.below(work, "plan.parquet"))
    for name in files.list_files(files.below(work, "done")):
        files.remove(files.below(work, "done", name))


def remove_leftovers(out: files.Location, work: files.Location) -> None:
    """Remove unfinished files and spools of killed runs. Call it only while no other process works on OUT."""
    if files.exists(files.below(out, HEADER_NAME)):
        settle_tables(out, read_header(out))
    if not isinstance(out, Path) or not isinstance(work, Path):
        return  # a store has no partial objects
    for folder in (out, work, work / "done"):
        for leftover in filter(Path.is_file, folder.glob(f"{files.TEMPORARY_PREFIX}*")):
            leftover.unlink(missing_ok=True)
    for scratch in work.glob("scratch*"):
        shutil.rmtree(scratch, ignore_errors=True)


def remove(out: files.Location) -> None:
    """Remove the work folder with all that is in it, and what killed runs have left beside it."""
    work = files.below(out, WORK_FOLDER)
    remove_leftovers(out, work)
    files.remove_tree(work)


def save_done(work: files.Location, result: ShardResult) -> None:
    """Add a finished shard, with the rows of its videos, to the journal."""
    with files.atomic_write(files.below(work, "done", f"{result.shard.name}.json")) as file:
        file.write(json.dumps(dataclasses.asdict(result)).encode())


def load_done(out: files.Location, work: files.Location) -> dict[str, ShardResult]:
    """Read the journal: finished shards by name, if their file has the right size."""
    done = {}
    sizes = files.list_files(out)
    entries = [
        files.below(work, "done", name)
        for name in files.list_files(files.below(work, "done"))
        if name.endswith(".json") and not name.startswith(files.TEMPORARY_PREFIX)
    ]
    for content in files.read_many(map(str, entries)) if files.is_url(work) else map(files.read_bytes, entries):
        result = _RESULT.validate_python(json.loads(content))
        if sizes.get(result.shard.name) == result.shard.num_bytes:
            done[result.shard.name] = result
    return done
