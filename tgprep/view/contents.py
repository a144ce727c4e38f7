"""What is in a data set, as one JSON-able object: counts, sizes, lengths, what failed and why, splits, digests, versions.

Everything is counted by column, so that 650,000 videos take seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from manifests.files import is_url
from manifests.manifest_io import read_manifest
from manifests.records import WRITTEN
from manifests.splits.label_split import list_splits, read_split, split_digest
from manifests.splits.settings import PARTS

_MAX_BINS = 10
_MAX_REASONS = 20
SHORT_FRAMES = 64


def describe(root: str) -> dict[str, Any]:
    """The facts of the data set at `root`. InputError where there is none."""
    manifest = read_manifest(root)
    header, table = manifest.header, manifest.videos.arrow
    written = table.filter(pc.equal(table["status"], WRITTEN))
    frames = written["num_frames"].to_numpy()
    per_class = _counted(written["class_name"])
    reasons = _pairs(table.filter(pc.not_equal(table["status"], WRITTEN)), "status", "error")
    gradient = header.gradient
    return {
        "path": str(Path(root)) if not is_url(root) else root,
        "dataset": header.dataset,
        "digest": manifest.digest,
        "videos_sha256": header.videos_sha256,
        "shards_sha256": header.shards_sha256,
        "format_version": header.format_version,
        "num_videos": len(manifest.videos),
        "num_written": header.num_written,
        "num_failed": header.num_failed,
        "num_skipped": header.num_skipped,
        "num_frames": int(frames.sum()),
        "num_shards": len(manifest.shards),
        "num_bytes": sum(shard.num_bytes for shard in manifest.shards),
        "num_source_bytes": int(written["num_source_bytes"].to_numpy().sum()),
        "num_classes": len(header.classes),
        "num_empty_classes": sum(name not in per_class for name in header.classes),
        "videos_per_class": _summary(np.array(list(per_class.values()), np.int64)),
        "frames_per_video": _summary(frames),
        "num_shorter_than_64": int((frames < SHORT_FRAMES).sum()),
        "lengths": [{"from": low, "below": high, "videos": n} for low, high, n in length_bins(frames)],
        "num_groups": len(_pairs(written.filter(pc.not_equal(written["group"], "")), "class_name", "group")),
        "picture_sizes": [
            {"width": width, "height": height, "videos": n} for (width, height), n in _pairs(written, "width", "height")
        ],
        "fps": [{"fps": fps, "videos": n} for fps, n in _counted(written["fps"]).items()],
        "codecs": _counted(written["codec"]),
        "num_with_note": int(pc.sum(pc.not_equal(written["note"], "")).as_py() or 0),
        "subsets_per_fold": [_subsets(written["subsets"], fold) for fold in range(header.num_folds)],
        "not_written": [{"status": s, "reason": r, "videos": n} for (s, r), n in reasons[:_MAX_REASONS]],
        "num_other_reasons": len(reasons[_MAX_REASONS:]),
        "gradient": {"stored": gradient.stored, "source": gradient.source, "space": gradient.space},
        "settings": header.settings,
        "versions": header.versions,
        "splits": _splits(root, manifest.digest),
    }


def length_bins(frames: npt.NDArray[np.int32]) -> list[tuple[int, int, int]]:
    """At most ten half-open ranges of lengths and the videos in each: [(from, below, videos)], none missing in between.

    Ranges are equally wide, of a round width; the last one takes longer videos too where those are fewer than 5 %.
    """
    if not len(frames):
        return []
    low, most, high = int(frames.min()), float(np.quantile(frames, 0.95)), int(frames.max())
    exact = max(1.0, (most - low + 1) / (_MAX_BINS - 1))
    power = 10 ** int(np.floor(np.log10(exact)))
    width = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= exact)
    starts = range(low - low % width, high + 1, width)
    if len(starts) > _MAX_BINS:
        starts = range(starts.start, int(most) + 1, width)
    counts = np.histogram(frames, [*starts, high + 1])[0].tolist()
    ends = [*starts[1:], max(starts[-1] + width, high + 1)]
    return list(zip(starts, ends, counts, strict=True))


def _counted(column: pa.ChunkedArray) -> dict[Any, int]:
    """Values and how often each comes, most frequent first."""
    counts = [(pair["values"], pair["counts"]) for pair in pc.value_counts(column).to_pylist()]
    return dict(sorted(counts, key=lambda pair: (-pair[1], pair[0])))


def _pairs(table: pa.Table, first: str, second: str) -> list[tuple[tuple[Any, Any], int]]:
    """Pairs of values of two columns and how often each comes, most frequent first."""
    counted = table.group_by([first, second], use_threads=False).aggregate([([], "count_all")]).to_pydict()
    pairs = zip(counted[first], counted[second], strict=True)
    return sorted(zip(pairs, counted["count_all"], strict=True), key=lambda pair: (-pair[1], pair[0]))


def _subsets(column: pa.ChunkedArray, fold: int) -> dict[str, int]:
    told = pc.list_flatten(pc.list_slice(column, fold, fold + 1))
    counts = _counted(told)
    unlisted = counts.pop("", 0) + len(column) - len(told)
    return dict(sorted(counts.items())) | ({"in no list": unlisted} if unlisted else {})


def _summary(values: npt.NDArray[np.integer[Any]]) -> dict[str, float]:
    if not len(values):
        return {"min": 0, "median": 0, "mean": 0.0, "max": 0}
    ordered = np.sort(values)
    return {
        "min": int(ordered[0]),
        "median": int(ordered[len(ordered) // 2]),
        "mean": round(float(ordered.mean()), 1),
        "max": int(ordered[-1]),
    }


def _splits(root: str, digest: str) -> list[dict[str, Any]]:
    """Name, content's digest and size of the parts of every split; current: it was made for the data set as it is now."""
    described = []
    for name in list_splits(root):
        split = read_split(root, name)
        facts = {"name": name, "digest": split_digest(split)} | {part: int(split.part(part).sum()) for part in PARTS}
        described.append(facts | {"current": split.provenance.get("dataset_digest", "") == digest})
    return described
