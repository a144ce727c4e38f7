"""VIDEOS -> SourceVideos: find the videos, tell class, label, group and official subset, name them, account for every file."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from manifests import datasets
from manifests.files import Location
from manifests.records import InputError, SourceVideo
from tgprep.scan.annotations import lists_near
from tgprep.scan.files import Skipped, VideoFile, some, walk_videos
from tgprep.scan.guess import guess_dataset
from tgprep.scan.keys import unique_keys
from tgprep.scan.rules import Extra, Missing, VideoLabel, by_csv, by_folder, by_lists

__all__ = ["Extra", "Missing", "Scan", "Skipped", "scan"]


@dataclass(frozen=True, slots=True)
class Scan:
    """What the folder holds: every video file is in `videos` (sorted by key) or in `skipped` (sorted by path).

    num_folds: official folds, the length of every video's `subsets`; 0 where nothing tells subsets: every video is train.
    missing: classes of which listed videos are absent. extra: classes with videos that no list names; those of official lists
    are among `videos`, in no subset, those of a csv are left aside. notes: what was told from where, for the user.
    """

    dataset: str
    classes: tuple[str, ...]
    videos: tuple[SourceVideo, ...]
    skipped: tuple[Skipped, ...]
    num_folds: int
    missing: tuple[Missing, ...]
    extra: tuple[Extra, ...]
    notes: tuple[str, ...]


def scan(videos: Location, *, dataset: str = "auto", annotations: Location | None = None, classes: str = "all") -> Scan:
    """Find and name every video below `videos`.

    dataset: one of manifests.datasets.DATASETS, or `auto`: told from class folders and file names (a note says so).
    annotations: folder (or csv file) of official lists; None: looked for next to and in VIDEOS.
    classes: `all` keeps classes without videos, `present` drops them and numbers the rest anew.
    Raises InputError where the folder is absent, holds no video, or does not fit the data set.
    """
    if dataset not in (*datasets.DATASETS, "auto"):
        raise InputError(f"--dataset {dataset}: no such data set; one of auto, {', '.join(datasets.DATASETS)}.")
    if isinstance(annotations, Path) and not annotations.exists():
        raise InputError(f"--annotations {annotations}: no such file or folder.")
    walk = walk_videos(videos)
    notes: list[str] = []
    with lists_near(videos, annotations) as places:
        lists = places[0] if annotations is not None else None
        if dataset == "auto":
            dataset = guess_dataset(walk.files, places, lists)
            notes.append(f"data set: {dataset}, told from class folders and file names (--dataset sets it)")
        if dataset == "csv":
            told = by_csv(walk, videos, lists)
        elif dataset == "folder":
            told = by_folder(walk.files, videos)
        else:
            told = by_lists(dataset, walk.files, videos, places, annotations)
    notes.extend(told.notes)
    if told.missing:
        num_missing = sum(entry.num_missing for entry in told.missing)
        worst = sorted(told.missing, key=lambda entry: (-entry.num_missing, entry.class_name))
        named = some([f"{entry.class_name or 'no label'} {entry.num_missing} of {entry.num_listed}" for entry in worst])
        notes.append(f"{num_missing} listed videos of {len(worst)} classes are not in the folder: {named}")
    skipped = list(walk.skipped)
    found: list[tuple[VideoFile, VideoLabel]] = []
    for file in walk.files:
        facts = told.facts.get(file.path)
        if isinstance(facts, VideoLabel):
            found.append((file, facts))
        elif facts is not None:
            skipped.append(Skipped(file.path, facts))
    if not found:
        raise InputError(_nothing_fits(videos, dataset, skipped))
    names = told.classes
    if classes == "present":
        present = {facts.class_name for _, facts in found}
        names = tuple(name for name in names if name in present)
        if len(names) < len(told.classes):
            notes.append(
                f"classes: {len(names)} of {len(told.classes)} have videos and are numbered anew (--classes present)"
            )
    labels = {name: label for label, name in enumerate(names)}
    keys, clashes = unique_keys([(facts.class_name, file.stem, file.path) for file, facts in found])
    rows = [
        SourceVideo(
            key, file.path, facts.class_name, labels[facts.class_name], facts.group, facts.subsets, file.num_bytes
        )
        for key, (file, facts) in zip(keys, found, strict=True)
    ]
    if clashes:
        notes.append(
            f"{len(clashes)} videos share class and name with another (copies, or the same name with another extension); their keys end in a hash of the path: {some(clashes)}"
        )
    if walk.ignored:
        kinds = ", ".join(
            f"{count} {kind}" for kind, count in sorted(walk.ignored.items(), key=lambda entry: (-entry[1], entry[0]))
        )
        notes.append(f"files that are no videos were left aside: {kinds}")
    return Scan(
        dataset,
        names,
        tuple(sorted(rows, key=lambda row: row.key)),
        tuple(sorted(skipped, key=lambda entry: entry.path)),
        told.num_folds,
        told.missing,
        told.extra,
        tuple(notes),
    )


def _nothing_fits(videos: Location, dataset: str, skipped: list[Skipped]) -> str:
    reasons = Counter(entry.reason for entry in skipped)
    top = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
    return (
        f"VIDEOS {videos}: none of the video files fits --dataset {dataset} ({top or 'the list names none of them'}). "
        f"First: {some([entry.path for entry in skipped])}. Check VIDEOS, or use --dataset folder for your own classes."
    )
