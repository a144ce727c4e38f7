"""Add labels to a split: a new split whose validation and test parts are those of the old one, with its history."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from manifests.console import plural
from manifests.datasets import folded_class
from manifests.lists.labels import whole_number
from manifests.lists.text import shown
from manifests.records import InputError
from manifests.splits.label_split import LabelSplit, split_digest
from manifests.splits.list_import import Difference
from manifests.splits.list_match import Match, match_lists
from manifests.splits.lists import NO_LABEL, ListFile, read_list
from manifests.table import Manifest


@dataclass(frozen=True, slots=True)
class Growth:
    """What was added to a split."""

    parent: str
    list_name: str
    sha256: str  # of the list
    num_lines: int
    num_added: int
    num_labelled_before: int  # lines whose video had this label before
    relabelled: tuple[Difference, ...]  # added videos whose label is the list's, and not the class folder's


def grow_split(
    manifest: Manifest, parent: LabelSplit, file: Path, labels: str = "ours", name: str = ""
) -> tuple[LabelSplit, Growth]:
    """Label the videos of a list in addition to those of `parent`.

    file: keys, or a list with labels, in any form that an import takes. A label in the list must be the one of the class folder,
    unless `labels` is `theirs` or the folder gives none. InputError, which names file and line, for a line without a video, a video
    that is not in the train part of the parent, another label, or no label at all. Nothing but labels is added: the parts for
    validation and test, and the train videos, stay those of the parent.
    """
    if parent.provenance.get("dataset_digest") != manifest.digest:
        raise InputError(
            f"Split {parent.name} was made for another state of the data set. Make it again with `tgprep split`, then grow it."
        )
    listed = read_list(file)
    place_of = {key: place for place, key in enumerate(parent.key)}
    label, labelled = parent.label.copy(), parent.labelled.copy()
    relabelled = []
    for match in _matches(manifest, listed, file):
        key = manifest.videos.arrow["key"][match.row].as_py()
        place, where = place_of.get(key, -1), f"{file}:{match.line}: {key}"
        theirs = _class_of(match.reading.label, manifest, where)
        _require_addable(parent, place, theirs, where)
        if parent.labelled[place]:
            continue
        ours = int(manifest.videos.arrow["label"][match.row].as_py())
        label[place], labelled[place] = _chosen(ours, theirs, labels, where), True
        if ours not in (-1, label[place]):
            relabelled.append(Difference(key, "label", ours, theirs))
    num_added = int(labelled.sum() - parent.labelled.sum())
    num_lines = len(listed.entries)
    if not num_added:
        raise InputError(
            f"{file}: all {plural(num_lines, 'line')} name videos that split {parent.name} labels: nothing to add."
        )
    keeps_labelled = parent.provenance.get("unlabelled", "") != "rest" and bool(
        (parent.labelled & parent.unlabelled).any()
    )
    grown = replace(
        parent,
        name=name or _name(parent.name, int(labelled.sum())),
        label=label,
        labelled=labelled,
        unlabelled=parent.unlabelled if keeps_labelled else parent.unlabelled & ~labelled,
        provenance=_history(parent, listed, num_added, len(relabelled)),
    )
    num_before = num_lines - num_added
    return grown, Growth(parent.name, listed.name, listed.sha256, num_lines, num_added, num_before, tuple(relabelled))


def _matches(manifest: Manifest, listed: ListFile, file: Path) -> list[Match]:
    """The video of every line. InputError if a line has none, or is for another part by its own word."""
    matched = match_lists(manifest, {"labelled": listed}, gives_labels=True)
    lost = [(entry.line, f"{shown(entry.text)}: {entry.reason}") for entry in matched.unmatched]
    for part, found in matched.held_out.items():
        words = f"it is {f'for {part}' if part else 'in no part'} by its own word for the subset"
        lost += [(match.line, words) for match in found]
    if lost:
        line, reason = min(lost)
        raise InputError(
            f"{file}:{line}: {reason}. {len(lost)} of {plural(len(listed.entries), 'line')} cannot be used: take them out."
        )
    return matched.of_part["labelled"]


def _require_addable(parent: LabelSplit, place: int, theirs: int, where: str) -> None:
    """InputError for a video that is not in train, or has another label already. theirs: the class in the list, -1 for none."""
    held = next((part for part in ("test", "validation") if place >= 0 and parent.part(part)[place]), "")
    if held or place < 0 or not parent.train[place]:
        part = f"the {held}" if held else "no"
        raise InputError(
            f"{where} is in {part} part of split {parent.name}: --grow labels train videos alone. Take the line out."
        )
    if parent.labelled[place] and theirs not in (-1, int(parent.label[place])):
        raise InputError(
            f"{where} is labelled {int(parent.label[place])} in split {parent.name}, {theirs} here. --grow adds labels and changes "
            "none: take the line out."
        )


def _chosen(ours: int, theirs: int, labels: str, where: str) -> int:
    """The label of an added video: the list's if it gives one. ours: that of the class folder; -1 for none, as in `theirs`."""
    if max(ours, theirs) < 0:
        raise InputError(
            f"{where}: no label, neither in the list nor in the data set. Write `key,label` lines below that header."
        )
    if min(ours, theirs) >= 0 and ours != theirs and labels != "theirs":
        raise InputError(
            f"{where} has label {theirs} in the list and {ours} by its class folder. Correct the line, or take the list's labels "
            "with --labels theirs."
        )
    return ours if theirs < 0 else theirs


def _class_of(written: str, manifest: Manifest, where: str) -> int:
    """The class number that a line gives; -1 if it gives none."""
    if written in ("", NO_LABEL):
        return -1
    classes = manifest.header.classes
    try:
        number = whole_number(written)
    except InputError as error:
        raise InputError(f"{where}: {error}.") from None
    if number is None:
        by_name = {folded_class(name): place for place, name in enumerate(classes)}
        number = by_name.get(folded_class(written), -1)
    if not 0 <= number < len(classes):
        raise InputError(f"{where}: {shown(written)} is none of the {len(classes)} classes of the data set.")
    return number


def _name(parent: str, num_labelled: int) -> str:
    """`p10-s0-f1` becomes `p10-s0-f1-n120`; a split that was grown before keeps one such ending."""
    return f"{re.sub(r'-n[0-9]+$', '', parent)[:90]}-n{num_labelled}"


def _history(parent: LabelSplit, listed: ListFile, num_added: int, num_relabelled: int) -> dict[str, str]:
    """The parent's provenance, and one line more on how it grew."""
    step = 1 + sum(name.startswith("grown_") for name in parent.provenance)
    text = f"{num_added} labels added to {parent.name} digest {split_digest(parent)} by {listed.name} sha256 {listed.sha256}"
    text += f", {num_relabelled} of them not those of the class folders" if num_relabelled else ""
    return dict(sorted({**parent.provenance, f"grown_{step}": text}.items()))
