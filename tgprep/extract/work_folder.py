"""OUT/.tgprep, the work folder of an unfinished extraction: its locks, the journal of finished shards, and leftovers."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Collection, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TextIO

from pydantic import TypeAdapter

from manifests import disk, files
from manifests.card import CARD_NAME
from manifests.console import plural, waiting
from manifests.locks import hold_lock, lock_file, wait_for_lock
from manifests.manifest_io import HEADER_NAME, MERGE_NAME, SHARDS_NAME, SPLITS_FOLDER, read_header, settle_tables
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
    if files.exists(files.below(out, WORK_FOLDER, MERGE_NAME)) and not files.exists(files.below(out, HEADER_NAME)):
        raise InputError(
            f"{out} holds an unfinished merge. Finish it with the same `tgprep merge`, or name another folder."
        )
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
            raise InputError(f"Cannot make the folder {disk.explained(error, out)}") from None


Check = Callable[[], None]
_RESULT = TypeAdapter(ShardResult)


@contextlib.contextmanager
def exclusive(out: files.Location, *, wait_seconds: float = 0.0) -> Iterator[Check]:
    """Hold OUT for this process alone: all that write into a data set do. The hold ends with the process.

    Gives a check that raises ShardError if another machine took OUT over (object stores, and file systems without locks).
    InputError, which names the owner, if another process holds it, after `wait_seconds`.
    """
    with contextlib.ExitStack() as stack:
        if isinstance(out, Path):
            lock = stack.enter_context(_locked(out, "lock", str(out), wait_seconds=wait_seconds))
            stack.callback(_remove_if_unused, out)
            if lock is not None:
                yield lambda: None
                return
        lease = stack.enter_context(hold_lease(_lease(out, "lock"), str(out)))
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
            own_lock = stack.enter_context(_locked(out, f"lock-{name}", what))
            lock = stack.enter_context(_locked(out, "lock", str(out), shared=True))
            if own_lock is not None and lock is not None:
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
        with (out / WORK_FOLDER / f"lock-{name}").open("a+", encoding="utf-8") as lock:
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


@contextlib.contextmanager
def _locked(out: Path, name: str, what: str, **how: Any) -> Iterator[TextIO | None]:
    """Hold a lock in the work folder. InputError if another process has it, nothing can be written, or a link is in the way."""
    work = out / WORK_FOLDER
    with contextlib.ExitStack() as stack:
        try:
            if link := next((path for path in (work, *work.glob("*")) if path.is_symlink()), None):
                raise InputError(
                    f"{link} is a link: work in progress stays in OUT. Remove it (--scratch names another disk)."
                )
            lock = stack.enter_context(lock_file(work / name, what, **how))
        except OSError as error:
            raise InputError(f"Cannot write to {disk.explained(error, out)}") from None
        yield lock


def _remove_if_unused(out: Path) -> None:
    """Remove the work folder if it holds locks only: no plan, journal or unfinished work. OUT is held."""
    work = out / WORK_FOLDER
    with contextlib.suppress(OSError):
        for folder in (*work.glob("scratch*"), work / "done"):
            with contextlib.suppress(OSError):
                folder.rmdir()  # only if it is empty
        if all(path.name.startswith("lock") for path in work.iterdir()):
            shutil.rmtree(work)


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
    for folder in (out, out / SPLITS_FOLDER, work, work / "done"):
        disk.remove_leftovers(folder)
    for scratch in work.glob("scratch*"):
        shutil.rmtree(scratch, ignore_errors=True)


def remove(out: files.Location) -> None:
    """Remove the work folder with all that is in it, and what killed runs have left beside it."""
    work = files.below(out, WORK_FOLDER)
    remove_leftovers(out, work)
    files.remove_tree(work)


def save_done(work: files.Location, result: ShardResult, plan: str) -> None:
    """Add a finished shard, with the rows of its videos, to the journal. plan: the digest of what the shard is a part of."""
    if isinstance(work, Path):
        (work / "done").mkdir(exist_ok=True)
    with files.atomic_write(files.below(work, "done", f"{result.shard.name}.json")) as file:
        entry = json.dumps(dataclasses.asdict(result)).encode()
        file.write(entry + b"\n" + _seal(entry, plan))


def _seal(entry: bytes, plan: str) -> bytes:
    return hashlib.sha256(entry + plan.encode()).hexdigest().encode()


def finished_shards(work: files.Location) -> set[str]:
    """The names of the shards that the journal has an entry for, which is not read."""
    names = files.list_files(files.below(work, "done"))
    ends = (name.removesuffix(".json") for name in names if name.endswith(".json"))
    return {name for name in ends if not name.startswith(disk.TEMPORARY_PREFIX)}


def load_done(
    out: files.Location, work: files.Location, plan: str, notes: list[str], only: Collection[str] | None = None
) -> dict[str, ShardResult]:
    """Read the journal: finished shards by name, if their file has the right size. only: the names to look for.

    Entries that are damaged or of another plan are removed, with a note: their shards are written again.
    """
    done, lost = {}, []
    sizes = files.list_files(out)
    names = sorted(finished_shards(work) if only is None else finished_shards(work).intersection(only))
    entries = [files.below(work, "done", f"{name}.json") for name in names]
    contents = files.read_many(map(str, entries)) if files.is_url(work) else map(_content, entries)
    for place, content in zip(entries, contents, strict=True):
        if not content:
            continue
        entry, _, seal = content.partition(b"\n")
        try:
            if seal and seal != _seal(entry, plan):  # older versions wrote none
                raise ValueError("another seal")
            result = _RESULT.validate_json(entry)
        except ValueError:
            lost.append(place)
            continue
        if sizes.get(result.shard.name) == result.shard.num_bytes:
            done[result.shard.name] = result
    for place in lost:
        files.remove(place)
    if lost:
        first = str(lost[0]).rpartition("/")[2].removesuffix(".json")
        notes.append(
            f"{plural(len(lost), 'entry of the journal is', 'entries of the journal are')} damaged or of another plan, such as that of {first}: written again"
        )
    return done


def _content(place: files.Location) -> bytes:
    """The bytes of an entry; none if another task has just joined the shards and removed it."""
    with contextlib.suppress(FileNotFoundError):
        return files.read_bytes(place)
    return b""
