"""Class and subset of each file by its folders alone: the layout of a tree is detected, and refused if it is ambiguous."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass

from manifests import datasets
from manifests.console import plural
from manifests.datasets import SUBSET_NAMES, folded_class, is_common, nfc, subset_of_folder, words_of
from manifests.files import Location
from manifests.records import InputError
from tgprep.scan.files import VideoFile, some
from tgprep.scan.rules import Labelling, VideoLabel

Folders = tuple[str, ...]  # of a file, from VIDEOS down
_NO_CLASS = "no class folder above it (expected VIDEOS/Class/file)"


@dataclass(frozen=True, slots=True)
class _Layout:
    """Which folders of a path name class and subset."""

    root: Folders  # the folder that holds the layout, below VIDEOS
    kind: str  # "class": root/Class/file; "subset": root/train/Class/file; "class-subset": root/Class/train/file
    note: str = ""
    passed: frozenset[Folders] = frozenset()  # folders below those of subsets that hold the classes

    def read(self, folders: Folders) -> tuple[str, str] | str:
        """Class and subset ("" if the layout has none) of a file in these folders, or the reason to skip it."""
        depth = len(self.root)
        inside = folders[depth:] if folders[:depth] == self.root else ()
        if self.kind == "class":
            return (inside[0], "") if inside else _NO_CLASS
        if self.kind == "class-subset":
            subset = next(filter(None, map(subset_of_folder, inside[1:])), "")
            return (
                (inside[0], subset)
                if subset
                else "in no train/, val/ or test/ folder, unlike other videos of the classes"
            )
        if not inside or not (subset := subset_of_folder(inside[0])):
            place = "/".join(folders[: depth + 1]) + "/" if folders else "VIDEOS itself"
            return f"in {place}, beside the folders of subsets (train/, val/ or test/): no class and subset known"
        level = 1
        while folders[: depth + level + 1] in self.passed:
            level += 1
        if other := next((name for name in inside[level + 1 :] if subset_of_folder(name) not in ("", subset)), ""):
            return f"in folders of two subsets, {inside[0]}/ and {other}/: no class and subset known"
        return (inside[level], subset) if len(inside) > level else _NO_CLASS


def by_folder(files: list[VideoFile], videos: Location, *, of_frames: bool = False) -> Labelling:
    """Label files in VIDEOS/Class/.../file, VIDEOS/train/Class/.../file or VIDEOS/Class/train/.../file.

    Folders around these are passed over. Files beside the subsets are skipped. InputError if the layout is ambiguous.
    of_frames: the videos are folders of frames, for which fewer options exist.
    """
    nested = sorted({file.folders for file in files if file.folders})
    if not nested:
        raise InputError(
            f"VIDEOS {videos}: all videos are directly in this folder, so their classes are unknown. Expected VIDEOS/Class/file "
            "(or VIDEOS/train/Class/file). Give the folder above if this is one class"
            + (
                ""
                if of_frames
                else ", or list the classes: --dataset csv --annotations FILE.csv (path,label). If they have no labels, add them to "
                f"labelled ones: --unlabelled {videos}"
            )
            + ". For Kinetics videos named by YouTube id: --dataset kinetics400 --annotations FOLDER with the official csv files."
        )
    layout = _find_layout(nested, videos)
    labels: dict[str, VideoLabel | str] = {}
    spellings: defaultdict[str, set[str]] = defaultdict(set)
    read = {folders: layout.read(folders) for folders in (*nested, ())}
    for file in files:
        found = read[file.folders]
        if isinstance(found, str):
            labels[file.path] = found
            continue
        name, subset = nfc(found[0]), found[1]
        spellings[name].add(found[0])
        subsets = () if layout.kind == "class" else (subset,)
        labels[file.path] = VideoLabel(name, datasets.group_of("folder", name, file.stem), subsets)
    notes = [layout.note] if layout.note else []
    notes += _notes(layout, nested, [path for path, why in labels.items() if isinstance(why, str)])
    if double := sorted(name for name, forms in spellings.items() if len(forms) > 1):
        notes.append(
            f"{plural(len(double), 'class has folders', 'classes have folders')} in composed and in decomposed Unicode, taken as one class each: {some(double)}"
        )
    same = Counter(map(folded_class, spellings))
    if alike := sorted(name for name in spellings if same[folded_class(name)] > 1):
        notes.append(
            f"{plural(len(alike), 'class has a name', 'classes have names')} that differ in case or spaces alone, and stay apart: {some(alike)}"
        )
    return Labelling(tuple(sorted(spellings)), labels, int(layout.kind != "class"), (), (), tuple(notes))


def _find_layout(nested: list[Folders], videos: Location) -> _Layout:
    """The layout of a tree. nested: the folders of every file that is in one."""
    # Folders that only hold the others, such as UCF-101/ of the archive, are passed over; not the last one, which is a class.
    first, depth = nested[0], 0
    while all(len(folders) > depth + 1 and folders[depth] == first[depth] for folders in nested):
        if subset_of_folder(first[depth]):
            break
        depth += 1
    root = first[:depth]
    if any(subset_of_folder(folders[depth]) for folders in nested):
        return _subsets_in(root, nested, videos, is_common=True)
    # The place of the first subset folder in each path that has one, below the top folders.
    places = {
        folders: place
        for folders in nested
        if (place := next((at for at in range(depth + 1, len(folders)) if subset_of_folder(folders[at])), 0))
    }
    if not places:
        return _classes_in(root, nested, videos)
    holders = {folders[:place] for folders, place in places.items()}
    if len(holders) == 1:
        return _subsets_in(holders.pop(), nested, videos, is_common=False)
    # Class/train/file: below a subset folder are no more folders.
    if all(len(folders) == place + 1 for folders, place in places.items()):
        words = {subset_of_folder(folders[place]) for folders, place in places.items()}
        if len(words) > 1 or len(places) == len(nested):
            return _Layout(root, "class-subset")
    raise _ambiguous(videos, [folders[: place + 1] for folders, place in places.items()], nested)


def _subsets_in(root: Folders, nested: list[Folders], videos: Location, *, is_common: bool) -> _Layout:
    """The layout if folders in `root` have names of subsets: subsets that hold classes, or classes of these names.

    is_common: whether all files are below `root`.
    """
    depth = len(root)
    subset_folders = {f for f in nested if f[:depth] == root and len(f) > depth and subset_of_folder(f[depth])}
    others = [folders for folders in nested if folders not in subset_folders]
    num_words = len({subset_of_folder(folders[depth]) for folders in subset_folders})
    hold_classes = any(len(folders) > depth + 1 for folders in subset_folders)
    # One subset beside folders of videos (demo/) is a subset; beside folders that hold folders it may be a class.
    others_hold_videos = is_common and all(len(folders) == depth + 1 for folders in others)
    if not others or (hold_classes and (num_words > 1 or others_hold_videos)):
        return _Layout(root, "subset", passed=_passed(root, nested))
    # A class may be called `train` (a vehicle) or `test`: one such folder that holds videos, as the folders beside it may.
    if num_words == 1 and not hold_classes and is_common:
        name = f"{min(subset_folders)[depth]}/"
        note = f"{name} counts as a class, not as a subset: it holds videos and no class folders, and no other subset is beside it"
        return _Layout(root, "class", note)
    raise _ambiguous(videos, [folders[: depth + 1] for folders in subset_folders], nested)


def _passed(root: Folders, nested: list[Folders]) -> frozenset[Folders]:
    """The folders between subset and class, which hold folders alone: of one name everywhere, or of common names (`train/videos/Class`)."""
    depth, passed = len(root), set[Folders]()
    inside = [f for f in nested if f[:depth] == root and len(f) > depth + 1 and subset_of_folder(f[depth])]
    above = dict.fromkeys(inside, depth + 1)  # number of folders above the level that is looked at
    while True:
        groups: defaultdict[Folders, list[Folders]] = defaultdict(list)
        for folders, level in above.items():
            groups[folders[:level]].append(folders)
        if len({folders[level] for folders, level in above.items()}) == 1:
            found = list(groups) if all(len(folders) > level + 1 for folders, level in above.items()) else []
        else:
            found = [
                head
                for head, group in groups.items()
                if all(len(f) > len(head) + 1 and is_common(f[len(head)]) for f in group)
            ]
        if not found:
            return frozenset(passed)
        for head in found:
            for folders in groups[head]:
                passed.add(folders[: len(head) + 1])
                above[folders] += 1


def _classes_in(root: Folders, nested: list[Folders], videos: Location) -> _Layout:
    """The layout without folders of subsets; InputError for folders such as `my_train` and `my_test`, or `train1` and `test1`."""
    depth = len(root)
    for level in (depth, depth + 1):
        alike: defaultdict[tuple[str, ...], dict[Folders, str]] = defaultdict(dict)
        for folders in (f[: level + 1] for f in nested if len(f) > level):
            parts = words_of(re.sub(r"\d+", " ", nfc(folders[-1])))
            if len(words := [SUBSET_NAMES[part] for part in parts if part in SUBSET_NAMES]) == 1:
                alike[tuple(part for part in parts if part not in SUBSET_NAMES and part)][folders] = words[0]
        for group in alike.values():
            if len(set(group.values())) > 1:
                raise _ambiguous(videos, list(group), nested)
    return _Layout(root, "class")


def _ambiguous(videos: Location, subset_folders: list[Folders], nested: list[Folders]) -> InputError:
    def shown(folders: list[Folders]) -> str:
        return some(sorted({"/".join(entry) + "/" for entry in folders}))

    known, depths = set(subset_folders), {len(entry) for entry in subset_folders}
    others = [folders for folders in nested if not any(folders[:depth] in known for depth in depths)]
    beside = f" beside {shown(others)}" if others else ""
    return InputError(
        f"VIDEOS {videos}: are {shown(subset_folders)}{beside} subsets or classes? Expected VIDEOS/Class/file, "
        "VIDEOS/train/Class/file or VIDEOS/Class/train/file (train, val or test). Move folders that are neither out of VIDEOS, rename them, or "
        "list the videos: --dataset csv --annotations FILE.csv (path,label,subset)."
    )


def _note_on_folders_in_classes(layout: _Layout, nested: list[Folders]) -> list[str]:
    """A note on classes whose videos are all in folders of their own: these may be the classes."""
    if layout.kind == "class-subset":
        return []
    deeper: defaultdict[str, set[str]] = defaultdict(set)
    holding: set[str] = set()
    for folders in nested:
        if isinstance(read := layout.read(folders), tuple):
            place = folders.index(read[0], len(layout.root) + (layout.kind == "subset"))
            deeper[read[0]].update(folders[place + 1 : place + 2])
            holding.update([read[0]] * (len(folders) == place + 1))
    if not (found := sorted(name for name, inner in deeper.items() if inner and name not in holding)):
        return []
    example = f"{found[0]}/{min(deeper[found[0]])}/"
    return [
        f"{plural(len(found), 'class holds', 'classes hold')} folders and no videos, such as {example}: if those folders are the classes, give them with --dataset csv"
    ]


def _notes(layout: _Layout, nested: list[Folders], skipped: list[str]) -> list[str]:
    """What the user should know about the layout and the files that it leaves out."""
    notes, depth = [], len(layout.root)
    if layout.root:
        notes.append(f"the classes are in {'/'.join(layout.root)}/")
    if layout.passed:
        notes.append(f"no classes but folders around them: {some(sorted('/'.join(p) + '/' for p in layout.passed))}")
    notes += _note_on_folders_in_classes(layout, nested)
    if layout.kind == "class":
        notes.append(
            "no train/, val/ or test/ folders: every video counts as train (tgprep split --test-percent sets a test part aside)"
        )
    else:
        place = "the folders in each class" if layout.kind == "class-subset" else "the top folders"
        names = {
            name: subset
            for folders in nested
            for name in (folders[depth : depth + 1] if layout.kind == "subset" else folders[depth + 1 :])
            if folders[:depth] == layout.root and (subset := subset_of_folder(name))
        }
        found = ", ".join(f"{name}/ is {subset}" for name, subset in sorted(names.items()))
        notes.append(f"subsets from {place}: {found}")
    if skipped:
        places = ("/".join(path.split("/")[:-1][: depth + 1]) for path in skipped)
        counts = Counter(f"{place}/" if place else "VIDEOS itself" for place in places)
        shown = some([f"{count} in {place}" for place, count in sorted(counts.items())])
        notes.append(
            f"{plural(len(skipped), 'video that is in no class is', 'videos that are in no class are')} skipped: {shown}"
        )
    return notes
