"""Read the official csv files of the Kinetics: one row a clip of a YouTube video."""

from __future__ import annotations

import functools
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from manifests.console import plural
from manifests.datasets import KINETICS_NAME, class_list, clean_class, folded_class, nfc
from manifests.lists.labels import UNUSED, is_missing, number_of, subset_in_name, subset_of_word
from manifests.lists.listed import ListedVideo, OfficialLists, SubsetsOfVideos, Tally
from manifests.lists.table import (
    KINETICS_COLUMNS,
    Row,
    Table,
    header_of,
    read_table,
    refuse_unread_subsets,
    subset_word,
)
from manifests.lists.text import read_text, shown
from manifests.records import InputError

FORM = "csv files with the columns label,youtube_id,time_start,time_end,split"
_Name = tuple[str, str]  # YouTube id and span
_SPAN = re.compile("[0-9]{6}_[0-9]{6}")


class OtherKineticsError(InputError):
    """The lists are of another Kinetics than the requested one: it has `num_classes` classes."""

    def __init__(self, message: str, num_classes: int) -> None:
        super().__init__(message)
        self.num_classes = num_classes


def is_kinetics_csv(file: Path) -> bool:
    """Whether a file is a Kinetics annotation csv: its header names `youtube_id`."""
    if file.suffix.lower() not in (".csv", ".tsv") or not file.is_file():
        return False
    with file.open("rb") as opened:
        start = opened.read(4096)
    # A file that is no text is refused where it is read.
    text = start.decode("utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", errors="replace")
    return "youtube_id" in header_of(text)[1]


def read_kinetics(dataset: str, files: list[Path]) -> OfficialLists:
    """Read Kinetics csv files: label (absent if withheld), youtube_id, time_start, time_end, split.

    Kinetics-400 has its fixed class list; the others take theirs from the csv (sorted cleaned labels).
    """
    tally = Tally()
    subsets = SubsetsOfVideos(1, tally)
    labels: dict[_Name, str] = {}
    two_labels: set[_Name] = set()
    spellings: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for file in files:
        file_name = file.name
        table = read_table(read_text(file), file)
        if absent := sorted(set(KINETICS_COLUMNS) - set(table.columns)):
            raise InputError(
                f"{file}: no column {', '.join(absent)}; expected {FORM}. It has {', '.join(table.columns)[:200]}."
            )
        for row, name, subset in _rows(file, table, tally):
            where = f"{file_name} line {row.line}"
            subsets.add(name, 0, subset, where)
            label = _label(row, file)
            if label:
                spellings[folded_class(label)][label] += 1
            # Lists may come twice, once without labels.
            if label and folded_class(labels.setdefault(name, label) or label) != folded_class(label):
                two_labels.add(name)
                tally.add(
                    "{video with two classes is|videos with two classes are} in no part",
                    f"{where} ({labels[name]} and {label})",
                )
            labels[name] = labels.get(name) or label
    classes, spelling = _classes(dataset, spellings, files, tally)
    videos = tuple(
        ListedVideo(
            spelling.get(folded_class(labels[name]), ""),
            "_".join(name),
            (UNUSED,) if name in two_labels else subsets.of(name),
        )
        for name in labels
    )
    index = {video.stem: place for place, video in enumerate(videos)}
    # Of a YouTube video that was cut twice, only a name with times says which clip it is, or its class if that has one of them.
    num_clips = Counter(youtube_id for youtube_id, _ in labels)
    index |= {youtube_id: place for place, (youtube_id, _) in enumerate(labels) if num_clips[youtube_id] == 1}
    of_class = [f"{video.class_name}/{youtube_id}" for video, (youtube_id, _) in zip(videos, labels, strict=True)]
    num_in_class = Counter(of_class)
    index |= {nfc(name): place for place, name in enumerate(of_class) if num_in_class[name] == 1}
    source = ", ".join(file.name for file in files)
    return OfficialLists(source, classes, videos, index, 1, tuple(files), tally.notes())


def _rows(file: Path, table: Table, tally: Tally) -> Iterator[tuple[Row, _Name, str]]:
    """Each row, the name of its clip, and its subset: the column `split` counts before the name of the file."""
    columns = table.named("subset")
    name, of_file = file.name, subset_in_name(file.stem)
    with_words = any(row.get(column) for column in columns for row in table.rows)
    if not with_words:
        unread = [column for column in table.columns if column not in (*KINETICS_COLUMNS, "label")]
        refuse_unread_subsets(((column, [row.get(column) for row in table.rows]) for column in unread), file)
    for row in table.rows:
        where = f"{name} line {row.line}"
        youtube_id, start, end = row.get("youtube_id"), row.get("time_start"), row.get("time_end")
        span = f"{whole_seconds(start)}_{whole_seconds(end)}"
        if not _SPAN.fullmatch(span):
            raise InputError(
                f"{file}, line {row.line}: time_start {shown(start)}, time_end {shown(end)}; expected seconds from 0."
            )
        if not KINETICS_NAME.match(youtube_id):
            message = "{id is no YouTube id|ids are no YouTube ids} (11 letters, digits, - and _; Excel changes those that begin with -)"
            tally.add(message, f"{where}: {shown(youtube_id)}")
        word, other = subset_word(map(row.get, columns))
        if other:
            tally.add(
                "{row with two words for the split is|rows with two words for the split are} in no part",
                f"{where}: {word} and {other}",
            )
        subset = UNUSED if other else _subset(word, of_file, with_words, where, tally)
        yield row, (youtube_id, span), subset


@functools.lru_cache(maxsize=65536)
def whole_seconds(text: str) -> str:
    """Whole seconds in six digits; "" if the text is no such number."""
    number = number_of(text)
    return f"{round(number):06d}" if number is not None and 0 <= number < 1e6 else ""


def _subset(word: str, of_file: str, with_words: bool, where: str, tally: Tally) -> str:
    """The subset of a row. Train is never a guess: rows with unknown words are in no part."""
    if not word and not with_words:
        if not of_file:
            message = "{row of the lists is|rows of the lists are} in no subset: neither a column `split` nor the name of the file says one, and only a folder train/, val/ or test/ may"
            tally.add(message, where)
        return of_file
    subset = subset_of_word(word)
    if not subset and not word and of_file != "train":
        subset = of_file
    if not subset:
        message = "{row is|rows are} in no part: the word for the split is not train, val or test"
        tally.add(message, f"{where}: {shown(word)}")
        return UNUSED
    if subset == "train" and of_file in ("val", "test", UNUSED):
        message = "{row is|rows are} train by the column and held out by the name of the file, which counts"
        tally.add(message, where)
        return of_file
    return subset


def _label(row: Row, file: Path) -> str:
    text = row.get("label")
    if is_missing(text):
        return ""
    if number_of(text) is not None:
        raise InputError(f"{file}, line {row.line}: label {shown(text)}; expected the name of a class.")
    return clean_class(text)


def _classes(
    dataset: str, spellings: dict[str, Counter[str]], files: list[Path], tally: Tally
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The class list, and the spelling in it of every folded label."""
    official = {folded_class(name): name for name in class_list(dataset)}
    # The most frequent spelling is the name of the class; of equals the first.
    chosen = {folded: min(found, key=lambda name: (-found[name], name)) for folded, found in spellings.items()}
    chosen |= {folded: official[folded] for folded in chosen if folded in official}
    for folded, found in spellings.items():
        for other in sorted(found.keys() - {chosen[folded]}):
            if not official or folded in official:
                tally.add(
                    "{label differs from a class in case alone, and is|labels differ from a class in case alone, and are} taken for it",
                    other,
                )
    classes = class_list(dataset) or tuple(sorted(chosen.values()))
    if strange := sorted(set(chosen.values()) - set(classes)):
        raise OtherKineticsError(
            f"{files[0].parent}: {plural(len(strange), 'label is', 'labels are')} not among the {len(classes)} classes of {dataset}: {', '.join(strange[:5])[:200]}. "
            f"For another Kinetics use --dataset kinetics600 or kinetics700.",
            len(chosen),
        )
    if not classes:
        raise InputError(f"{', '.join(map(str, files))}: no labels. {dataset} takes its class list from the train csv.")
    return classes, chosen
