"""Match lines of a list to videos of the data set, regardless of case, extension and parent folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from manifests.datasets import KINETICS, KINETICS_NAME, clean_class
from manifests.records import WRITTEN, InputError
from manifests.splits.lists import ListFile, Reading
from manifests.table import Manifest

_VIDEO_SUFFIXES = frozenset(
    ".avi .mp4 .mkv .webm .mov .mpg .mpeg .mpe .m4v .wmv .flv .ts .m2ts .mts .3gp .ogv .gif .y4m .mxf .asf .vob .rm .divx".split()  # noqa: SIM905
)


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
    reading: Reading  # how the line was understood


def match_lists(manifest: Manifest, read: dict[str, ListFile]) -> tuple[dict[str, list[Match]], tuple[Unmatched, ...]]:
    """Find the video of every line, per part, and list the lines without one.

    Ways of naming a video are tried in turn for the lines that are not matched yet. InputError if a list matches nothing.
    """
    status, errors = manifest.videos.column("status"), manifest.videos.arrow.column("error")
    open_entries = {(part, line): entry for part, file in read.items() for line, entry in enumerate(file.entries)}
    found: dict[tuple[str, int], Match] = {}
    ambiguous: set[tuple[str, int]] = set()
    for names_of_videos, names_of_reading in _ways(manifest):
        if not open_entries:
            break
        # A name that several videos share maps to -1.
        table: dict[str, int] = {}
        for row, name in names_of_videos():
            table[name] = row if table.setdefault(name, row) == row else -1
        for entry_id, entry in list(open_entries.items()):
            for reading in entry.readings:
                rows = [table[name] for name in names_of_reading(reading.path) if name in table]
                if rows and rows[0] >= 0:
                    found[entry_id] = Match(rows[0], reading)
                    del open_entries[entry_id]
                    break
                if rows:
                    ambiguous.add(entry_id)
    # A match counts if the video was written and no earlier line of the list has it.
    matches: dict[str, list[Match]] = {part: [] for part in read}
    unmatched = []
    for part, file in read.items():
        taken: set[int] = set()
        for place, entry in enumerate(file.entries):
            match = found.get((part, place))
            if match is None:
                reason = "several videos fit" if (part, place) in ambiguous else "no such video in the data set"
            elif status[match.row] != WRITTEN:
                reason = f"{status[match.row]}: {errors[match.row].as_py() or 'no reason given'}"
            elif match.row in taken:
                reason = "listed before"
            else:
                taken.add(match.row)
                matches[part].append(match)
                continue
            unmatched.append(Unmatched(file.name, entry.line, entry.text, reason))
        # A list without a single match is of another data set: stop, rather than report every line.
        if not matches[part]:
            raise InputError(
                f"List {file.name}: none of its {len(file.entries)} lines names a video of {manifest.root}. First line: {file.entries[0].text[:120]!r}; "
                f"the data set holds videos such as {next(iter(manifest.videos.column('key')), '')!r}."
            )
    return matches, tuple(unmatched)


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
        return folder.rpartition("/")[2], [head, name] if dot and f".{suffix.lower()}" in _VIDEO_SUFFIXES else [name]

    def by_class(path: str) -> Iterator[str]:
        folder, names = parts(path)
        return (f"{clean_class(folder)}/{name}".lower() for name in names)

    # The key, the class and file name, the path, for Kinetics the id, and last the file name alone.
    yield lambda: ((row, key.lower()) for row, key in enumerate(keys) if key), lambda path: iter([path.lower()])
    pairs = list(zip(classes, stems, strict=True))
    yield lambda: ((row, f"{clean_class(c)}/{stem}".lower()) for row, (c, stem) in enumerate(pairs) if c), by_class
    yield lambda: ((row, path.lower()) for row, path in enumerate(paths)), lambda path: iter([path.lower()])
    if manifest.header.dataset in KINETICS:
        yield (
            lambda: ((row, match["id"]) for row, stem in enumerate(stems) if (match := KINETICS_NAME.match(stem))),
            lambda path: (match["id"] for name in parts(path)[1] if (match := KINETICS_NAME.match(name))),
        )
    yield (
        lambda: ((row, stem.lower()) for row, stem in enumerate(stems)),
        lambda path: (name.lower() for name in parts(path)[1]),
    )
