"""Describe a split for `tgprep split`: as one JSON object, and as text of 80 columns."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from manifests.console import plural
from manifests.records import NO_LABEL
from manifests.splits.check import check_split, class_counts, count_parts
from manifests.splits.label_split import LabelSplit
from manifests.splits.list_import import ImportReport
from manifests.splits.settings import PARTS
from manifests.table import Manifest

MAX_CLASS_ROWS = 30
_BAR = 40


def describe(split: LabelSplit, manifest: Manifest) -> dict[str, Any]:
    """Collect the facts of a split: sizes, videos per class, problems, provenance."""
    names = manifest.header.classes
    per_class = {part: class_counts(split, part, len(names)).tolist() for part in PARTS}
    sizes = [asdict(count) for count in count_parts(split, manifest)]
    return {
        "name": split.name,
        "num_without_label": int((split.label == NO_LABEL).sum()),
        "dataset": manifest.header.dataset,
        "num_classes": len(names),
        "parts": {size.pop("part"): size for size in sizes},
        "classes": [
            {"class_name": name, "label": label, **{part: per_class[part][label] for part in PARTS}}
            for label, name in enumerate(names)
        ],
        "problems": [asdict(problem) for problem in check_split(split, manifest)],
        "provenance": split.provenance,
    }


def describe_import(report: ImportReport) -> dict[str, Any]:
    """Collect the facts of an import: lists, lines without a video, differences."""
    facts = asdict(report)
    return {
        "lists": facts["lists"],
        "num_unmatched": len(report.unmatched),
        "unmatched": facts["unmatched"],
        "num_label_differences": report.count("label"),
        "num_frame_differences": report.count("num_frames"),
        "differences": facts["differences"],
        "notes": list(report.notes),
    }


def page(facts: dict[str, Any]) -> str:
    """Format the facts of `describe` as text."""
    lines = [f"split {facts['name']}  ({_how(facts['provenance'])})", ""]
    lines.append(f"{'part':<12}{'videos':>9}{'classes':>9}{'groups':>9}   videos per class: min  mean   max")
    for part, count in facts["parts"].items():
        lines.append(
            f"{part:<12}{count['num_videos']:>9,}{count['num_classes']:>9}{count['num_groups']:>9}"
            f"{count['per_class_min']:>24}{count['per_class_mean']:>6.1f}{count['per_class_max']:>6}"
        )
    if facts["num_without_label"]:
        lines.append(f"{facts['num_without_label']:,} of the unlabelled videos have no label in the data set")
    lines += ["", *_classes(facts["classes"]), *[""] * bool(facts["problems"])]
    for problem in facts["problems"]:
        examples = ", ".join(problem["examples"][:3]) + (", ..." if problem["count"] > 3 else "")
        lines += _wrapped(f"{problem['level']}: {problem['message']} ({examples})")
    return "\n".join(lines)


def import_page(facts: dict[str, Any]) -> str:
    """Format the facts of `describe_import` as text."""
    lines = []
    for entry in facts["lists"]:
        known = f"known list {entry['published']}" if entry["published"] else "not a known published list"
        lines.append(
            f"{entry['part']:<12}{entry['name']}: {entry['num_matched']} of {plural(entry['num_lines'], 'line')} matched ({known})"
        )
    for note in facts["notes"]:
        lines += _wrapped(f"note: {note}")
    for entry in facts["unmatched"][:5]:
        lines += _wrapped(f"{entry['file']} line {entry['line']}: {entry['reason']}: {entry['text'][:100]}")
    if (more := facts["num_unmatched"] - 5) > 0:
        lines.append(f"  ... {plural(more, 'more line')} without a video (--report FILE or --json lists them)")
    # Of each kind of difference the number and one example.
    for what, differ, origin in (
        ("label", f"labels: {{}} differ from the class folder ({facts['labels']} kept; --labels chooses)", "by folder"),
        ("num_frames", "frames: {} counts differ from what was extracted (ours are used)", "extracted"),
    ):
        if found := [entry for entry in facts["differences"] if entry["what"] == what]:
            example = f"{found[0]['key']}: {found[0]['theirs']} in the list, {found[0]['ours']} {origin}"
            lines += _wrapped(f"{differ.format(len(found))}, such as {example}")
    return "\n".join(lines)


def growth_page(facts: dict[str, Any]) -> str:
    """Format the facts of a growth as text."""
    lines = [
        f"{facts['num_added']} of {plural(facts['num_lines'], 'line')} of {facts['list_name']} {'labels' if facts['num_added'] == 1 else 'label'} more videos of {facts['parent']}"
    ]
    if facts["num_labelled_before"]:
        lines.append(f"  {facts['num_labelled_before']} had their label before")
    if relabelled := facts["relabelled"]:
        example = f"{relabelled[0]['key']}: {relabelled[0]['theirs']} in the list, {relabelled[0]['ours']} by folder"
        lines += _wrapped(
            f"{plural(len(relabelled), 'label is', 'labels are')} the list's, not the class folder's, such as {example}"
        )
    return "\n".join(lines)


def import_table(report: ImportReport) -> str:
    """List the lines without a video, then the differing labels and frame counts, as CSV."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["what", "key", "ours", "theirs", "file", "line", "reason", "text"])
    for entry in report.unmatched:
        rows.writerow(["unmatched", "", "", "", entry.file, entry.line, entry.reason, entry.text])
    for other in report.differences:
        rows.writerow([other.what, other.key, other.ours, other.theirs, "", "", "", ""])
    return text.getvalue()


def overlap_page(first: str, second: str, overlaps: Sequence[dict[str, Any]]) -> str:
    """Format the overlap of two splits."""
    width = max(len(first), len(second), 8) + 2
    lines = [f"{'part':<12}{first:>{width}}{second:>{width}}{'shared':>10}{'of first':>10}"]
    for row in overlaps:
        share = f"{100 * row['num_shared'] / row['num_first']:.1f} %" if row["num_first"] else "-"
        lines.append(
            f"{row['part']:<12}{row['num_first']:>{width},}{row['num_second']:>{width},}{row['num_shared']:>10,}{share:>10}"
        )
    return "\n".join(lines)


def _how(provenance: dict[str, str]) -> str:
    if steps := [text for name, text in provenance.items() if name.startswith("grown_")]:
        before = {name: text for name, text in provenance.items() if not name.startswith("grown_")}
        return f"{_how(before)}, grown {len(steps)} times: {steps[-1].partition(' digest ')[0]}"
    if provenance.get("made") == "imported":
        return f"imported, fold {provenance.get('fold')}, labels {provenance.get('labels')}"
    amount = f"{provenance['percent']} %" if "percent" in provenance else f"{provenance.get('per_class')} of each class"
    return f"{amount}, {provenance.get('strategy')}, seed {provenance.get('seed')}, fold {provenance.get('fold')}"


def _classes(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    present = [row for row in rows if any(row[part] for part in PARTS)]
    if len(present) <= MAX_CLASS_ROWS:
        width = min(max(len(row["class_name"]) for row in present), 32) + 2
        yield f"{'class':<{width}}" + "".join(f"{part:>11}" for part in PARTS)
        for row in present:
            yield f"{row['class_name'][: width - 2]:<{width}}" + "".join(f"{row[part]:>11}" for part in PARTS)
        if num_empty := len(rows) - len(present):
            yield f"({num_empty} of {plural(len(rows), 'class', 'classes')} {'has' if num_empty == 1 else 'have'} no video)"
        return
    # Too many classes for a row each: a histogram of at most ten bars, and the extremes.
    counts = [row["labelled"] for row in rows]
    low, high = min(counts), max(counts)
    step = max(1, -(-(high - low + 1) // 10))
    bins = [(start, sum(start <= count < start + step for count in counts)) for start in range(low, high + 1, step)]
    most = max(number for _, number in bins)
    yield f"labelled videos per class ({plural(len(rows), 'class', 'classes')})"
    for start, number in bins:
        name = str(start) if step == 1 else f"{start}-{start + step - 1}"
        yield f"{name:>10}  {'#' * -(-number * _BAR // most):<{_BAR}} {number}"
    ordered = sorted(rows, key=lambda row: (row["labelled"], row["class_name"]))
    for name, extremes in (("fewest", ordered[:4]), ("most", ordered[:-5:-1])):
        yield from _wrapped(f"{name}: " + ", ".join(f"{row['class_name']} {row['labelled']}" for row in extremes))


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        text, 79, initial_indent="  ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
