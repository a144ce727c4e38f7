"""Match lines of a list to videos of the data set, regardless of case, extension and parent folders."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from manifests.console import plural
from manifests.datasets import KINETICS, KINETICS_NAME, VIDEO_EXTENSIONS, clean_class, nfc
from manifests.lists.labels import subset_of_word
from manifests.lists.text import shown
from manifests.records import NO_LABEL, WRITTEN, InputError
from manifests.splits.lists import ListFile, Reading
from manifests.table import Manifest

_Entry = tuple[str, int]  # a part, and the place of the entry in its list
_WITHOUT_LABEL = "has no label in the data set, and can be unlabelled only"


@dataclass(frozen=True, slots=True)
class Unmatched:
    """A line without a video in the split, and the reason."""

    file: str
    line: int
    text: str
    reason: str


@dataclass(frozen=True, slots=True)
class Match:
    """A line that names a video."""

    row: int  # of the manifest
    line: int  # of the list
    reading: Reading  # how the line was understood


@dataclass(frozen=True, slots=True)
class Matches:
    """The videos of the lines of lists."""

    of_part: dict[str, list[Match]]
    held_out: dict[str, list[Match]]
    """Lines of train lists that are of another subset by their own word: of the parts validation and test, or "" (no part)."""
    unmatched: tuple[Unmatched, ...]


def match_lists(manifest: Manifest, read: dict[str, ListFile], *, gives_labels: bool = False) -> Matches:
    """Find the video of every line, per part, and list the lines without one.

    gives_labels: whether lines may name videos without a label as labelled ones. Ways of naming a video are tried in turn for the lines that are not matched yet. InputError if a list matches nothing.
    """
    status, errors = manifest.videos.column("status"), manifest.videos.arrow.column("error")
    labels = manifest.videos.column("label")
    found, ambiguous = _find(manifest, read)
    # A match counts if the video was written and no earlier line of the list has it.
    matches: dict[str, list[Match]] = {part: [] for part in read}
    held_out: dict[str, list[Match]] = {"validation": [], "test": [], "": []}
    unmatched = []
    for part, file in read.items():
        taken: dict[int, Match] = {}
        for place, entry in enumerate(file.entries):
            match = found.get((part, place))
            other, reason = _other_part(part, entry.subset)
            if match is not None and reason and part in ("labelled", "unlabelled") and other != "train":
                held_out[other].append(match)
                if other:
                    continue
            if reason:
                pass
            elif match is None:
                reason = "several videos fit" if (part, place) in ambiguous else "no such video in the data set"
            elif status[match.row] != WRITTEN:
                reason = f"{status[match.row]}: {errors[match.row].as_py() or 'no reason given'}"
            elif labels[match.row] == NO_LABEL and part != "unlabelled" and not gives_labels:
                reason = _WITHOUT_LABEL
            elif match.row in taken:
                first = taken[match.row]
                reason = f"listed before, in line {first.line}"
                if first.reading.label != match.reading.label:
                    reason += f" with label {first.reading.label or 'none'}, which counts"
            else:
                taken[match.row] = match
                matches[part].append(match)
                continue
            unmatched.append(Unmatched(file.name, entry.line, entry.text, reason))
        # A list without a single match is of another data set: stop, rather than report every line.
        if not matches[part]:
            reasons = {entry.reason for entry in unmatched if entry.file == file.name}
            raise InputError(_why_nothing_matches(manifest, part, file, reasons))
    return Matches(matches, held_out, tuple(unmatched))


def _find(manifest: Manifest, read: dict[str, ListFile]) -> tuple[dict[_Entry, Match], set[_Entry]]:
    """The video that each entry names, and the entries that several videos fit."""
    open_entries = {(part, line): entry for part, file in read.items() for line, entry in enumerate(file.entries)}
    found: dict[_Entry, Match] = {}
    ambiguous: set[_Entry] = set()
    without_label = [label == NO_LABEL for label in manifest.videos.column("label")]
    for names_of_videos, names_of_reading in _ways(manifest):
        if not open_entries:
            break
        # A name that several videos share maps to -1; but a video with a label has its name for itself.
        table: dict[str, int] = {}
        for is_pool in (True, False):
            names = [(row, name) for row, name in names_of_videos() if without_label[row] == is_pool]
            own: dict[str, int] = {}
            for row, name in names:
                own[name] = row if own.setdefault(name, row) == row else -1
            table |= own
        for entry_id, entry in list(open_entries.items()):
            for reading in entry.readings:
                rows = [table[name] for name in names_of_reading(reading.path) if name in table]
                if rows and rows[0] >= 0:
                    found[entry_id] = Match(rows[0], entry.line, reading)
                    del open_entries[entry_id]
                    break
                if rows:
                    ambiguous.add(entry_id)
    return found, ambiguous


def _why_nothing_matches(manifest: Manifest, part: str, file: ListFile, reasons: set[str]) -> str:
    first_line = file.entries[0]
    if reasons == {_WITHOUT_LABEL}:
        return f"List {file.name}: of all its lines the video {_WITHOUT_LABEL}. Name {part} videos that lie in a class folder."
    if reason := _other_part(part, first_line.subset)[1]:
        return f"List {file.name}: none of its lines is for {part} videos. Line {first_line.line}: {reason}."
    return (
        f"List {file.name}: none of its {plural(len(file.entries), 'line')} names a video of {manifest.root}. First line: {first_line.text[:120]!r}; "
        f"the data set holds videos such as {next(iter(manifest.videos.column('key')), '')!r}.{' ' * bool(file.hint)}{file.hint}"
    )


def _other_part(part: str, word: str) -> tuple[str, str]:
    """If a line is not for a part by its own word for the subset: its part ("" for none) and the reason; else "", ""."""
    if not word:
        return "", ""
    kept = re.fullmatch(r"(un)?label+ed", word.strip().lower())
    subset = "train" if kept else subset_of_word(word)
    held_out = part in ("validation", "test")
    if (subset in ("val", "test") if held_out else subset == "train") and not (part == "labelled" and kept and kept[1]):
        return "", ""
    other = {"val": "validation", "test": "test", "train": "train"}.get(subset, "")
    return other, f"its subset is {shown(word)}, not {'val or test' if held_out else 'train'}"


_Way = tuple[Callable[[], Iterator[tuple[int, str]]], Callable[[str], Iterator[str]]]


def _ways(manifest: Manifest) -> Iterator[_Way]:
    columns = manifest.videos.arrow.select(["key", "path", "class_name"]).to_pydict()
    keys, paths, classes = columns["key"], columns["path"], columns["class_name"]
    file_names = [path.rpartition("/")[2] for path in paths]
    stems = [name.rpartition(".")[0] or name for name in file_names]

    def parts(path: str) -> tuple[str, list[str]]:
        """Folder name and the file names to try: as written, and without a video extension."""
        folder, _, name = path.replace("\\", "/").rstrip("/").rpartition("/")
        head, dot, suffix = name.rpartition(".")
        return folder.rpartition("/")[2], [head, name] if dot and suffix.lower() in VIDEO_EXTENSIONS else [name]

    def by_class(path: str) -> Iterator[str]:
        folder, names = parts(path)
        return (_folded(f"{clean_class(folder)}/{name}") for name in names)

    # The key, the class and file name, the path, for Kinetics the id, and last the file name alone.
    yield lambda: ((row, _folded(key)) for row, key in enumerate(keys) if key), lambda path: iter([_folded(path)])
    pairs = list(zip(classes, stems, strict=True))
    yield lambda: ((row, _folded(f"{clean_class(c)}/{stem}")) for row, (c, stem) in enumerate(pairs) if c), by_class
    yield lambda: ((row, _folded(path)) for row, path in enumerate(paths)), lambda path: iter([_folded(path)])
    if manifest.header.dataset in KINETICS:
        yield (
            lambda: ((row, match["id"]) for row, stem in enumerate(stems) if (match := KINETICS_NAME.match(stem))),
            lambda path: (match["id"] for name in parts(path)[1] if (match := KINETICS_NAME.match(name))),
        )
    yield (
        lambda: ((row, _folded(stem)) for row, stem in enumerate(stems)),
        lambda path: (_folded(name) for name in parts(path)[1]),
    )


def _folded(name: str) -> str:
    """A name for comparison: in composed Unicode and lower case."""
    return nfc(name).lower()
