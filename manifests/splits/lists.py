"""Read and write list files (mmaction rawframes and videos lists, keys, CSV, JSON), and recognise the published lists."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from manifests.console import plural
from manifests.lists.kinetics import whole_seconds
from manifests.lists.labels import is_missing, number_of
from manifests.lists.table import (
    COLUMNS,
    column_name,
    expected_columns,
    header_of,
    read_table,
    refuse_unread_subsets,
    subset_word,
)
from manifests.lists.text import decode, lines_of, read_file, shown
from manifests.lists.ucf_hmdb import HMDB_FILE
from manifests.records import InputError
from manifests.splits.label_split import LabelSplit
from manifests.splits.settings import EXPORT_FORMS, PARTS
from manifests.table import Manifest

# Short names of the lists that the paper's recipes use, by the first 16 digits of their sha256: https://github.com/lambert-x/video-semisup, data/**,
# for UCF101 and HMDB51 the VideoSSL lists (Jing et al., WACV 2021) converted by https://github.com/vt-vl-lab/video-data-aug.
PUBLISHED = {
    "4a94bf449120106f": "ucf101-train-f1",
    "03b0a611bb5d1d32": "ucf101-test-f1",
    "3f8223e0e78098cd": "videossl-ucf101-5",
    "c3a65a4a9a9fe76f": "videossl-ucf101-5-unlabelled",
    "9f937369faffa109": "videossl-ucf101-10",
    "fae1be9a9ceadc5b": "videossl-ucf101-10-unlabelled",
    "92a85dad9d9ecfa6": "videossl-ucf101-20",
    "871624d9ce46837b": "videossl-ucf101-20-unlabelled",
    "eb605473db82a76d": "videossl-ucf101-50",
    "a66677be14d07685": "videossl-ucf101-50-unlabelled",
    "34af6054810b925b": "hmdb51-test-f1",
    "b872f39240a24d6a": "videossl-hmdb51-100",
    "4824314f097165c1": "videossl-hmdb51-40",
    "016027f6dc4605b0": "videossl-hmdb51-50",
    "cc91278ffdeebd7e": "videossl-hmdb51-60",
    "ad6147123f89fc59": "ltg-kinetics400-1",
    "002e1055585f3c51": "ltg-kinetics400-1",
    "8981339a122b21b5": "ltg-kinetics400-10",
    "389283c900548251": "ltg-kinetics400-10",
}
NO_LABEL = "nan"


@dataclass(frozen=True, slots=True)
class Reading:
    """One way to read a line."""

    path: str
    label: str = ""  # as written; "" if the list has none, NO_LABEL if only this line has none
    num_frames: int = -1  # -1 if the line has none


@dataclass(frozen=True, slots=True)
class ListEntry:
    """A line of a list (counted from 1) and the ways to read it, likeliest first."""

    line: int
    text: str
    readings: tuple[Reading, ...]
    subset: str = ""  # the list's own word for it, "" if it has none


@dataclass(frozen=True, slots=True)
class ListFile:
    """The content of a list file."""

    name: str
    sha256: str  # of the file's bytes
    published: str  # short name of the published list with these bytes, or ""
    entries: tuple[ListEntry, ...]
    hint: str = ""  # what may be wrong with its form if no line matches


_NUMBER = r"[+-]?\d{1,18}(?:\.0{0,18})?"  # pandas writes 2 as 2.0
_NUMBERS_AT_END = re.compile(rf"^(?P<path>.*?\S)(?P<numbers>(?:[ \t]+{_NUMBER}){{1,3}})$")
_SEPARATED = re.compile(r'^"?(?P<path>.*[^,;\s"])"?\s*[,;\t]\s*"?(?P<label>[^,;\t"]+)"?$')


def read_list(file: Path) -> ListFile:
    """Read a list; its form is detected from its content, and blank lines are skipped.

    Forms: `Class/video num_frames label`, `Class/file.ext label` (a space or comma between), `path offset num_frames label`,
    one path or key per line, a table with a header that names the path (also Kinetics' `label,youtube_id,time_start,time_end`),
    a JSON list of objects with `frame_dir` or `filename`, `total_frames`, `label`.
    """
    # Its lines look like `path label`, and would be read as labels.
    if HMDB_FILE.match(file.name):
        raise InputError(
            f"List {file}: an official HMDB51 list, whose numbers are flags (1 train, 2 test). These are read when the data set is made: "
            "`tgprep extract --annotations FOLDER`; then `tgprep split --percent P --fold N`."
        )
    content = read_file(file)
    text = decode(content, file)
    columns = header_of(text)[1]
    entries = tuple(_entries(text, columns, file))
    if not entries:
        raise InputError(f"List {file} is empty: expected one video per line, such as `Class/video 120 5`.")
    hint = ""
    if len(columns) > 1 and not _is_table(columns):
        hint = f"If it is a table: {', '.join(columns)[:200]} are no columns with a known name; known are {expected_columns('path')}."
    digest = hashlib.sha256(content).hexdigest()
    return ListFile(file.name, digest, PUBLISHED.get(digest[:16], ""), entries, hint)


def _is_table(columns: tuple[str, ...]) -> bool:
    """Whether these are the columns of a table: one names the videos. A line with a comma alone may be `path,label`."""
    if len(columns) < 2 or any(number_of(name) is not None for name in columns):
        return False
    return not {*COLUMNS["path"], "youtube_id"}.isdisjoint(columns)


def _entries(text: str, columns: tuple[str, ...], file: Path) -> Iterator[ListEntry]:
    records = _json_records(text, file)
    if records is None and _is_table(columns):
        records = (
            (row.line, dict(zip(row.places, map(row.get, row.places), strict=True)))
            for row in read_table(text, file).rows
        )
    if records is None:
        for number, line in lines_of(text, file):
            yield ListEntry(number, line, tuple(_readings(line)))
        return
    known = {name for names in COLUMNS.values() for name in names}
    rows = list(records)
    if not any(_subset(record, "") for _, record in rows):
        names = dict.fromkeys(name for _, record in rows for name in record if name not in known)
        refuse_unread_subsets(((name, [str(r.get(name) or "") for _, r in rows]) for name in names), file)
    for number, record in rows:
        shown = json.dumps(record) if text.lstrip().startswith("[") else ",".join(record.values())
        where = f"{file}, line {number}"
        yield ListEntry(number, shown[:200], tuple(_from_columns(record, where)), _subset(record, where))


def _json_records(text: str, file: Path) -> Iterator[tuple[int, dict[str, Any]]] | None:
    """The objects of a JSON list, counted from 1; None if the text is no JSON (a video's name may begin with a bracket)."""
    if text.lstrip()[:1] not in ("[", "{"):
        return None
    try:
        records = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise InputError(
            f"List {file}: JSON, but not a list of objects such as {{'filename': 'Class/video.mp4', 'label': 5}}."
        )
    return enumerate(({column_name(name): value for name, value in record.items()} for record in records), 1)


def _values(record: Mapping[str, Any], kind: str) -> list[str]:
    """What the columns of one kind hold, likeliest first; of a list its first element."""
    given = (record.get(name) for name in COLUMNS[kind])
    firsts = (value[0] if isinstance(value, list) and value else value for value in given)
    return [str(value).strip() for value in firsts if value not in (None, "")]


def _subset(record: Mapping[str, Any], where: str) -> str:
    """The word for the subset of a row; numbers of folds are none. InputError if two columns contradict each other, if `where` is given."""
    words = _values(record, "subset")
    word, other = subset_word(word for word in words if number_of(word) is None or "fold" not in record)
    if other and where:
        raise InputError(f"{where}: {shown(word)} and {shown(other)} for the subset. Correct or remove one.")
    return word


def _from_columns(record: Mapping[str, Any], where: str) -> Iterator[Reading]:
    label = next(iter(_values(record, "label")), "")
    if is_missing(label) and not record.keys().isdisjoint(COLUMNS["label"]):
        label = NO_LABEL
    frames = number_of(next(iter(_values(record, "num_frames")), ""))
    num_frames = int(frames) if frames is not None and 0 <= frames < 2**31 else -1
    if record.get("youtube_id"):
        stem, times = str(record["youtube_id"]).strip(), [record.get("time_start"), record.get("time_end")]
        if not {None, ""}.intersection(times):
            seconds = [whole_seconds(str(time)) for time in times]
            if not all(seconds):
                raise InputError(
                    f"{where}: time_start {shown(str(times[0]))}, time_end {shown(str(times[1]))}; expected seconds from 0."
                )
            stem = "_".join([stem, *seconds])
        yield Reading(f"{label}/{stem}", label, num_frames)
    for path in _values(record, "path"):
        yield Reading(path, label, num_frames)


def _readings(line: str) -> Iterator[Reading]:
    separated = _SEPARATED.match(line)
    if separated and re.fullmatch(_NUMBER, separated["label"].strip()):
        line, separated = f"{separated['path']} {separated['label'].strip()}", None
    match = _NUMBERS_AT_END.match(line)
    numbers = match["numbers"].split() if match else []
    # A path may end in numbers: each reading takes one number fewer for its own, and keeps the path's spaces.
    if len(numbers) >= 2:
        yield Reading(re.sub(rf"(?<=\S)(\s+{_NUMBER}){{2}}$", "", line), numbers[-1], int(float(numbers[-2])))
    if numbers:
        yield Reading(re.sub(rf"(?<=\S)\s+{_NUMBER}$", "", line), numbers[-1])
    yield Reading(line)
    if match and len(numbers) >= 3:
        yield Reading(match["path"], numbers[-1], int(float(numbers[-2])))
    if separated:
        yield Reading(separated["path"], separated["label"].strip())


def export_list(split: LabelSplit, manifest: Manifest, form: str, part: str = "labelled") -> str:
    """Format one part of a split as a list file, sorted by key. Reading it back gives the same part.

    mmaction-rawframes: `key num_frames label`. mmaction-videos: `path label`, path relative to VIDEOS.
    csv: key,path,label,class_name,num_frames. keys: one key per line.
    InputError if a path contains a space and the form does not allow it.
    """
    if form not in EXPORT_FORMS:
        raise InputError(f"--export {form}: expected one of {', '.join(EXPORT_FORMS)}.")
    if part not in PARTS:
        raise InputError(f"--part {part}: expected one of {', '.join(PARTS)}.")
    keys = split.keys_of(part)
    if not keys:
        raise InputError(f"Split {split.name} has no {part} videos: nothing to export.")
    # Labels are those of the split (an import may keep the list's), all else is in the manifest.
    labels = dict(zip(split.key, split.label.tolist(), strict=True))
    table = manifest.videos.arrow.select(["key", "path", "class_name", "num_frames"])
    row_of = {key: row for row, key in enumerate(table.column("key").to_pylist())}
    if strange := [key for key in keys if key not in row_of]:
        raise InputError(
            f"Split {split.name} names {plural(len(strange), 'video')} that {manifest.root} does not hold, such as {strange[0]}."
        )
    taken = table.take(pa.array([row_of[key] for key in keys])).to_pydict()
    if form == "mmaction-videos" and (spaced := [path for path in taken["path"] if re.search(r"\s", path)]):
        raise InputError(
            f"--export mmaction-videos: {len(spaced)} paths contain spaces, which this form does not allow, such as {spaced[0]!r}. Use --export csv."
        )
    rows = list(zip(keys, taken["path"], taken["class_name"], taken["num_frames"], strict=True))
    if form == "csv":
        buffer = io.StringIO(newline="")
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(["key", "path", "label", "class_name", "num_frames"])
        writer.writerows((key, path, labels[key], name, frames) for key, path, name, frames in rows)
        return buffer.getvalue()
    line = {"keys": "{0}\n", "mmaction-rawframes": "{0} {2} {3}\n", "mmaction-videos": "{1} {3}\n"}[form]
    return "".join(line.format(key, path, frames, labels[key]) for key, path, _, frames in rows)
