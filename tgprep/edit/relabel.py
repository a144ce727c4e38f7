"""Give videos of a data set other classes, or none: the tables and the header change, shards keep their bytes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import pyarrow as pa

from manifests.console import plural
from manifests.datasets import folded_class, groups_span_classes, nfc
from manifests.lists.labels import whole_number
from manifests.records import MAX_NAME_BYTES, NO_LABEL, InputError
from manifests.splits.list_match import match_lists
from manifests.splits.lists import NO_LABEL as NONE_GIVEN
from manifests.splits.lists import read_list
from manifests.table import Manifest, Originals
from tgprep.edit.change import SHOWN, Changed, State, held, with_columns


@dataclass(frozen=True, slots=True)
class Relabelled:
    """What became of a list of labels."""

    changed: Changed
    moves: dict[tuple[str, str], int]  # (class before, class after) -> videos; "": without a label
    new_classes: tuple[str, ...]
    notes: tuple[str, ...]


def relabel(root: str, file: Path, *, dry_run: bool = False) -> Relabelled:
    """Set the classes of the videos that a list names; the list is read as that of `tgprep split --import`.

    Labels are class names or numbers of the present classes. A name that no class has makes a new class behind the others, which keep
    their numbers; an empty label takes the label away. InputError, and nothing changes, if a line names no video, or no label.
    """
    with held(root, dry_run) as state:
        manifest = state.manifest
        wanted = _labels_of_rows(manifest, file)
        classes, label_of = _classes(manifest, wanted, file)
        videos = manifest.videos
        labels, names = videos.column("label"), videos.column("class_name")
        moves: Counter[tuple[str, str]] = Counter()
        rows = []
        for row, (written, _) in wanted.items():
            label = label_of[written]
            name = classes[label] if label != NO_LABEL else ""
            if (label, name) != (labels[row], names[row]):
                moves[names[row], name] += 1
                rows.append(row)
                labels[row], names[row] = label, name
        columns = {"label": pa.array(labels, pa.int32()), "class_name": pa.array(names, pa.string())}
        originals = _with_relabelled(state, rows, names, labels)
        table = with_columns(videos, **columns)
        used = list(classes[len(manifest.header.classes) :])
        changed = state.write("relabel", len(rows), len(wanted) - len(rows), table, originals, classes)
    ordered = dict(sorted(moves.items(), key=lambda move: (-move[1], move[0])))
    return Relabelled(changed, ordered, tuple(used), tuple(_notes(manifest, ordered, used, rows)))


def _labels_of_rows(manifest: Manifest, file: Path) -> dict[int, tuple[str, int]]:
    """Row of each video of the list -> its label as written ("" for none) and the line. InputError if a line has no video or no label."""
    read = read_list(file)
    # A column for the subset is no reason to leave a line out here.
    read = replace(read, entries=tuple(replace(entry, subset="") for entry in read.entries))
    matches = match_lists(manifest, {"labelled": read}, gives_labels=True)
    if matches.unmatched:
        lines = [f"line {entry.line} ({entry.text[:80]!r}): {entry.reason}" for entry in matches.unmatched[:SHOWN]]
        more = ", …" * (len(matches.unmatched) > SHOWN)
        raise InputError(
            f"--from {file}: {len(matches.unmatched)} of {plural(len(read.entries), 'line')} {'names' if len(matches.unmatched) == 1 else 'name'} no video that can be relabelled. Nothing was "
            f"changed. {'; '.join(lines)}{more}."
        )
    wanted = {}
    for match in matches.of_part["labelled"]:
        written = match.reading.label
        if not written:
            raise InputError(
                f"--from {file}, line {match.line}: no label. Expected a video and its class, such as `key,label` with a header line; an "
                "empty cell in the column `label` takes the label away."
            )
        wanted[match.row] = ("" if written == NONE_GIVEN else nfc(written.strip()), match.line)
    return wanted


def _classes(
    manifest: Manifest, wanted: dict[int, tuple[str, int]], file: Path
) -> tuple[tuple[str, ...], dict[str, int]]:
    """All classes, new ones sorted behind those that there are, and the label of every text in the list."""
    known = manifest.header.classes
    exact = {nfc(name): label for label, name in enumerate(known)}
    folded = {folded_class(name): label for label, name in enumerate(known)}
    label_of, new = {"": NO_LABEL}, set()
    for written, line in wanted.values():
        if written in label_of or written in new:
            continue
        label = exact.get(written, folded.get(folded_class(written)))
        if label is None:
            try:
                label = whole_number(written)
            except InputError as error:
                raise InputError(f"--from {file}, line {line}: {error}.") from None
            if label is not None and label >= len(known):
                raise InputError(
                    f"--from {file}, line {line}: label {label}, and {manifest.root} has {len(known)} classes, numbered from 0. Give the name "
                    "of a new class."
                )
        if label is not None:
            label_of[written] = label
        elif len(written.encode()) > MAX_NAME_BYTES or "\0" in written:
            raise InputError(f"--from {file}, line {line}: {written[:60]!r}… cannot be the name of a class.")
        else:
            new.add(written)
    # Two spellings of one new class are one: the first in order.
    classes = list(known)
    for name in sorted(new):
        label = folded.setdefault(folded_class(name), len(classes))
        if label == len(classes):
            classes.append(name)
        label_of[name] = label
    return tuple(classes), label_of


def _with_relabelled(state: State, rows: list[int], names: list[str], labels: list[int]) -> Originals:
    """The originals with the samples of these rows, whose class and label are now `names` and `labels` of their rows."""
    videos, originals = state.manifest.videos, state.originals
    place_of = {sample: place for place, sample in enumerate(originals.videos.samples()) if sample[0]}
    samples = videos.samples()
    then = list(zip(originals.videos.column("class_name"), originals.videos.column("label"), strict=True))
    class_now, fresh, gone = list(originals.class_now), [], []
    for row in rows:
        place = place_of.get(samples[row], -1)
        if place < 0:
            fresh.append(row)
        elif then[place] == (names[row], labels[row]):  # as its shard has it again
            gone.append(place)
        else:
            class_now[place] = names[row]
    kept = np.setdiff1d(np.arange(len(originals)), gone)
    left = Originals(originals.videos.take(kept), originals.dropped[kept], tuple(class_now[place] for place in kept))
    fresh = [row for row in fresh if samples[row][0]]  # a table without shards has no .json members
    new = Originals(videos.take(fresh), np.zeros(len(fresh), bool), tuple(names[row] for row in fresh))
    return Originals.from_arrow(pa.concat_tables([left.to_arrow(), new.to_arrow()]))


def _notes(manifest: Manifest, moves: dict[tuple[str, str], int], new_classes: list[str], rows: list[int]) -> list[str]:
    """What a user may not expect."""
    notes, folded = [], {folded_class(name): name for name in manifest.header.classes}
    for name in new_classes:
        near = get_close_matches(folded_class(name), list(folded), n=1, cutoff=0.75)
        notes.append(f"new class {name}" + (f": is {folded[near[0]]} meant?" if near else ""))
    groups = manifest.videos.column("group")
    moved = any(before and after for before, after in moves)
    if moved and not groups_span_classes(manifest.header.dataset) and any(groups[row] for row in rows):
        notes.append(
            "groups of this data set count within their class: a relabelled video is no longer kept together with the clips of its source "
            "in the old class"
        )
    return notes
