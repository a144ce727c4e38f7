"""Plans for --add and --retry-failed: the videos that a finished data set lacks, in new shards behind the old ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from manifests.records import FAILED, SKIPPED, InputError, SourceVideo, VideoRow
from manifests.table import Manifest
from tgprep.config import ExtractSettings
from tgprep.extract.plan import Plan
from tgprep.scan.keys import video_key
from tgprep.scan.scan import Scan


@dataclass(frozen=True, slots=True)
class Update:
    """How a finished data set changes."""

    add: bool = False  # extract videos that it does not have
    retry_failed: bool = False  # extract its failed videos again

    def __bool__(self) -> bool:
        return self.add or self.retry_failed

    def __str__(self) -> str:
        return " ".join(["--add"] * self.add + ["--retry-failed"] * self.retry_failed)


def plan_update(
    base: Manifest, scan: Scan, settings: ExtractSettings, versions: dict[str, str], update: Update
) -> Plan:
    """The plan of an update. Keys, labels and classes of the data set stay; new classes get the labels after them."""
    rows = [row for row in base.videos if row.status != SKIPPED]
    known = {row.path for row in rows}
    classes, skipped = base.header.classes, skipped_of(base)
    videos: list[SourceVideo] = []
    if update.retry_failed:
        videos += _failed(rows, scan)
    if update.add:
        if scan.num_folds != base.header.num_folds:
            raise InputError(
                f"{base.root} has {base.header.num_folds} official folds, VIDEOS and its lists now have {scan.num_folds}. "
                f"Give the same --annotations and the same kind of folders, or extract into a new folder."
            )
        present = {video.class_name for video in scan.videos}
        new = tuple(name for name in scan.classes if name in present and name not in classes)
        classes += new
        videos += _new(rows, scan, classes)
        skipped = {(item.path, item.reason) for item in scan.skipped if item.path not in known}
    last = max((int(shard.name.split("-")[1].split(".")[0]) for shard in base.shards), default=-1)
    return Plan(
        dataset=base.header.dataset,
        classes=classes,
        num_folds=base.header.num_folds,
        videos=tuple(videos),
        skipped=tuple(sorted(skipped)),
        settings=settings,
        versions=versions,
        update=str(update),
        base=base.digest,
        first_shard=last + 1,
    )


def skipped_of(base: Manifest) -> set[tuple[str, str]]:
    """(path, reason) of the inputs that the data set skipped."""
    return {(row.path, row.error) for row in base.videos if row.status == SKIPPED}


def _failed(rows: list[VideoRow], scan: Scan) -> list[SourceVideo]:
    sizes = {video.path: video.num_source_bytes for video in scan.videos}
    return [
        replace(row.source, num_source_bytes=sizes.get(row.path, row.num_source_bytes))
        for row in rows
        if row.status == FAILED
    ]


def _new(rows: list[VideoRow], scan: Scan, classes: tuple[str, ...]) -> list[SourceVideo]:
    """The videos of the scan that are not in the data set, with keys that are unique in it."""
    known = {row.path for row in rows}
    used_keys = {row.key.lower() for row in rows}
    labels = {name: label for label, name in enumerate(classes)}
    videos = []
    for video in scan.videos:
        if video.path in known:
            continue
        # A key of the data set may belong to a file that is no longer in VIDEOS: a hash of the path makes another one.
        key = video.key
        for digits in (8, 16, 64):
            if key.lower() not in used_keys:
                break
            key = video_key(video.class_name, PurePosixPath(video.path).stem, hash_of=video.path, digits=digits)
        used_keys.add(key.lower())
        videos.append(replace(video, key=key, label=labels[video.class_name]))
    return videos
