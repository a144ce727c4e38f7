"""Find all videos below VIDEOS with class, label, group, official subset and key; account for every file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from pathlib import Path

from manifests import datasets
from manifests.console import plural
from manifests.files import Location
from manifests.lists.kinetics import is_kinetics_csv
from manifests.lists.official import unread_files
from manifests.records import MAX_NAME_BYTES, NO_LABEL, InputError, SourceVideo
from tgprep.scan.annotations import annotation_paths
from tgprep.scan.csv_list import by_csv
from tgprep.scan.files import Listing, Skipped, VideoFile, list_videos, some
from tgprep.scan.folders import by_folder
from tgprep.scan.keys import stem_of, text_of, unique_keys
from tgprep.scan.pool import KEY_FOLDER, OUTSIDE, Pools, list_outside, pool_labels
from tgprep.scan.rules import Extra, Labelling, Missing, VideoLabel, by_lists, guess_dataset
from tgprep.scan.segments import is_untrimmed

_BESIDE_KEY = attrgetter(*(field.name for field in fields(SourceVideo) if field.name != "key"))

__all__ = ["Extra", "Missing", "Scan", "Skipped", "scan"]


@dataclass(frozen=True, slots=True)
class Scan:
    """The contents of VIDEOS: every video file is in `videos` or in `skipped`."""

    dataset: str
    classes: tuple[str, ...]
    videos: tuple[SourceVideo, ...]  # by key
    skipped: tuple[Skipped, ...]  # by path
    num_folds: int  # official folds, the length of every video's `subsets`; 0: none are known, every video is train
    missing: tuple[Missing, ...]
    extra: tuple[Extra, ...]  # without subset if the lists are official, not in `videos` if they are a csv
    notes: tuple[str, ...]  # for the user: what was inferred from where

    @property
    def notes_on_missing(self) -> tuple[str, ...]:
        """Those of `notes` that say what is missing."""
        return tuple(_notes_on_missing(self.missing))


def scan(
    videos: Location,
    *,
    dataset: str = "auto",
    annotations: Location | None = None,
    classes: str = "all",
    pools: Pools | None = None,
    reserved: bool = True,
) -> Scan:
    """Find and name every video below `videos`, and in the folders of unlabelled videos.

    dataset: one of manifests.datasets.DATASETS, or `auto` to infer it from folder and file names.
    annotations: folder (or csv file) of official lists; None: look beside and in VIDEOS.
    classes: `all` keeps classes without videos, `present` drops them and renumbers the rest.
    reserved: whether the videos in folders named `unlabelled` have no label.
    Raises InputError if the folder does not exist, holds no video, or does not fit the data set.
    """
    if dataset not in (*datasets.DATASETS, "auto"):
        raise InputError(f"--dataset {dataset}: no such data set; one of auto, {', '.join(datasets.DATASETS)}.")
    if isinstance(annotations, Path) and not annotations.exists():
        raise InputError(f"--annotations {annotations}: no such file or folder.")
    listing = list_videos(videos)
    list_outside(pools := pools or Pools(), listing)
    dataset, labelling = label_files(listing, videos, dataset, annotations, pools, reserved=reserved)
    return named(listing, videos, dataset, labelling, classes)


def named(listing: Listing, videos: Location, dataset: str, labelling: Labelling, classes: str = "all") -> Scan:
    """Give every file its label and key. InputError if no file has a label, unless all are known to have none."""
    notes = [*labelling.notes, *_notes_on_missing(labelling.missing)]
    # Every file has a label or is skipped; files that a csv does not name have neither.
    labels = [(file, labelling.labels.get(file.path)) for file in listing.videos]
    labelled = [(file, label) for file, label in labels if isinstance(label, VideoLabel)]
    labelled += [(file, label) for file in listing.videos for label in labelling.segments.get(file.path, ())]
    skipped = listing.skipped + [Skipped(path, why) for path, why in labelling.labels.items() if isinstance(why, str)]
    unlabelled = [(file, label) for file, label in labelled if not label.class_name]
    labelled = [(file, label) for file, label in labelled if label.class_name]
    # A data set may hold unlabelled videos alone; but that no other file fits is a mistake.
    if not labelled and len(unlabelled) < len(listing.videos):
        raise InputError(_why_none(listing, videos, dataset, labelling.missing, skipped))
    for file, label in (*labelled, *unlabelled):
        if (num_bytes := max(len(label.class_name.encode()), len(label.group.encode()))) > MAX_NAME_BYTES:
            raise InputError(
                f"{file.path}: its class or group has {num_bytes} bytes; expected at most {MAX_NAME_BYTES}."
            )
    # A label is the class's number, which depends on whether absent classes keep theirs.
    names = labelling.classes
    if classes == "present":
        present = {label.class_name for _, label in labelled}
        names = tuple(name for name in names if name in present)
        if len(names) < len(labelling.classes):
            notes.append(
                f"classes: {len(names)} of {len(labelling.classes)} have videos and are renumbered (--classes present)"
            )
    numbers = {name: number for number, name in enumerate(names)}
    numbers[""] = NO_LABEL
    rows = _without_keys((*labelled, *unlabelled), numbers, labelling)
    # Keys of labelled videos do not depend on the others.
    names_of = [(row.class_name or KEY_FOLDER, stem_of(row), text_of(row)) for row in rows]
    keys, clashes = unique_keys(names_of[: len(labelled)])
    taken = {key.lower() for key in keys}
    more_keys, more_clashes = unique_keys(names_of[len(labelled) :], taken)
    keys, clashes = [*keys, *more_keys], sorted(clashes + more_clashes)
    if clashes:
        notes.append(
            f"{plural(len(clashes), 'video shares', 'videos share')} class and name with another (copies, or the same name with another extension); their keys end in a hash of the path: {some(clashes)}"
        )
    rows = [SourceVideo(key, *_BESIDE_KEY(row)) for row, key in zip(rows, keys, strict=True)]
    if unlabelled:
        notes.append(f"{plural(len(unlabelled), 'video has', 'videos have')} no label: {some(_places(unlabelled))}")
    if listing.ignored:
        kinds = sorted(listing.ignored.items(), key=lambda entry: (-entry[1], entry[0]))
        notes.append(f"ignored files that are no videos: {', '.join(f'{count} {kind}' for kind, count in kinds)}")
    return Scan(
        dataset,
        names,
        tuple(sorted(rows, key=lambda row: row.key)),
        tuple(sorted(skipped, key=lambda entry: entry.path)),
        labelling.num_folds,
        labelling.missing,
        labelling.extra,
        tuple(notes),
    )


def _without_keys(
    labelled: Sequence[tuple[VideoFile, VideoLabel]], numbers: dict[str, int], labelling: Labelling
) -> list[SourceVideo]:
    rows = []
    for file, label in labelled:
        facts = (label.class_name, numbers[label.class_name], label.group, label.subsets, file.num_bytes)
        # Whole files beside segments have a start, too.
        start = max(label.start_seconds, 0.0) if labelling.segments else label.start_seconds
        rows.append(SourceVideo("", file.path, *facts, start, label.end_seconds))
    return rows


def _why_none(
    listing: Listing, videos: Location, dataset: str, missing: tuple[Missing, ...], skipped: list[Skipped]
) -> str:
    """The message if no video has a label."""
    if dataset == "csv" and not skipped:
        named = f"it names {missing[0].examples[0]}, " if missing else ""
        example = f"{named}VIDEOS holds {listing.videos[0].path}"
        return f"VIDEOS {videos}: the list names none of its videos: {example}. Write paths relative to VIDEOS."
    reasons = Counter(entry.reason for entry in skipped)
    top = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
    advice = "" if dataset in ("csv", "folder") else ", or use --dataset folder for your own classes"
    return (
        f"VIDEOS {videos}: none of the video files fits --dataset {dataset} ({top}). "
        f"First: {some([entry.path for entry in skipped])}. Check VIDEOS{advice}."
    )


def _notes_on_missing(missing: tuple[Missing, ...]) -> list[str]:
    num_missing = sum(entry.num_missing for entry in missing)
    worst = sorted(missing, key=lambda entry: (-entry.num_missing, entry.class_name))
    examples = some([f"{e.class_name or 'no label'} {e.num_missing} of {e.num_listed}" for e in worst])
    return (
        [
            f"{plural(num_missing, 'listed video')} of {plural(len(worst), 'class', 'classes')} {'is' if num_missing == 1 else 'are'} not in the folder: {examples}"
        ]
        if missing
        else []
    )


def _places(unlabelled: list[tuple[VideoFile, VideoLabel]]) -> list[str]:
    """How many videos are in each top folder, most first."""
    counts = Counter(
        "/".join(file.folders[: 2 if file.folders[0] == OUTSIDE else 1]) + "/" if file.folders else "VIDEOS itself"
        for file, _ in unlabelled
    )
    return [f"{count} in {place.removeprefix(f'{OUTSIDE}/')}" for place, count in counts.most_common()]


def label_files(
    listing: Listing,
    videos: Location,
    dataset: str,
    annotations: Location | None,
    pools: Pools | None = None,
    *,
    reserved: bool = True,
    of_frames: bool = False,
) -> tuple[str, Labelling]:
    """Label the files by the rules of their data set, which is detected and noted if it is `auto`. of_frames: see `by_folder`."""
    pool = pool_labels(listing.videos, pools or Pools(), reserved=reserved)
    files = [file for file in listing.videos if file.path not in pool]
    with annotation_paths(videos, annotations) as paths:
        lists = paths[0] if annotations is not None else None
        detected = dataset
        if dataset == "auto":
            cuts = lists is not None and is_kinetics_csv(lists) and is_untrimmed(files, videos, lists)
            detected = "csv" if cuts else guess_dataset(files, paths, lists)
        if detected == "csv":
            labelling = by_csv(listing, videos, lists, pool)
        elif not files:
            labelling = Labelling(datasets.class_list(detected), {}, 0, (), (), ())
        elif detected == "folder":
            labelling = by_folder(files, videos, of_frames=of_frames)
        else:
            labelling = by_lists(detected, files, videos, paths, annotations)
        notes = [*labelling.notes]
        if detected == "folder":
            notes += unread_files(detected, paths, None)
    if dataset == "auto":
        notes.insert(0, f"detected data set {detected} from folder and file names (--dataset sets it)")
    # A list knows better than a folder.
    subsets = ("train",) * labelling.num_folds
    labels = {
        path: label if isinstance(label, str) else replace(label, subsets=subsets) for path, label in pool.items()
    }
    return detected, replace(labelling, notes=tuple(notes), labels={**labels, **labelling.labels})
