"""What each data set's rules tell of the files found: class, group and official subset of each, and what the lists miss."""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from manifests import datasets
from manifests.datasets import KINETICS, OfficialLists
from manifests.files import Location, below, exists
from manifests.records import InputError
from tgprep.scan.files import OTHER_EXTENSIONS, Skipped, VideoFile, Walk, extension_of, some

_NUM_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Missing:
    """How many of the videos that the official lists name for a class are not in the folder. examples: the first few."""

    class_name: str
    num_listed: int
    num_missing: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Extra:
    """How many videos of a class no list names. class_name "": nothing tells it. examples: the paths of the first few."""

    class_name: str
    num_extra: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VideoLabel:
    """What the rules of a data set tell of a file."""

    class_name: str
    group: str
    subsets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Labelling:
    """The outcome of a data set's rules: classes, facts per file (text: skipped with the reason), folds, missing, extra, notes."""

    classes: tuple[str, ...]
    facts: dict[str, VideoLabel | str]
    num_folds: int
    missing: tuple[Missing, ...]
    extra: tuple[Extra, ...]
    notes: tuple[str, ...]


def by_lists(
    dataset: str, files: list[VideoFile], videos: Location, places: list[Path], annotations: Location | None
) -> Labelling:
    lists = datasets.find_official(dataset, places)
    if lists is None and annotations is not None:
        raise InputError(
            f"--annotations {annotations}: no official lists of {dataset} there; expected {datasets.expected_files(dataset)}."
        )
    classes = lists.classes if lists else datasets.class_list(dataset)
    if not classes:
        raise InputError(
            f"--dataset {dataset} takes its class list from the official csv files, and none was found next to {videos}. Give them with --annotations PATH."
        )
    by_folder = {datasets.folded_class(name): name for name in classes}
    facts: dict[str, VideoLabel | str] = {}
    seen: set[int] = set()
    extra: defaultdict[str, list[str]] = defaultdict(list)
    other_class: list[str] = []
    for file in files:
        class_name = next(
            (name for folder in reversed(file.folders) if (name := by_folder.get(datasets.folded_class(folder)))), ""
        )
        class_name = class_name or datasets.class_of_name(dataset, file.stem, classes)
        place = lists.find(class_name, file.stem) if lists else None
        listed = lists.videos[place] if lists is not None and place is not None else None
        if listed is not None and class_name and listed.class_name not in ("", class_name):
            other_class.append(file.path)
        class_name = class_name or (listed.class_name if listed else "")
        if not class_name:
            facts[file.path] = f"class unknown: no folder of the path is a class of {dataset}" + (
                ", and the lists do not label it" if lists else ""
            )
            continue
        if listed is not None and place is not None:
            seen.add(place)
            subsets = listed.subsets
        else:
            told = _subset_of(file) if dataset in KINETICS else ""
            subsets = (told,) * (lists.num_folds if lists else 1)
            if lists:
                extra[class_name].append(file.path)
        facts[file.path] = VideoLabel(class_name, datasets.group_of(dataset, class_name, file.stem), subsets)
    notes = []
    if lists is not None:
        notes.append(
            f"official lists: {lists.source} ({lists.num_folds} fold{'s' if lists.num_folds > 1 else ''}, {len(lists.videos)} videos)"
        )
    if extra:
        paths = [path for entry in extra.values() for path in entry]
        notes.append(f"{len(paths)} videos are in no official list: {some(sorted(paths))}")
    if other_class:
        notes.append(
            f"{len(other_class)} videos lie in another class folder than the lists say; the folder is taken: {some(other_class)}"
        )
    num_folds = lists.num_folds if lists else 1
    if not any(subset for entry in facts.values() if isinstance(entry, VideoLabel) for subset in entry.subsets):
        num_folds = 0
        facts = {
            path: replace(entry, subsets=()) if isinstance(entry, VideoLabel) else entry
            for path, entry in facts.items()
        }
        notes.append(
            "no official split lists found: every video counts as train (--annotations PATH names their folder; "
            f"expected {datasets.expected_files(dataset)})"
            if lists is None
            else "the official lists name none of the videos: every video counts as train"
        )
    return Labelling(classes, facts, num_folds, _missing(lists, seen) if lists else (), _extra(extra), tuple(notes))


def _extra(paths: dict[str, list[str]]) -> tuple[Extra, ...]:
    return tuple(Extra(name, len(entry), tuple(sorted(entry)[:_NUM_EXAMPLES])) for name, entry in sorted(paths.items()))


def _subset_of(file: VideoFile) -> str:
    return next((subset for folder in file.folders if (subset := datasets.subset_of_folder(folder))), "")


def _missing(lists: OfficialLists, seen: set[int]) -> tuple[Missing, ...]:
    listed: Counter[str] = Counter(video.class_name for video in lists.videos)
    absent: defaultdict[str, list[str]] = defaultdict(list)
    for place, video in enumerate(lists.videos):
        if place not in seen:
            absent[video.class_name].append(video.stem)
    return tuple(
        Missing(name, listed[name], len(stems), tuple(sorted(stems)[:_NUM_EXAMPLES]))
        for name, stems in sorted(absent.items())
    )


def by_folder(files: list[VideoFile], videos: Location) -> Labelling:
    """VIDEOS/[train|val|test/]Class/.../file: the subset layout only where every top folder names a subset."""
    nested = [file for file in files if file.folders]
    if not nested:
        raise InputError(_flat(videos))
    notes: list[str] = []
    depth = 0
    while (
        len({file.folders[depth] for file in nested}) == 1
        and all(len(file.folders) > depth + 1 for file in nested)
        and not datasets.subset_of_folder(nested[0].folders[depth])
    ):
        depth += 1  # one folder that only holds the others: UCF-101/ of the archive
    tops = {file.folders[depth] for file in nested}
    subset_names = {top: datasets.subset_of_folder(top) for top in tops}
    with_subsets = all(subset_names.values())
    if depth:
        notes.append(f"class folders lie in {'/'.join(nested[0].folders[:depth])}/")
    facts: dict[str, VideoLabel | str] = {}
    class_place = depth + with_subsets
    for file in files:
        if len(file.folders) <= class_place:
            facts[file.path] = "no class folder above it (expected VIDEOS/Class/file)"
            continue
        name = file.folders[class_place]
        subsets = (subset_names[file.folders[depth]],) if with_subsets else ()
        facts[file.path] = VideoLabel(name, datasets.group_of("folder", name, file.stem), subsets)
    classes = tuple(sorted({entry.class_name for entry in facts.values() if isinstance(entry, VideoLabel)}))
    if with_subsets:
        notes.append(
            f"subsets from the top folders: {', '.join(f'{top}/ is {subset_names[top]}' for top in sorted(tops))}"
        )
    else:
        notes.append(
            "no train/, val/ or test/ folders: every video counts as train (tgprep split --test-percent sets a test part aside)"
        )
    return Labelling(classes, facts, int(with_subsets), (), (), tuple(notes))


def by_csv(walk: Walk, videos: Location, annotations: Path | None) -> Labelling:
    """path,label[,group,subset]: paths relative to VIDEOS; labels are class names, or integers from 0."""
    if annotations is None or not annotations.is_file():
        raise InputError(
            "--dataset csv needs --annotations FILE.csv with the columns path,label and, if wanted, group,subset."
        )
    rows = list(_csv_rows(annotations))
    if not rows:
        raise InputError(f"{annotations}: no rows below the header; expected path,label[,group,subset].")
    numbered = all(re.fullmatch(r"\d{1,6}", label) for _, _, label, _, _ in rows)
    if numbered:
        classes = tuple(str(number) for number in range(max(int(label) for _, _, label, _, _ in rows) + 1))
    else:
        classes = tuple(sorted({label for _, _, label, _, _ in rows}))
    with_subsets = any(subset for *_, subset in rows)
    on_disk = {file.path for file in walk.files}
    left_out = {entry.path for entry in walk.skipped}
    facts: dict[str, VideoLabel | str] = {}
    listed: Counter[str] = Counter()
    absent: defaultdict[str, list[str]] = defaultdict(list)
    for number, path, label, group, subset in rows:
        class_name = str(int(label)) if numbered else label
        if path in facts:
            raise InputError(f"{annotations}, line {number}: {path} is listed twice. Keep one of the lines.")
        listed[class_name] += 1
        facts[path] = VideoLabel(class_name, group, (subset,) if with_subsets else ())
        if path in on_disk or path in left_out:
            continue
        if reason := _set_aside(videos, path):
            walk.skipped.append(Skipped(path, reason))
        else:
            absent[class_name].append(path)
    missing = tuple(
        Missing(name, listed[name], len(paths), tuple(sorted(paths)[:_NUM_EXAMPLES]))
        for name, paths in sorted(absent.items())
    )
    notes = [f"list: {annotations.name} ({len(rows)} videos, {len(classes)} classes)"]
    extra: defaultdict[str, list[str]] = defaultdict(list)
    for file in walk.files:
        if file.path not in facts:
            extra[next((name for name in reversed(file.folders) if name in listed), "")].append(file.path)
    if paths := sorted(path for entry in extra.values() for path in entry):
        notes.append(f"{len(paths)} video files are not in {annotations.name} and were left aside: {some(paths)}")
    if not with_subsets:
        notes.append("no column subset: every video counts as train")
    return Labelling(classes, facts, int(with_subsets), missing, _extra(extra), tuple(notes))


def _set_aside(videos: Location, path: str) -> str:
    """Why a listed file that the walk passed over, as it passes over notes and archives, is not taken; "" where there is none."""
    hidden = any(part.startswith(".") for part in path.split("/"))
    extension = extension_of(path)
    if not (hidden or extension in OTHER_EXTENSIONS) or not exists(below(videos, path)):
        return ""
    return (
        "listed, but hidden (its path has a name that begins with a dot)"
        if hidden
        else f"listed, but .{extension} is no video"
    )


def _csv_rows(annotations: Path) -> Iterator[tuple[int, str, str, str, str]]:
    try:
        with annotations.open(newline="", encoding="utf-8-sig") as lines:
            rows = csv.DictReader(lines)
            if absent := {"path", "label"} - set(rows.fieldnames or ()):
                got = ",".join(rows.fieldnames or ()) or "an empty file"
                raise InputError(
                    f"{annotations}: the first line lacks {' and '.join(sorted(absent))} (got {got[:200]!r}); expected the header path,label[,group,subset]."
                )
            for row in rows:
                path, label = (row["path"] or "").strip(), (row["label"] or "").strip()
                where = f"{annotations}, line {rows.line_num}"
                if not path or not label:
                    raise InputError(f"{where}: path {path!r}, label {label!r}; both must be given.")
                pure = PurePosixPath(path.replace("\\", "/") if "/" not in path else path)
                if pure.is_absolute() or ".." in pure.parts:
                    raise InputError(f"{where}: path {path!r} leaves VIDEOS; give paths relative to VIDEOS.")
                subset = (row.get("subset") or "").strip()
                if subset and not (subset := datasets.subset_of_folder(subset) or subset * (subset == "unused")):
                    raise InputError(f"{where}: subset {row['subset']!r}; expected train, val, test or unused.")
                yield rows.line_num, str(pure), label, (row.get("group") or "").strip(), subset
    except UnicodeDecodeError as error:
        raise InputError(f"{annotations} is not UTF-8 text ({error}). Save it as UTF-8.") from None


def _flat(videos: Location) -> str:
    return (
        f"VIDEOS {videos}: all videos lie straight in the folder, so nothing tells their classes. Expected VIDEOS/Class/file "
        "(or VIDEOS/train/Class/file). Give the folder above if this is one class, or list the classes: "
        "--dataset csv --annotations FILE.csv (path,label). For Kinetics videos named by YouTube id: --dataset kinetics400 --annotations FOLDER with the official csv files."
    )
