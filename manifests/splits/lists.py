"""Read and write list files (mmaction rawframes and videos lists, keys, CSV, JSON), and recognise the published lists."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

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


@dataclass(frozen=True, slots=True)
class Reading:
    """One way to read a line."""

    path: str
    label: str = ""  # as written; "" if the line has none
    num_frames: int = -1  # -1 if the line has none


@dataclass(frozen=True, slots=True)
class ListEntry:
    """A line of a list (counted from 1) and the ways to read it, likeliest first."""

    line: int
    text: str
    readings: tuple[Reading, ...]


@dataclass(frozen=True, slots=True)
class ListFile:
    """The content of a list file."""

    name: str
    sha256: str  # of the file's bytes
    published: str  # short name of the published list with these bytes, or ""
    entries: tuple[ListEntry, ...]


_PATH_COLUMNS = ("key", "path", "video_path", "video", "filename", "file", "frame_dir", "name")
_LABEL_COLUMNS = ("label", "class_name", "class", "category")
_FRAMES_COLUMNS = ("num_frames", "total_frames", "frames")
_NUMBERS_AT_END = re.compile(r"^(?P<path>.*?\S)(?P<numbers>(?:[ \t]+\d+){1,3})$")


def read_list(file: Path) -> ListFile:
    """Read a list; its form is detected from its content, and blank lines are skipped.

    Forms: `Class/video num_frames label`, `Class/file.ext label` (a space or comma between), `path offset num_frames label`,
    one path or key per line, CSV with a header that names the path (also Kinetics' `label,youtube_id,time_start,time_end`),
    a JSON list of objects with `frame_dir` or `filename`, `total_frames`, `label`.
    """
    try:
        content = file.read_bytes()
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"List {file}: no such file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"List {file} cannot be read as UTF-8 text ({error}).") from None
    # Its lines look like `path label`, and would be read as labels.
    if HMDB_FILE.match(file.name):
        raise InputError(
            f"List {file}: an official HMDB51 list, whose numbers are flags (1 train, 2 test). These are read when the data set is made: "
            "`tgprep extract --annotations FOLDER`; then `tgprep split --percent P --fold N`."
        )
    digest = hashlib.sha256(content).hexdigest()
    try:
        entries = tuple(_entries(text))
    except (ValueError, csv.Error) as error:
        raise InputError(f"List {file}: {error}.") from None
    if not entries:
        raise InputError(f"List {file} is empty: expected one video per line, such as `Class/video 120 5`.")
    return ListFile(file.name, digest, PUBLISHED.get(digest[:16], ""), entries)


def _entries(text: str) -> Iterator[ListEntry]:
    if text.lstrip()[:1] in ("[", "{"):
        try:
            records = json.loads(text)
        except ValueError:
            pass  # no JSON: a video's name may begin with a bracket
        else:
            if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
                raise ValueError("JSON, but not a list of objects")
            for number, record in enumerate(records, 1):
                yield ListEntry(number, json.dumps(record)[:200], tuple(_from_columns(record)))
            return
    lines = text.splitlines()
    header = next((line for line in lines if line.strip()), "")
    columns = [name.strip().lower() for name in header.split(",")]
    # CSV has a header with a column that names the videos; a line with a comma alone may be `path,label`.
    if len(columns) > 1 and not {*_PATH_COLUMNS, "youtube_id"}.isdisjoint(columns):
        rows = csv.DictReader(io.StringIO(text, newline=""))
        rows.fieldnames = [name.strip().lower() for name in rows.fieldnames or ()]
        for row in rows:
            text_of_row = ",".join(str(value) for value in row.values())[:200]
            yield ListEntry(rows.line_num, text_of_row, tuple(_from_columns(row)))
        return
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield ListEntry(number, line.strip(), tuple(_readings(line.strip())))


def _from_columns(row: Mapping[str, Any]) -> Iterator[Reading]:
    def values(names: Iterable[str]) -> list[str]:
        given = (row.get(name) for name in names)
        firsts = (value[0] if isinstance(value, list) and value else value for value in given)
        return [str(value).strip() for value in firsts if value not in (None, "")]

    label, frames = next(iter(values(_LABEL_COLUMNS)), ""), next(iter(values(_FRAMES_COLUMNS)), "")
    if row.get("youtube_id"):
        stem = str(row["youtube_id"]).strip()
        if row.get("time_start") and row.get("time_end"):
            stem += f"_{round(float(row['time_start'])):06d}_{round(float(row['time_end'])):06d}"
        yield Reading(f"{label}/{stem}", label)
    for path in values(_PATH_COLUMNS):
        yield Reading(path, label, int(frames) if frames.isdigit() else -1)


def _readings(line: str) -> Iterator[Reading]:
    if (match := re.search(r"^(.*[^,\s])\s*,\s*(\d+)$", line)) is not None:
        line = f"{match[1]} {match[2]}"
    match = _NUMBERS_AT_END.match(line)
    numbers = match["numbers"].split() if match else []
    # A path may end in numbers: each reading takes one number fewer for its own, and keeps the path's spaces.
    if len(numbers) >= 2:
        yield Reading(re.sub(r"(\s+\d+){2}$", "", line), numbers[-1], int(numbers[-2]))
    if numbers:
        yield Reading(re.sub(r"\s+\d+$", "", line), numbers[-1])
    yield Reading(line)
    if match and len(numbers) >= 3:
        yield Reading(match["path"], numbers[-1], int(numbers[-2]))


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
            f"Split {split.name} names {len(strange)} videos that {manifest.root} does not hold, such as {strange[0]}."
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
