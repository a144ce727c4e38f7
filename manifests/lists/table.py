"""Read lists that are tables with a header (csv, also with tabs or semicolons), and recognise their columns by name."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from manifests.lists.labels import subset_of_word
from manifests.records import InputError

# Names of columns by what they hold, likeliest first; case, spaces and hyphens do not count.
_NAMES = {
    "path": "key path video_path clip_path file_path filepath filepaths full_path rel_path relative_path video_file file_name filename "
    "filenames file files frame_dir video_name clip_name video videos clip name video_id clip_id vid",
    "label": "label class_name class category action tag target labels label_name class_label action_name action_label activity "
    "class_id class_index class_idx label_id category_id action_id",
    "subset": "subset split set partition phase fold",
    "group": "group group_id",
    "times": "start_seconds end_seconds",
    "num_frames": "num_frames total_frames frames n_frames frame_count",
}
COLUMNS = {kind: tuple(names.split()) for kind, names in _NAMES.items()}
KINETICS_COLUMNS = ("youtube_id", "time_start", "time_end")
_KNOWN = {*(name for names in COLUMNS.values() for name in names), *KINETICS_COLUMNS}
_SEPARATORS = ",;\t|"


class Row(NamedTuple):
    """A row of a table that is not blank."""

    line: int  # of the file, from 1
    cells: tuple[str, ...]  # without spaces at their ends
    places: dict[str, int]  # of the columns in `cells`, the same for all rows

    def get(self, column: str) -> str:
        """The cell of a column; "" if there is none."""
        place = self.places.get(column, -1)
        return self.cells[place] if 0 <= place < len(self.cells) else ""


@dataclass(frozen=True, slots=True)
class Table:
    """The content of a table."""

    columns: tuple[str, ...]  # normalised names; columns without a name are left out
    rows: tuple[Row, ...]

    def named(self, kind: str) -> tuple[str, ...]:
        """The columns that hold what `kind` (of COLUMNS) says, likeliest first."""
        return tuple(name for name in COLUMNS[kind] if name in self.columns)


def column_name(text: str) -> str:
    """Normalise the name of a column: `Video Path` and `#video-path` are `video_path`."""
    return re.sub(r"[\s_-]+", "_", text.strip().lstrip("#").strip().lower())


def expected_columns(*kinds: str) -> str:
    """The known names of columns, for messages."""
    return "; ".join(f"{kind.replace('_', ' ')}: {', '.join(COLUMNS[kind])}" for kind in kinds)


def subset_word(cells: Iterable[str]) -> tuple[str, str]:
    """The word for the subset of a row: the first cell of the columns of the subset that is not empty; and a cell that contradicts it, or ""."""
    words = [cell for cell in cells if cell]
    meanings = {subset: word for word in reversed(words) if (subset := subset_of_word(word))}
    word = words[0] if words else ""
    return word, next((other for other in meanings.values() if len(meanings) > 1 and other != word), "")


def refuse_unread_subsets(columns: Iterable[tuple[str, Iterable[str]]], file: Path) -> None:
    """InputError if a column that is not read holds words for subsets alone, val or test among them. columns: names and cells."""
    for name, cells in columns:
        found = set()
        for cell in filter(None, cells):
            if not (subset := subset_of_word(cell)):
                break
            found.add(subset)
        else:
            if found & {"val", "test"}:
                raise InputError(
                    f"{file}: column {name!r} holds {', '.join(sorted(found))}, but no column of that name is read. Call it `subset`, or remove it."
                )


def header_of(text: str) -> tuple[str, tuple[str, ...]]:
    """Detect the separator of a table, and the columns of its header: by the most names that are known."""
    line = next((line for line in text.split("\n") if _names(line)), "")
    headers = [(separator, tuple(map(column_name, _cells(line, separator)))) for separator in _SEPARATORS]
    return max(headers, key=lambda header: (len(_KNOWN.intersection(header[1])), len(header[1])))


def read_table(text: str, file: Path) -> Table:
    """Read a table. InputError for rows that are longer than the header, open quotes, and columns that come twice."""
    separator, header = header_of(text)
    if twice := sorted({name for name in header if name in _KNOWN and header.count(name) > 1}):
        raise InputError(f"{file}: column {twice[0]!r} comes twice in the header. Rename or remove one.")
    rows = tuple(_rows(text, separator, header, file))
    return Table(tuple(name for name in header if name), rows)


def _rows(text: str, separator: str, header: tuple[str, ...], file: Path) -> Iterator[Row]:
    # strict: a quote that is not closed would swallow the lines behind it.
    reader = csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True, strict=True)
    places = {name: place for place, name in enumerate(header) if name}
    is_header, line = True, 0
    try:
        for values in reader:
            first, line = line + 1, reader.line_num
            cells = [value.strip() for value in values]
            if not any(cells) or (is_header and not _names("".join(values))):
                continue
            if is_header:
                is_header = False
                continue
            if any(cells[len(header) :]):
                raise InputError(
                    f"{file}, line {first}: {len(cells)} cells, the header has {len(header)}. "
                    "Put cells with separators into double quotes."
                )
            yield Row(first, tuple(map(sys.intern, cells)), places)  # most cells repeat those of other rows
    except csv.Error as error:
        raise InputError(
            f"{file}, line {line + 1}: is no csv ({error}). Close its quotes, and put cells with quotes into quotes."
        ) from None


def _names(line: str) -> bool:
    """Whether a line may be a header: not blank, and not Excel's `sep=;`."""
    return line.strip(f'{_SEPARATORS}" ') != "" and not re.fullmatch(r"sep=.?", line.strip())


def _cells(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
    except csv.Error:
        return []
