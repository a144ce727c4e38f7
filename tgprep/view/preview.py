"""The preview page: what is in a data set, to be looked at in any browser, offline, as one file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from manifests.machine import usable_cores
from manifests.manifest_io import atomic_write, read_manifest
from manifests.records import WRITTEN, InputError, VideoRow
from manifests.splits.label_split import LabelSplit, list_splits, read_split
from manifests.splits.pool import official_pool
from manifests.splits.settings import PARTS
from manifests.table import Manifest
from tgprep.view.thumbnails import PictureSize, make_pictures, size_for

MAX_VIDEOS = 300
_MAX_FAILURES = 1000
_NUM_BINS = 24


@dataclass(frozen=True, slots=True)
class PreviewOutcome:
    """What the page shows. damaged: keys of videos whose frames could not be read, with the reason."""

    path: Path
    num_shown: int
    num_videos: int
    num_bytes: int
    split: str
    damaged: tuple[tuple[str, str], ...]


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

    split: name of the split whose roles are shown; None: the newest, or the official parts of fold 1 where there is none.
    keys: show these videos; none: `max_videos`, spread evenly over classes and within them over the list of keys.
    InputError where there is no data set or split, a key is unknown, or the page cannot be written.
    """
    if output.is_dir():
        raise InputError(f"--output {output} is a folder. Name a file in it, for example {output / 'preview.html'}.")
    manifest = read_manifest(root)
    chosen = read_split(root, split) if split is not None or list_splits(root) else None
    roles, role_names = _roles(manifest, chosen)
    places = choose_videos(manifest, roles, keys, max_videos)
    rows = [manifest.videos[place] for place in places]
    size = size_for(len(rows))
    damaged: list[tuple[str, str]] = []
    videos: list[dict[str, Any]] = []
    with ThreadPoolExecutor(threads or usable_cores()) as pool:
        made = pool.map(lambda row: _video(manifest, row, size), rows)
        for done, (row, place, facts) in enumerate(zip(rows, places, made, strict=True), 1):
            if isinstance(facts, str):
                damaged.append((row.key, facts))
                facts = {**_facts(row), "error": facts}
            videos.append({**facts, "role": roles[place]})
            on_progress(done, len(rows))
    data = {
        **_page_facts(manifest, chosen, role_names),
        "classes": _class_counts(manifest, roles, role_names),
        "lengths": _lengths(manifest),
        "failures": _failures(manifest),
        "videos": videos,
    }
    page = _page(data, Path(root).name or root)
    try:
        with atomic_write(output) as file:
            file.write(page)
    except OSError as error:
        raise InputError(f"--output {output}: cannot be written ({error.strerror or error}).") from None
    name = chosen.name if chosen else ""
    return PreviewOutcome(output, len(rows), manifest.header.num_written, len(page), name, tuple(damaged))


def choose_videos(manifest: Manifest, roles: Sequence[str], keys: Sequence[str], max_videos: int) -> list[int]:
    """Places in the manifest of the videos to show, sorted: the named ones, else evenly over classes, roles and groups."""
    table = manifest.videos.arrow.select(["key", "status", "label"]).to_pydict()
    written = [place for place, status in enumerate(table["status"]) if status == WRITTEN]
    if keys:
        place_of = {table["key"][place].lower(): place for place in written}
        if unknown := [key for key in keys if key.lower() not in place_of]:
            raise InputError(
                f"--keys: {len(unknown)} of {len(keys)} name no written video of {manifest.root}, such as {unknown[0]!r}; "
                f"keys look like {next(iter(place_of), 'Class/video')!r}."
            )
        return sorted({place_of[key.lower()] for key in keys})
    if len(written) <= max_videos:
        return written
    per_class: dict[int, dict[str, list[int]]] = {}
    for place in written:
        per_class.setdefault(table["label"][place], {}).setdefault(roles[place], []).append(place)
    queues = []
    for label in sorted(per_class):
        by_role = [_evenly(places) for _, places in sorted(per_class[label].items())]
        queues.append([place for turn in _turns(by_role) for place in turn])
    chosen = [place for turn in _turns(queues) for place in turn]
    return sorted(chosen[:max_videos])


def _evenly(places: list[int]) -> list[int]:
    """The places in an order whose beginnings all spread over the list: both halves in turn, and so on down."""
    if len(places) < 3:
        return places
    middle = len(places) // 2
    first, second = _evenly(places[:middle]), _evenly(places[middle:])
    return [place for turn in _turns([first, second]) for place in turn]


def _turns(queues: Sequence[Sequence[int]]) -> list[list[int]]:
    longest = max(map(len, queues), default=0)
    return [[queue[turn] for queue in queues if turn < len(queue)] for turn in range(longest)]


def _roles(manifest: Manifest, split: LabelSplit | None) -> tuple[list[str], list[str]]:
    """The role of every row, and the names of the roles in the order in which they are shown."""
    roles = ["" for _ in range(len(manifest.videos))]
    if split is not None:
        place_of = {key: place for place, key in enumerate(manifest.videos.column("key")) if key}
        for part in reversed(PARTS):  # a labelled video is unlabelled too: the first name wins
            for key in split.keys_of(part):
                if key in place_of:
                    roles[place_of[key]] = part
        return roles, [*PARTS, "in no part"]
    if manifest.header.num_written:
        pool = official_pool(manifest, 1, "official")
        for flags, name in ((pool.train, "train"), (pool.validation, "validation"), (pool.test, "test")):
            for place in pool.rows[np.flatnonzero(flags)]:
                roles[place] = name
    return roles, ["train", "validation", "test", "in no part"]


def _video(manifest: Manifest, row: VideoRow, size: PictureSize) -> dict[str, Any] | str:
    try:
        pictures = make_pictures(manifest, row, size)
    except (OSError, ValueError, IndexError) as error:
        return f"{type(error).__name__}: {error}"
    return {
        **_facts(row),
        "strip": list(pictures.strip),
        "clip": list(pictures.clip),
        "tiles": len(pictures.strip_frames),
        "frames": list(pictures.strip_frames),
        "clipTiles": len(pictures.clip_frames),
        "clipFrames": [pictures.clip_frames[0], pictures.clip_frames[-1]],
        "clipSeconds": round(pictures.clip_seconds, 3),
    }


def _facts(row: VideoRow) -> dict[str, Any]:
    return {
        "key": row.key,
        "class": row.class_name,
        "label": row.label,
        "group": row.group,
        "path": row.path,
        "count": row.num_frames,
        "fps": round(row.fps, 3),
        "size": [row.width, row.height],
        "codec": f"{row.codec} {row.pixel_format}".strip(),
        "shard": row.shard,
        "note": row.note,
    }


def _page_facts(manifest: Manifest, split: LabelSplit | None, role_names: list[str]) -> dict[str, Any]:
    header, table = manifest.header, manifest.videos.arrow
    frames: npt.NDArray[np.int32] = table.column("num_frames").to_numpy()
    return {
        "dataset": header.dataset,
        "digest": manifest.digest[:12],
        "numWritten": header.num_written,
        "numFailed": header.num_failed,
        "numSkipped": header.num_skipped,
        "numFrames": int(frames.sum()),
        "numBytes": sum(shard.num_bytes for shard in manifest.shards),
        "numShards": len(manifest.shards),
        "gradient": f"{'stored' if header.gradient.stored else 'derived'}, of {header.gradient.source} frames",
        "split": split.name if split else "",
        "roles": role_names,
        "version": header.versions.get("tgprep", ""),
    }


def _class_counts(manifest: Manifest, roles: Sequence[str], role_names: Sequence[str]) -> list[dict[str, Any]]:
    """Per class its name and the number of written videos by role, in the order of `role_names`."""
    table = manifest.videos.arrow.select(["label", "status"]).to_pydict()
    counts = Counter(
        (label, role)
        for label, status, role in zip(table["label"], table["status"], roles, strict=True)
        if status == WRITTEN
    )
    return [
        {"name": name, "counts": [counts[label, role] for role in (*role_names[:-1], "")]}
        for label, name in enumerate(manifest.header.classes)
    ]


def _lengths(manifest: Manifest) -> dict[str, Any]:
    """A histogram of the written videos' lengths: half-open bins of frames, the last open to the right (2 % are longer)."""
    table = manifest.videos.arrow.select(["num_frames", "status"]).to_pydict()
    frames = np.array(
        [count for count, status in zip(table["num_frames"], table["status"], strict=True) if status == WRITTEN]
    )
    if not len(frames):
        return {"step": 1, "first": 0, "counts": [], "median": 0}
    low, high = int(frames.min()), int(np.quantile(frames, 0.98))
    step = next(
        size * ten
        for ten in (1, 10, 100, 1000, 10**4, 10**5, 10**6)
        for size in (1, 2, 5)
        if (high - low) // (size * ten) < _NUM_BINS
    )
    first = low // step * step
    bins = np.minimum((frames - first) // step, (high - first) // step)
    return {
        "step": step,
        "first": first,
        "counts": np.bincount(bins).tolist(),
        "median": int(np.sort(frames)[len(frames) // 2]),
        "max": int(frames.max()),
    }


def _failures(manifest: Manifest) -> dict[str, Any]:
    table = manifest.videos.arrow.select(["path", "status", "error"])
    lost = [
        {"path": path, "status": status, "reason": error}
        for path, status, error in zip(*(table.column(name).to_pylist() for name in table.column_names), strict=True)
        if status != WRITTEN
    ]
    lost.sort(key=lambda entry: (entry["status"], entry["reason"], entry["path"]))
    return {"total": len(lost), "rows": lost[:_MAX_FAILURES]}


def _page(data: dict[str, Any], title: str) -> bytes:
    folder = resources.files("tgprep.view") / "templates"
    page, style, script = ((folder / f"preview.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
    text = json.dumps({**data, "title": title}, ensure_ascii=False, separators=(",", ":"))
    safe = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    for mark, content in (("/*STYLE*/", style), ("/*SCRIPT*/", script), ("/*DATA*/", safe)):
        assert page.count(mark) == 1, mark
        before, after = page.split(mark)
        page = before + content + after
    return page.encode()
