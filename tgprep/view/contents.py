"""Describe a data set: counts, sizes, lengths, what failed and why, splits, digests, versions.

Everything is counted by column, so that 650,000 videos take seconds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from manifests.files import is_url
from manifests.manifest_io import read_manifest, read_originals
from manifests.records import NO_LABEL, WRITTEN, GradientCoding
from manifests.splits.label_split import list_splits, read_split, split_digest
from manifests.splits.settings import PARTS
from manifests.table import Manifest

_MAX_BINS = 10
_MAX_REASONS = 20
SHORT_FRAMES = 64


@dataclass(frozen=True, slots=True)
class Summary:
    """The range of a number over videos or classes."""

    min: int = 0
    median: int = 0
    mean: float = 0.0
    max: int = 0


@dataclass(frozen=True, slots=True)
class SplitContents:
    """A split and the number of videos of its parts."""

    name: str
    digest: str
    labelled: int
    unlabelled: int
    validation: int
    test: int
    current: bool  # whether it was made for the data set in its present state


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in a data set. Counts of values come most frequent first; frames and below are of written videos."""

    path: str
    dataset: str
    digest: str
    videos_sha256: str
    shards_sha256: str
    format_version: int
    num_videos: int
    num_written: int
    num_failed: int
    num_skipped: int
    num_frames: int
    num_shards: int
    num_bytes: int
    num_source_bytes: int
    num_without_label: int  # written videos of no known class
    num_dropped: int  # videos that only the shards have any more
    num_relabelled: int  # videos with another class or label than their shards say
    num_classes: int
    num_empty_classes: int
    videos_per_class: Summary
    frames_per_video: Summary
    num_shorter_than_64: int
    lengths: list[tuple[int, int, int]]  # see `length_bins`
    num_groups: int
    num_segments: int  # parts of files, 0 if every video is a whole file
    num_cut_files: int  # that they are parts of
    picture_sizes: dict[tuple[int, int], int]  # (width, height) -> videos
    fps: dict[float, int]
    codecs: dict[str, int]
    num_with_note: int
    subsets_per_fold: list[dict[str, int]]
    not_written: dict[tuple[str, str], int]  # (status, reason) -> videos
    num_other_reasons: int
    gradient: GradientCoding
    settings: dict[str, Any]
    versions: dict[str, str]
    splits: list[SplitContents]

    def to_json(self) -> dict[str, Any]:
        """The object that `tgprep info --json` prints."""
        return dataclasses.asdict(self) | {
            "lengths": [{"from": low, "below": high, "videos": n} for low, high, n in self.lengths],
            "picture_sizes": [{"width": w, "height": h, "videos": n} for (w, h), n in self.picture_sizes.items()],
            "fps": [{"fps": fps, "videos": n} for fps, n in self.fps.items()],
            "not_written": [{"status": s, "reason": r, "videos": n} for (s, r), n in self.not_written.items()],
            "gradient": {name: getattr(self.gradient, name) for name in ("stored", "source", "space")},
        }


def describe(root: str) -> Contents:
    """Describe the data set at `root`. Raises InputError if there is none."""
    return describe_manifest(read_manifest(root))


def describe_manifest(manifest: Manifest) -> Contents:
    """Describe a data set whose tables have been read; its splits are read here."""
    root = manifest.root
    originals = read_originals(manifest)
    header, table = manifest.header, manifest.videos.arrow
    copied = "dataset videos_sha256 shards_sha256 format_version num_written num_failed num_skipped gradient settings versions"
    written = table.filter(pc.equal(table["status"], WRITTEN))
    frames = written["num_frames"].to_numpy()
    labelled = written.filter(pc.not_equal(written["label"], NO_LABEL))
    per_class = _counts(labelled["class_name"])
    paths = written["path"].to_pylist()
    ends = written["end_seconds"].to_pylist() if manifest.videos.has_segments else []
    cut = [path for path, end in zip(paths, ends, strict=False) if end >= 0]
    reasons = _pair_counts(table.filter(pc.not_equal(table["status"], WRITTEN)), "status", "error")
    return Contents(
        **{name: getattr(header, name) for name in copied.split()},
        path=str(Path(root)) if not is_url(root) else root,
        digest=manifest.digest,
        num_videos=len(manifest.videos),
        num_frames=int(frames.sum()),
        num_shards=len(manifest.shards),
        num_bytes=sum(shard.num_bytes for shard in manifest.shards),
        num_source_bytes=sum(dict(zip(paths, written["num_source_bytes"].to_pylist(), strict=True)).values()),
        num_without_label=written.num_rows - labelled.num_rows,
        num_dropped=int(originals.dropped.sum()),
        num_relabelled=int((~originals.dropped).sum()),
        num_classes=len(header.classes),
        num_empty_classes=sum(name not in per_class for name in header.classes),
        videos_per_class=_summary(np.array(list(per_class.values()), np.int64)),
        frames_per_video=_summary(frames),
        num_shorter_than_64=int((frames < SHORT_FRAMES).sum()),
        lengths=length_bins(frames),
        num_groups=len(_pair_counts(written.filter(pc.not_equal(written["group"], "")), "class_name", "group")),
        num_segments=len(cut),
        num_cut_files=len(set(cut)),
        picture_sizes=_pair_counts(written, "width", "height"),
        fps=_counts(written["fps"]),
        codecs=_counts(written["codec"]),
        num_with_note=int(pc.sum(pc.not_equal(written["note"], "")).as_py() or 0),
        subsets_per_fold=[_subsets(labelled["subsets"], fold) for fold in range(header.num_folds)],
        not_written=dict(list(reasons.items())[:_MAX_REASONS]),
        num_other_reasons=max(0, len(reasons) - _MAX_REASONS),
        splits=[
            SplitContents(
                split.name,
                split_digest(split),
                **{part: int(split.part(part).sum()) for part in PARTS},
                current=split.provenance.get("dataset_digest", "") == manifest.digest,
            )
            for split in (read_split(root, name) for name in list_splits(root))
        ],
    )


def length_bins(frames: npt.NDArray[np.int32]) -> list[tuple[int, int, int]]:
    """Count lengths in at most ten adjacent half-open ranges: [(from, below, videos)].

    Ranges have the same, round width; the last one also takes longer videos if those are fewer than 5 %.
    """
    if not len(frames):
        return []
    low, usual, high = int(frames.min()), float(np.quantile(frames, 0.95)), int(frames.max())
    exact = max(1.0, (usual - low + 1) / (_MAX_BINS - 1))
    power = 10 ** int(np.floor(np.log10(exact)))
    width = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= exact)
    starts = range(low - low % width, high + 1, width)
    if len(starts) > _MAX_BINS:
        starts = range(starts.start, int(usual) + 1, width)
    counts = np.histogram(frames, [*starts, high + 1])[0].tolist()
    ends = [*starts[1:], max(starts[-1] + width, high + 1)]
    return list(zip(starts, ends, counts, strict=True))


def _counts(column: pa.ChunkedArray) -> dict[Any, int]:
    return _frequent((pair["values"], pair["counts"]) for pair in pc.value_counts(column).to_pylist())


def _pair_counts(table: pa.Table, first: str, second: str) -> dict[tuple[Any, Any], int]:
    columns = table.group_by([first, second], use_threads=False).aggregate([([], "count_all")]).to_pydict()
    pairs = zip(columns[first], columns[second], strict=True)
    return _frequent(zip(pairs, columns["count_all"], strict=True))


def _frequent(counts: Iterable[tuple[Any, int]]) -> dict[Any, int]:
    """Values with their counts, most frequent first."""
    return dict(sorted(counts, key=lambda pair: (-pair[1], pair[0])))


def _subsets(column: pa.ChunkedArray, fold: int) -> dict[str, int]:
    subsets = pc.list_flatten(pc.list_slice(column, fold, fold + 1))
    counts = _counts(subsets)
    num_unlisted = counts.pop("", 0) + len(column) - len(subsets)
    return dict(sorted(counts.items())) | ({"in no list": num_unlisted} if num_unlisted else {})


def _summary(values: npt.NDArray[np.integer[Any]]) -> Summary:
    ordered = np.sort(values).tolist()
    if not ordered:
        return Summary()
    return Summary(ordered[0], ordered[len(ordered) // 2], round(float(values.mean()), 1), ordered[-1])
