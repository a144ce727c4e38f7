"""What became of the inputs of an extraction: as text, as a last event, or as one JSON object."""

from __future__ import annotations

import dataclasses
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from cli.common import human_bytes, human_seconds, print_json

if TYPE_CHECKING:
    from cli.prep.progress import ExtractProgress
    from manifests.files import Location
    from tgprep.extract.pipeline import Outcome
    from tgprep.scan.scan import Extra, Missing, Scan


_MAX_LINES = 10


def report(
    outcome: Outcome, found: Scan | None, out: Location, progress: ExtractProgress, seconds: float, as_json: bool
) -> None:
    """Tell what became of the inputs: as text, as a last event, or as one JSON object on stdout.

    found: None where VIDEOS was not looked at, so that nothing tells what it lacks or has beside the lists.
    """
    account = outcome.account
    for note in outcome.notes:
        progress.tell("note", note)
    from tgprep.view.copies import find_copies

    rows = [row for row in outcome.manifest.videos if row.status != "written"]
    facts = {
        **dataclasses.asdict(account),
        "out": str(out),
        "already_finished": outcome.already_finished,
        "num_shards_kept": outcome.num_shards_kept,
        "seconds": round(seconds, 3),
        "failed": [{"path": row.path, "error": row.error} for row in rows if row.status == "failed"],
        "skipped": [{"path": row.path, "reason": row.error} for row in rows if row.status == "skipped"],
        "copies": dataclasses.asdict(find_copies(outcome.manifest.videos)),
        "missing": [dataclasses.asdict(entry) for entry in found.missing] if found else [],
        "extra": [dataclasses.asdict(entry) for entry in found.extra] if found else [],
    }
    if progress.log_json:
        progress.tell("finished", "", **facts)
    if as_json:
        print_json(facts)
    elif not progress.log_json:
        for line in _account_lines(outcome, found, out, progress.frames, seconds):
            progress.tell("finished", line)


def _account_lines(
    outcome: Outcome, found: Scan | None, out: Location, num_frames: int, seconds: float
) -> Iterator[str]:
    account = outcome.account
    if outcome.already_finished:
        yield f"{out} is finished already: nothing to do."
    elif outcome.num_shards_kept:
        yield f"{outcome.num_shards_kept} shards were kept from before."
    yield (
        f"{account.num_inputs} inputs = {account.num_written} written + {account.num_failed} failed "
        f"+ {account.num_skipped} skipped"
    )
    rows = [row for row in outcome.manifest.videos if row.status != "written"]
    reasons = Counter(row.error for row in rows)
    for reason, count in reasons.most_common(10):
        example = next(row.path for row in rows if row.error == reason)
        yield f"  {count} x {reason} ({example}{', …' if count > 1 else ''})"
    if len(reasons) > 10:
        yield f"  and {len(reasons) - 10} more reasons: `tgprep info {out}` or videos.parquet"
    if found is not None:
        yield from _missing_lines(found.missing)
        yield from _extra_lines(found.extra, found.dataset)
    from tgprep.view.copies import find_copies

    yield from find_copies(outcome.manifest.videos).lines()
    noted = sum(1 for note in outcome.manifest.videos.column("note") if note)
    if noted:
        yield f"{noted} written videos carry a note (column `note` of videos.parquet)."
    speed = f" in {human_seconds(seconds)} ({num_frames / max(seconds, 1e-3):.0f} frames/s)" if num_frames else ""
    yield f"{account.num_frames} frames in {account.num_shards} shards, {human_bytes(account.num_bytes)}{speed}: {out}"
    yield f"Next: tgprep split{'' if str(out) == 'dataset' else f' {shlex.quote(str(out))}'} --percent 20"


def _missing_lines(missing: Sequence[Missing]) -> Iterator[str]:
    if not missing:
        return
    num_missing = sum(entry.num_missing for entry in missing)
    yield f"{num_missing} videos that the lists name are not in VIDEOS (no failure: a part of a data set is a data set):"
    for entry in missing[:_MAX_LINES]:
        name = entry.class_name or "no class"
        yield f"  {name}: {entry.num_missing} of {entry.num_listed} ({entry.examples[0]}{', …' if entry.num_missing > 1 else ''})"
    yield from _more_classes(missing)


def _extra_lines(extra: Sequence[Extra], dataset: str) -> Iterator[str]:
    if not extra:
        return
    num_extra = sum(entry.num_extra for entry in extra)
    what = "left aside" if dataset == "csv" else "taken; the lists give them no subset"
    yield f"{num_extra} videos in VIDEOS are in no list ({what}):"
    for entry in extra[:_MAX_LINES]:
        yield f"  {entry.class_name or 'no class'}: {entry.num_extra} ({entry.examples[0]}{', …' if entry.num_extra > 1 else ''})"
    yield from _more_classes(extra)


def _more_classes(entries: Sequence[object]) -> Iterator[str]:
    if len(entries) > _MAX_LINES:
        yield f"  and {len(entries) - _MAX_LINES} more classes: --json names them"
