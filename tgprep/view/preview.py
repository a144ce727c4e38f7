"""Write the preview page: what is in a data set, as one file to look at in any browser, offline."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from manifests.files import atomic_write
from manifests.machine import run_threads
from manifests.manifest_io import read_manifest
from manifests.records import NO_LABEL, WRITTEN, InputError, VideoRow
from manifests.splits.label_split import LabelSplit, list_splits, read_split
from manifests.splits.pool import official_pool
from manifests.splits.settings import PARTS
from manifests.table import Manifest
from tgprep.duplicates.pairs import read_pairs
from tgprep.view.leaks import Leaks, find_leaks
from tgprep.view.thumbnails import PictureSize, make_pictures, size_for

MAX_VIDEOS = 300
NO_CLASS = "(no label)"  # stands among the classes for the videos without one
_MAX_FAILURES = 1000
_NUM_BINS = 24


@dataclass(frozen=True, slots=True)
class PreviewOutcome:
    """What the page shows."""

    path: Path
    num_shown: int
    num_videos: int
    num_bytes: int
    split: str
    damaged: tuple[tuple[str, str], ...]  # (key, reason) of videos whose frames cannot be read


def write_preview(
    root: str,
    output: Path,
    *,
    split: str | None = None,
    keys: Sequence[str] = (),
    max_videos: int = MAX_VIDEOS,
    threads: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> PreviewOutcome:
    """Write the page of the data set at `root`. The same data set and options give the same bytes.

    split: name of the split whose parts are shown; None: the newest, or the official parts of fold 1 if there is no split.
    keys: show these videos; if empty, `max_videos`, spread evenly over classes and within them over the list of keys.
    Raises InputError if there is no data set or split, a key is unknown, or the page cannot be written.
    """
    if output.is_dir():
        raise InputError(f"--output {output} is a folder. Name a file in it, for example {output / 'preview.html'}.")
    manifest = read_manifest(root)
    label_split = read_split(root, split) if split is not None or list_splits(root) else None
    roles, role_names = _roles(manifest, label_split)
    indices = choose_videos(manifest, roles, keys, max_videos)
    leaks = find_leaks(manifest, roles)
    twins = _twins(manifest, leaks)
    if not keys:  # the page shows both of a pair
        indices = sorted({*indices, *twins})
    size = size_for(len(indices))
    videos = run_threads(
        lambda index: _video(manifest, manifest.videos[index], size) | {"role": roles[index]} | twins.get(index, {}),
        indices,
        threads,
        on_progress=on_progress,
    )
    facts = _page_facts(manifest, label_split, roles, role_names)
    page = _page({**facts, "videos": videos, "title": Path(root).name or root, "leaks": _leak_facts(manifest, leaks)})
    with atomic_write(output) as file:
        file.write(page)
    damaged = tuple((video["key"], video["error"]) for video in videos if "error" in video)
    name = label_split.name if label_split else ""
    return PreviewOutcome(output, len(videos), manifest.header.num_written, len(page), name, damaged)


def choose_videos(manifest: Manifest, roles: Sequence[str], keys: Sequence[str], max_videos: int) -> list[int]:
    """Choose the rows of the videos to show, sorted: those of `keys`, else spread evenly over classes, roles and groups."""
    rows = manifest.written_rows(keys)
    if keys or len(rows) <= max_videos:
        return rows
    # Take videos in turn from every class, within a class from every role, and within a role evenly over its list.
    labels = manifest.videos.column("label")
    per_class: dict[int, dict[str, list[int]]] = {}
    for index in rows:
        per_class.setdefault(labels[index], {}).setdefault(roles[index], []).append(index)
    queues = [
        _round_robin([_evenly(indices) for _, indices in sorted(by_role.items())])
        for _, by_role in sorted(per_class.items())
    ]
    return sorted(_round_robin(queues)[:max_videos])


def _twins(manifest: Manifest, leaks: Leaks) -> dict[int, dict[str, Any]]:
    """What the page says of the videos that have a copy, by row: its kinds, and a note."""
    keys, notes = manifest.videos.column("key"), manifest.videos.column("note")
    texts: dict[int, list[str]] = {}
    kinds: dict[int, set[str]] = {}
    for pair in leaks.pairs:
        for index, other in ((pair.first, pair.second), (pair.second, pair.first)):
            texts.setdefault(index, []).append(f"{pair.kind} of {keys[other]}" if pair.kind != "same group" else "")
            kinds.setdefault(index, set()).update([pair.kind, *["leak"] * pair.leak])
    return {
        index: {"note": "; ".join(filter(None, [notes[index], *texts[index]])), "twins": sorted(kinds[index])}
        for index in texts
    }


def _evenly(indices: list[int]) -> list[int]:
    """Reorder a list so that its first N entries spread over all of it: both halves in turn, and so on down."""
    if len(indices) < 3:
        return indices
    middle = len(indices) // 2
    return _round_robin([_evenly(indices[:middle]), _evenly(indices[middle:])])


def _round_robin(queues: Sequence[Sequence[int]]) -> list[int]:
    return [index for turn in itertools.zip_longest(*queues) for index in turn if index is not None]


def _roles(manifest: Manifest, split: LabelSplit | None) -> tuple[list[str], list[str]]:
    """The role of every row, and the names of the roles in the order in which they are shown."""
    roles = [""] * len(manifest.videos)
    if split is not None:
        index_of = {key: index for index, key in enumerate(manifest.videos.column("key")) if key}
        for part in reversed(PARTS):  # a labelled video is unlabelled too: the first name wins
            for key in index_of.keys() & split.keys_of(part):
                roles[index_of[key]] = part
        return roles, [*PARTS, "in no part"]
    names = ["train", "validation", "test"] + ["without label"] * bool(manifest.videos.num_without_label)
    if manifest.header.num_written:
        pool = official_pool(manifest, 1, "official")
        for name in names:
            for index in pool.rows[getattr(pool, name.replace(" ", "_"))]:
                roles[index] = name
    return roles, [*names, "in no part"]


def _video(manifest: Manifest, row: VideoRow, size: PictureSize) -> dict[str, Any]:
    """What the page says of a video, and its pictures, or `error` if they cannot be read."""
    facts: dict[str, Any] = {
        "key": row.key,
        "class": row.class_name or NO_CLASS,
        "label": row.label,
        "group": row.group,
        "path": row.path,
        "times": [row.start_seconds, row.end_seconds] if row.end_seconds >= 0 else [],
        "count": row.num_frames,
        "fps": round(row.fps, 3),
        "size": [row.width, row.height],
        "codec": f"{row.codec} {row.pixel_format}".strip(),
        "shard": row.shard,
        "note": row.note,
    }
    try:
        return facts | make_pictures(manifest, row, size)
    except (OSError, ValueError, IndexError) as error:
        return {**facts, "error": f"{type(error).__name__}: {error}"}


def _page_facts(
    manifest: Manifest, split: LabelSplit | None, roles: Sequence[str], role_names: list[str]
) -> dict[str, Any]:
    """Everything that the page says, but for the videos that it shows."""
    header = manifest.header
    columns = {name: manifest.videos.column(name) for name in ("status", "error", "path", "label", "num_frames")}
    # The written videos of every class by role, in the order of `role_names`.
    rows = zip(columns["label"], roles, columns["status"], strict=True)
    counts = Counter((label, role) for label, role, status in rows if status == WRITTEN)
    classes = [
        {"name": name, "counts": [counts[label, role] for role in (*role_names[:-1], "")]}
        for label, name in [
            *enumerate(header.classes),
            *[(NO_LABEL, NO_CLASS)] * bool(manifest.videos.num_without_label),
        ]
    ]
    # The videos that failed or were skipped, by status and reason.
    reasons = zip(columns["status"], columns["error"], columns["path"], strict=True)
    lost = sorted(row for row in reasons if row[0] != WRITTEN)
    failures = [{"path": path, "status": status, "reason": error} for status, error, path in lost[:_MAX_FAILURES]]
    return {
        "dataset": header.dataset,
        "digest": manifest.digest[:12],
        "numWritten": header.num_written,
        "numFailed": header.num_failed,
        "numSkipped": header.num_skipped,
        "numFrames": sum(columns["num_frames"]),
        "numBytes": sum(shard.num_bytes for shard in manifest.shards),
        "numShards": len(manifest.shards),
        "gradient": f"{'stored' if header.gradient.stored else 'derived'}, of {header.gradient.source} frames",
        "split": split.name if split else "",
        "roles": role_names,
        "numWithoutLabel": manifest.videos.num_without_label,
        "version": header.versions.get("tgprep", ""),
        "classes": classes,
        "lengths": _lengths(manifest),
        "failures": {"total": len(lost), "rows": failures},
    }


def _leak_facts(manifest: Manifest, leaks: Leaks) -> dict[str, Any]:
    keys = manifest.videos.column("key")
    return {
        "pairs": [[keys[pair.first], keys[pair.second], pair.kind, pair.leak] for pair in leaks.pairs],
        "numPairs": leaks.num_pairs,
        "numLeaks": leaks.num_leaks,
        "knowsCopies": read_pairs(manifest) is not None,
    }


def _lengths(manifest: Manifest) -> dict[str, Any]:
    """A histogram of the written videos' lengths: half-open bins of frames; the last one also takes the longest 2 %."""
    table = manifest.videos.arrow
    frames = table["num_frames"].to_numpy()[np.asarray(table["status"]) == WRITTEN]
    if not len(frames):
        return {"step": 1, "first": 0, "counts": [], "median": 0}
    low, high = int(frames.min()), int(np.quantile(frames, 0.98))
    steps = (size * 10**power for power in range(7) for size in (1, 2, 5))
    step = next(step for step in steps if (high - low) // step < _NUM_BINS)
    first = low // step * step
    bins = np.minimum((frames - first) // step, (high - first) // step)
    return {
        "step": step,
        "first": first,
        "counts": np.bincount(bins).tolist(),
        "median": int(np.sort(frames)[len(frames) // 2]),
        "max": int(frames.max()),
    }


def _page(data: dict[str, Any]) -> bytes:
    """The page with style, script and data inside."""
    folder = resources.files("tgprep.view") / "templates"
    names = ("preview.html", "preview.css", "preview.js", "preview_charts.js")
    page, style, *scripts = ((folder / name).read_text("utf-8") for name in names)
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    # No text of the data set may end the script element or a line of it.
    safe = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    for mark, content in (("/*STYLE*/", style), ("/*SCRIPT*/", "".join(scripts)), ("/*DATA*/", safe)):
        assert page.count(mark) == 1, mark
        page = page.replace(mark, content)
    return page.encode(errors="backslashreplace")
