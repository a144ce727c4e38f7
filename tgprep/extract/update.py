"""What --add and --retry-failed do to a finished data set: a plan for the videos it lacks, behind the shards it has."""

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
    """How a finished data set is to change. add: take in videos it does not have; retry_failed: try failed ones again."""

    add: bool = False
    retry_failed: bool = False

    def __bool__(self) -> bool:
        return self.add or self.retry_failed

    def __str__(self) -> str:
        return " ".join(["--add"] * self.add + ["--retry-failed"] * self.retry_failed)


def plan_update(
    base: Manifest, scan: Scan, settings: ExtractSettings, versions: dict[str, str], update: Update
) -> Plan:
    """The videos to extract on top of `base`. Keys, labels and classes of the data set stay; new classes come behind."""
    rows = [row for row in base.videos if row.status != SKIPPED]
    known = {row.path for row in rows}
    classes, skipped = base.header.classes, skipped_of(base)
    videos: list[SourceVideo] = []
    if update.retry_failed:
        videos += _failed(rows, scan)
    if update.add:
        if scan.num_folds != base.header.num_folds:
            raise InputError(
                f"{base.root} has {base.header.num_folds} official folds, VIDEOS and its lists now tell {scan.num_folds}. "
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
    """(path, reason) of the inputs that the data set left out."""
    return {(row.path, row.error) for row in base.videos if row.status == SKIPPED}


def _failed(rows: list[VideoRow], scan: Scan) -> list[SourceVideo]:
    sizes = {video.path: video.num_source_bytes for video in scan.videos}
    return [
        SourceVideo(
            row.key,
            row.path,
            row.class_name,
            row.label,
            row.group,
            row.subsets,
            sizes.get(row.path, row.num_source_bytes),
        )
        for row in rows
        if row.status == FAILED
    ]


def _new(rows: list[VideoRow], scan: Scan, classes: tuple[str, ...]) -> list[SourceVideo]:
    known = {row.path for row in rows}
    taken = {row.key.lower() for row in rows}
    labels = {name: label for label, name in enumerate(classes)}
    videos = []
    for video in scan.videos:
        if video.path in known:
            continue
        key = video.key
        for digits in (8, 16, 64):
            if key.lower() not in taken:
                break
            key = video_key(video.class_name, PurePosixPath(video.path).stem, hashed=video.path, digits=digits)
        taken.add(key.lower())
        videos.append(replace(video, key=key, label=labels[video.class_name]))
    return videos
