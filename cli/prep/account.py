"""The account of an extraction for the user: as text, as a last event, or as one JSON object."""

from __future__ import annotations

import dataclasses
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from cli.common import human_bytes, human_seconds, plural, print_json
from manifests.records import FAILED, SKIPPED, WRITTEN

if TYPE_CHECKING:
    from cli.prep.progress import ExtractProgress
    from manifests.files import Location
    from manifests.table import Manifest
    from tgprep.extract.pipeline import Outcome
    from tgprep.scan.scan import Extra, Missing, Scan
    from tgprep.view.copies import Copies

    Entry = TypeVar("Entry", Missing, Extra)

_MAX_LINES = 10
MAX_SKIPPED_SHARE = 0.1  # of the inputs; with more, the data set is hardly the one that was meant


def report(
    outcome: Outcome, scan: Scan | None, out: Location, progress: ExtractProgress, seconds: float, as_json: bool
) -> None:
    """Report what became of the inputs.

    scan: None if VIDEOS was not scanned, so that missing and unlisted videos are unknown.
    """
    from tgprep.view.copies import find_copies

    for note in outcome.notes:
        progress.log("note", note)
    copies = find_copies(outcome.manifest.videos)
    if not as_json and not progress.log_json:
        for line in _lines(outcome, scan, copies, out, progress.num_frames, seconds):
            progress.log("finished", line)
        return
    manifest, header = outcome.manifest, outcome.manifest.header
    rows = [row for row in manifest.videos if row.status != WRITTEN]
    facts = {
        "num_inputs": len(manifest.videos),
        **{name: getattr(header, name) for name in ("num_written", "num_failed", "num_skipped")},
        "num_without_label": manifest.videos.num_without_label,
        "too_many_skipped": too_many_skipped(manifest),
        "num_frames": sum(manifest.videos.column("num_frames")),
        "num_bytes": sum(shard.num_bytes for shard in manifest.shards),
        "num_shards": len(manifest.shards),
        "out": str(out),
        "already_finished": outcome.already_finished,
        "num_shards_kept": outcome.num_shards_kept,
        "seconds": round(seconds, 3),
        "failed": [{"path": row.path, "error": row.error} for row in rows if row.status == FAILED],
        "skipped": [{"path": row.path, "reason": row.error} for row in rows if row.status == SKIPPED],
        "copies": dataclasses.asdict(copies),
        "missing": [dataclasses.asdict(entry) for entry in scan.missing] if scan else [],
        "extra": [dataclasses.asdict(entry) for entry in scan.extra] if scan else [],
    }
    if progress.log_json:
        progress.log("finished", "", **facts)
    if as_json:
        print_json(facts)


def _lines(
    outcome: Outcome, scan: Scan | None, copies: Copies, out: Location, num_frames: int, seconds: float
) -> Iterator[str]:
    header, videos, shards = outcome.manifest.header, outcome.manifest.videos, outcome.manifest.shards
    if outcome.already_finished:
        yield f"{out} is finished already: nothing to do."
    elif outcome.num_shards_kept:
        yield f"Kept {plural(outcome.num_shards_kept, 'shard')} of earlier runs."
    yield (
        f"{plural(len(videos), 'input')} = {header.num_written} written + {header.num_failed} failed + {header.num_skipped} skipped"
    )
    if videos.num_without_label:
        yield f"{videos.num_without_label} of the written videos {'has' if videos.num_without_label == 1 else 'have'} no label: unlabelled in every split"
    # Failed and skipped inputs, by reason.
    rows = [row for row in videos if row.status != WRITTEN]
    reasons = Counter(row.error for row in rows)
    for reason, count in reasons.most_common(_MAX_LINES):
        example = next(row.path for row in rows if row.error == reason)
        yield f"  {count} x {reason} ({_example(example, count)})"
    if len(reasons) > _MAX_LINES:
        yield f"  and {plural(len(reasons) - _MAX_LINES, 'more reason')}: `tgprep info {out}` or videos.parquet"
    if scan is not None:
        # Listed videos that are missing, and videos that no list names, by class.
        if scan.missing:
            total = sum(entry.num_missing for entry in scan.missing)
            yield f"{plural(total, 'listed video is', 'listed videos are')} missing from VIDEOS (not an error; partial data sets are fine):"
            yield from _class_lines(scan.missing, lambda entry: (entry.num_missing, f" of {entry.num_listed}"))
        if scan.extra:
            use = "not used" if scan.dataset == "csv" else "used, in no official subset"
            yield f"{plural(sum(entry.num_extra for entry in scan.extra), 'video in VIDEOS is', 'videos in VIDEOS are')} in no list ({use}):"
            yield from _class_lines(scan.extra, lambda entry: (entry.num_extra, ""))
    yield from copies.lines()
    if num_notes := sum(1 for note in videos.column("note") if note):
        yield f"{plural(num_notes, 'written video has', 'written videos have')} a note (column `note` of videos.parquet)."
    speed = f" in {human_seconds(seconds)} ({num_frames / max(seconds, 1e-3):.0f} frames/s)" if num_frames else ""
    size = human_bytes(sum(shard.num_bytes for shard in shards))
    yield f"{plural(sum(videos.column('num_frames')), 'frame')} in {plural(len(shards), 'shard')}, {size}{speed}: {out}"
    yield from next_step(outcome.manifest, out)


def too_many_skipped(manifest: Manifest) -> bool:
    """Whether so many inputs were skipped that something must be wrong."""
    return manifest.header.num_skipped > MAX_SKIPPED_SHARE * len(manifest.videos)


def next_step(manifest: Manifest, out: Location) -> Iterator[str]:
    """What the user does next: correct what is wrong, or make a split that has labelled and test videos."""
    from manifests.splits.pool import official_pool

    header, where = manifest.header, "" if str(out) == "dataset" else f" {shlex.quote(str(out))}"
    if too_many_skipped(manifest):
        share = f"{100 * header.num_skipped / len(manifest.videos):.0f} %"
        cure = "Name or move them as the reasons above say"
        if header.dataset not in ("csv", "folder"):
            cure = f"If these are not the videos of {header.dataset}: --dataset folder takes every class folder as it is (--dataset auto detects)"
        yield f"Wrong: {share} of the inputs were skipped, more than {100 * MAX_SKIPPED_SHARE:.0f} %. {cure}, into another folder than {out}."
        return
    labelled = set(manifest.videos.column("class_name")) - {""}
    if num_absent := len(header.classes) - len(labelled) if len(labelled) < len(header.classes) / 2 else 0:
        yield (
            f"{plural(num_absent, 'class', 'classes')} of {len(header.classes)} have no video: a network gets outputs for them, too. "
            "--classes present, into another folder, leaves them out."
        )
    if not labelled:
        yield (
            "Next: these videos have no label, and a split needs some that have one. Add them: "
            f"tgprep extract VIDEOS {shlex.quote(str(out))} --add, VIDEOS the folder that holds the class folders"
        )
    elif official_pool(manifest, 1, "official").test.any():
        yield f"Next: tgprep split{where} --percent 20"
    else:
        yield f"Next: tgprep split{where} --percent 20 --test-percent 20 (no list names test videos: a fifth is set aside for the test)"


def _class_lines(entries: Sequence[Entry], count: Callable[[Entry], tuple[int, str]]) -> Iterator[str]:
    """A line for each of the first classes. count: the videos of an entry, and the text after their number."""
    for entry in entries[:_MAX_LINES]:
        num_videos, text = count(entry)
        yield f"  {entry.class_name or 'no class'}: {num_videos}{text} ({_example(entry.examples[0], num_videos)})"
    if len(entries) > _MAX_LINES:
        yield f"  and {plural(len(entries) - _MAX_LINES, 'more class', 'more classes')}: --json names them"


def _example(path: str, count: int) -> str:
    return f"{path}, …" if count > 1 else path
