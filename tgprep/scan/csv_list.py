"""Labels from a user's table of videos: path and label, perhaps group and subset."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath

from manifests.console import plural
from manifests.datasets import folded_class, nfc
from manifests.files import Location, below, exists
from manifests.lists.labels import UNUSED, is_missing, number_of, subset_of_word, whole_number
from manifests.lists.table import (
    COLUMNS,
    KINETICS_COLUMNS,
    Row,
    Table,
    expected_columns,
    header_of,
    read_table,
    refuse_unread_subsets,
    subset_word,
)
from manifests.lists.text import read_text, shown
from manifests.records import NO_LABEL, InputError, Place
from tgprep.scan.files import OTHER_EXTENSIONS, Listing, VideoFile, extension_of, some
from tgprep.scan.rules import Labelling, VideoLabel, count_extra, count_missing
from tgprep.scan.segments import by_file, columns_of_times, default_group, names_by_id, notes_on_segments, times_of


def by_csv(listing: Listing, videos: Location, annotations: Path | None, pool: Collection[str] = ()) -> Labelling:
    """Label files by path,label[,start_seconds,end_seconds][,group,subset], or cut them by the columns of Kinetics.

    Paths are relative to VIDEOS; labels are class names, or integers from 0. An empty label is none. pool: paths of videos without a
    label, which the table need not name.
    """
    if annotations is None or not annotations.is_file():
        raise InputError(
            "--dataset csv needs --annotations FILE.csv with the columns path,label and, if wanted, group,subset."
        )
    table = _read(annotations)
    names = _Names(listing, videos, by_ids=names_by_id(table.columns))
    path_column, times = _path_column(table, names), columns_of_times(table)
    label_column = table.named("label")[0]
    labels, classes, notes = _classes(table.rows, label_column, annotations)
    subsets, more = _subsets(table, annotations)
    notes = [_note_on_list(annotations.name, len(table.rows), len(classes)), *notes, *more]
    if (path_column, label_column) != ("path", "label"):
        notes.append(f"columns of {annotations.name}: the path is {path_column}, the label {label_column}")
    group_column = next(iter(table.named("group")), "")
    used = (path_column, label_column, group_column, *table.named("subset"), *(times or ()))
    if unread := [column for column in table.columns if column not in used]:
        notes.append(f"columns of {annotations.name} that are not read: {some(unread)}")
    if not subsets:
        refuse_unread_subsets(((name, [row.get(name) for row in table.rows]) for name in unread), annotations)
    rows: dict[Place, VideoLabel | str] = {}
    for row, label, subset in zip(table.rows, labels, subsets or [""] * len(labels), strict=True):
        where = f"{annotations}, line {row.line}"
        path = names.find(row.get(path_column), where)
        span = times_of(row, times, where) if times else (-1.0, -1.0)
        if (path, *span) in rows:
            raise InputError(
                f"{where}: {path} is listed twice{' with these times' if times else ''}. Keep one of them."
            )
        if not label and subset in ("val", "test", UNUSED):
            rows[path, *span] = f"listed as {subset} without a label: only train videos may have none"
            continue
        group = row.get(group_column) or (default_group(path) if times else "")
        rows[path, *span] = VideoLabel(label, group, (subset if label else "train",) if subsets else (), *span)
    # Listed paths that are not among the videos: skipped already, no video, or missing.
    listed = {path for path, _, _ in rows}
    unseen = listed - {file.path for file in listing.videos} - {entry.path for entry in listing.skipped}
    no_videos = {path: reason for path in sorted(unseen) if (reason := _why_no_video(videos, path))}
    class_of = {place: row.class_name if isinstance(row, VideoLabel) else "" for place, row in rows.items()}
    gone = unseen - no_videos.keys()
    absent = ((name, path) for (path, *_), name in class_of.items() if path in gone)
    missing = count_missing(class_of.values(), absent)
    # Videos that are not listed: by the innermost folder that is a class.
    unlisted = [file for file in listing.videos if file.path not in listed and file.path not in pool]
    extra = _by_class(unlisted, set(classes))
    if unlisted:
        are = plural(len(unlisted), "video file is", "video files are")
        notes.append(f"{are} not in {annotations.name} and ignored: {some(sorted(file.path for file in unlisted))}")
    # A row without a label whose file is missing is no video that was skipped.
    found = {place: row for place, row in rows.items() if place[0] not in unseen or isinstance(row, VideoLabel)}
    segments = by_file(found) if times else {}
    notes += notes_on_segments(segments, (file.path for file in listing.videos)) if times else ()
    whole = {path: row for (path, *_), row in found.items() if path not in segments}
    labels_of = {**whole, **no_videos}
    return Labelling(classes, labels_of, int(bool(subsets)), missing, count_extra(extra), tuple(notes), segments)


def _note_on_list(name: str, num_videos: int, num_classes: int) -> str:
    return f"list: {name} ({plural(num_videos, 'video')}, {plural(num_classes, 'class', 'classes')})"


def _by_class(files: Iterable[VideoFile], classes: Collection[str]) -> dict[str, list[str]]:
    """Paths by the innermost folder that is a class, "" if none is."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for file in files:
        found[next((name for name in reversed(file.folders) if name in classes), "")].append(file.path)
    return found


def _why_no_video(videos: Location, path: str) -> str:
    """Why a listed file is not among the videos although it exists: hidden, or another kind of file. "" if it is missing."""
    hidden = any(part.startswith(".") for part in path.split("/"))
    extension = extension_of(path)
    if not (hidden or extension in OTHER_EXTENSIONS) or not exists(below(videos, path)):
        return ""
    return f"listed, but {'hidden (its path has a name that begins with a dot)' if hidden else f'.{extension} is no video'}"


def _read(file: Path) -> Table:
    text = read_text(file)
    columns = header_of(text)[1]
    needed = ("label",) if names_by_id(columns) else ("path", "label")
    absent = [kind for kind in needed if set(COLUMNS[kind]).isdisjoint(columns)]
    if absent:
        found = ", ".join(name or "(no name)" for name in columns)[:200] or "nothing: an empty file"
        raise InputError(
            f"{file}: the first line lacks a column for {' and '.join(absent)} (got {found}); expected the header "
            f"path,label[,start_seconds,end_seconds][,group,subset]. Known names: {expected_columns(*absent)}."
        )
    table = read_table(text, file)
    if not table.rows:
        raise InputError(f"{file}: no rows below the header; expected path,label[,group,subset].")
    return table


_JUDGED_ROWS = 1000  # a look-up of every row would take most of the time of a scan


def _path_column(table: Table, names: _Names) -> str:
    """The column that names most videos in the first rows; of equals `path`, else the likeliest."""
    columns = table.named("path") or KINETICS_COLUMNS[:1]
    counts = {
        column: names.count(row.get(column) for row in table.rows[:_JUDGED_ROWS]) for column in columns[1:] and columns
    }
    return max(columns, key=lambda column: (counts.get(column, 0), column == "path"))


def _classes(rows: Iterable[Row], column: str, file: Path) -> tuple[list[str], tuple[str, ...], list[str]]:
    """The class of each row ("" for rows without a label), the class list, and notes. Labels are numbers if all are, else names."""
    labels = [row.get(column) for row in rows]
    for row, label in zip(rows, labels, strict=True):
        if label and is_missing(label):
            raise InputError(
                f"{file}, line {row.line}: no label ({column} is {shown(label)}). Leave the cell empty if the class is unknown."
            )
    known = [label for label in labels if label]
    numbers = [label for label in known if number_of(label) is not None]
    if len(numbers) == len(known):
        found = []
        for row, label in zip(rows, labels, strict=True):
            try:
                found.append(whole_number(label) or 0 if label else NO_LABEL)
            except InputError as error:
                raise InputError(f"{file}, line {row.line}: {error}.") from None
        names = tuple(map(str, range(max(found, default=NO_LABEL) + 1)))
        return [str(number) if number != NO_LABEL else "" for number in found], names, []
    notes = []
    if numbers:
        name = next(label for label in known if number_of(label) is None)
        what = f"{len(numbers)} of {len(known)} labels are numbers, such as {shown(numbers[0])}, the others names, such as {shown(name)}"
        if len(numbers) * 2 > len(known):
            raise InputError(f"{file}: {what}. Correct the names, or write a name for every class.")
        notes.append(f"{what}: all count as names")
    # Names that differ in their form of Unicode are one class, in the first spelling; in case, they are two.
    spelling: dict[str, str] = {}
    labels = [spelling.setdefault(nfc(label), label) for label in labels]
    classes = tuple(sorted(set(labels) - {""}))
    same = Counter(map(folded_class, classes))
    if alike := [name for name in classes if same[folded_class(name)] > 1]:
        notes.append(
            f"{plural(len(alike), 'class has a name', 'classes have names')} that differ in case or spaces alone, and stay apart: {some(alike)}"
        )
    return labels, classes, notes


def _subsets(table: Table, file: Path) -> tuple[list[str], list[str]]:
    """The subset of each row, and notes; empty if there is no column, or it is empty."""
    no_column = ["no column subset: every video counts as train"]
    columns, notes = list(table.named("subset")), list[str]()
    folds = [cell for row in table.rows if (cell := row.get("fold"))] if "fold" in columns else []
    if folds and all(number_of(cell) is not None for cell in folds):
        columns.remove("fold")
        notes = [f"the column fold of {file.name} holds numbers, not train, val or test: it is not read"]
    column, words = " or ".join(columns), list[str]()
    for row in table.rows:
        word, other = subset_word(map(row.get, columns))
        if other:
            raise InputError(
                f"{file}, line {row.line}: {shown(word)} and {shown(other)} in the columns {column}. Correct or remove one."
            )
        words.append(word)
    if not any(words):
        return [], [f"the column {column} is empty: every video counts as train"] if column else [*notes, *no_column]
    subsets = [subset_of_word(word) for word in words]
    if unknown := [
        (row, word) for row, word, subset in zip(table.rows, words, subsets, strict=True) if word and not subset
    ]:
        row, word = unknown[0]
        raise InputError(
            f"{file}, line {row.line}: {column} {shown(word)} ({plural(len(unknown), 'row has such a word', 'rows have such words')}); expected train, val, test or unused."
        )
    empty = words.count("")
    return subsets, notes + [f"{empty} of {len(words)} rows have no {column} and are in no part"] * bool(empty)


class _Names:
    """Finds the video that a list names."""

    def __init__(self, listing: Listing, videos: Location, *, by_ids: bool) -> None:
        # Paths may be absolute, or begin with the folder itself. It may be a symbolic link: both of its places count.
        roots = [str(videos)]
        if isinstance(videos, Path):
            roots = [os.path.abspath(videos), os.path.realpath(videos), videos.name]  # noqa: PTH100 - not resolved
        self.roots = [f"{root}/" for root in roots if root]
        paths = [entry.path for entry in listing.skipped] + [file.path for file in listing.videos]
        self.paths = frozenset(paths)
        self.files = {nfc(path): path for path in paths}
        # Lists may leave the extension out. A name that two videos share is none.
        stems: defaultdict[str, list[str]] = defaultdict(list)
        for file in listing.videos:
            stems[nfc("/".join([*file.folders, file.stem]))].append(file.path)
        self.stems = {stem: paths[0] for stem, paths in stems.items() if len(paths) == 1}
        # YouTube ids say nothing of folders.
        by_id = Counter(file.stem for file in listing.videos if by_ids)
        self.stems |= {file.stem: file.path for file in listing.videos if by_id[file.stem] == 1}

    def count(self, names: Iterable[str]) -> int:
        """How many of the names are videos."""
        return sum(self._among(name) is not None for name in names)

    def find(self, name: str, where: str) -> str:
        """The path below VIDEOS that a name means; it may be missing there. InputError if it leads elsewhere."""
        if not name:
            raise InputError(f"{where}: the path is empty.")
        if (found := self._among(name)) is not None:
            return found
        path = PurePosixPath(self._below(name.replace("\\", "/") if "/" not in name else name, self.roots[:2]))
        if path.is_absolute() or ".." in path.parts:
            raise InputError(f"{where}: path {shown(name)} leaves VIDEOS; give paths relative to VIDEOS.")
        return str(path)

    def _among(self, name: str) -> str | None:
        # A backslash divides folders in lists that were written on Windows; here it may be a part of a name.
        for text in (name, name.replace("\\", "/")):
            for path in (text, self._below(text, self.roots), text.lstrip("/")):
                # A folder may hold a name in both forms of Unicode: as it is written it counts first.
                if (exact := str(PurePosixPath(path))) in self.paths:
                    return exact
                plain = nfc(exact)
                if (found := self.files.get(plain, self.stems.get(plain))) is not None:
                    return found
        return None

    def _below(self, path: str, roots: list[str]) -> str:
        return next((path.removeprefix(root) for root in roots if path.startswith(root)), path)
