"""`tgprep.extract`, the function: from keywords to an account of the videos."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.files import Location, parse_location
from manifests.object_store import set_warning_handler
from manifests.records import FAILED, InputError
from tgprep.config import ExtractOptions, ExtractSettings, WorkerSettings, build
from tgprep.extract import pipeline
from tgprep.extract.plan import Update
from tgprep.extract.workers.shards import Progress, Request
from tgprep.scan.pool import Pools
from tgprep.scan.scan import scan


@dataclass(frozen=True, slots=True)
class Extraction:
    """The account of `tgprep.extract`: every input was written, has failed or was skipped."""

    out: Location
    num_written: int
    num_failed: int
    num_skipped: int
    already_finished: bool  # OUT was complete before
    failed: tuple[tuple[str, str], ...]  # path and reason of each failed video
    notes: tuple[str, ...]


def run(
    videos: str | Path,
    out: str | Path,
    unlabelled: str | Path | Sequence[str | Path],
    named: Mapping[str, Any],
    update: tuple[bool, bool],
    settings: Mapping[str, Any],
    log: Callable[[str], None] | None,
) -> Extraction:
    """See `tgprep.extract`. named: keywords of the scan. update: add, retry_failed."""
    _refuse_mistakes(named["classes"], settings)
    places = [unlabelled] if isinstance(unlabelled, str | Path) else unlabelled
    source, target, *folders = (parse_location(str(place)) for place in (videos, out, *places))
    lists = None if named["annotations"] is None else parse_location(str(named["annotations"]))
    how = build(ExtractSettings, settings), build(WorkerSettings, settings)
    pools = Pools.of(source, folders)

    def say(*lines: str) -> None:
        for line in lines if log is not None else ():
            log(line)  # type: ignore[misc]

    def report(event: Progress) -> None:
        if event.row is not None and event.row.status == FAILED:
            say(f"failed: {event.row.path}: {event.row.error}")

    before = set_warning_handler(lambda store, text: say(text))
    try:
        request = pipeline.prepare(Request(source, target, *how, pools, on_progress=report))
        found = scan(source, **{**named, "annotations": lists}, pools=pools)
        say(*found.notes)
        outcome = pipeline.extract(request, found, Update(*update))
        say(*outcome.notes)
    finally:
        set_warning_handler(before)
    header, table = outcome.manifest.header, outcome.manifest.videos
    columns = (table.column(name) for name in ("path", "error", "status"))
    failed = tuple((path, error) for path, error, status in zip(*columns, strict=True) if status == FAILED)
    counts = header.num_written, header.num_failed, header.num_skipped
    return Extraction(target, *counts, outcome.already_finished, failed, (*found.notes, *outcome.notes))


def _refuse_mistakes(classes: str, settings: Mapping[str, Any]) -> None:
    """InputError for what the command's parser would refuse."""
    known = ExtractOptions.__annotations__
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}."
            raise InputError(f"tgprep.extract: got the keyword {name}, which is no setting: {hint}")
    if classes not in ("all", "present"):
        raise InputError(f"tgprep.extract: classes is {classes!r}, expected 'all' or 'present'.")
