"""The list files of an exported rawframes tree, under the names that the reference code reads."""

from __future__ import annotations

import re
from fractions import Fraction

import numpy as np

from manifests.datasets import OFFICIAL
from manifests.records import WRITTEN
from manifests.splits.label_split import LabelSplit, list_splits, read_split
from manifests.splits.lists import export_list
from manifests.splits.settings import KINETICS_PER_PERCENT, PARTS
from manifests.table import Manifest

SEMI_FOLDER = "videossl_splits"
_PUBLISHED = re.compile(r"\((?:videossl|ltg)-[a-z0-9]+-(\d+)\)$")


def list_texts(manifest: Manifest) -> dict[str, str]:
    """File name below the tree -> content: classInd.txt, the lists of the official folds, those of every split and part
    (`Class/video num_frames label`), and the labelled ones again as the reference names them.
    """
    header = manifest.header
    texts = {"classInd.txt": "".join(f"{number} {name}\n" for number, name in enumerate(header.classes, 1))}
    texts |= _official(manifest)
    for name in list_splits(manifest.root):  # the newest first: of several splits, it gets the reference's name
        split = read_split(manifest.root, name)
        for part in PARTS:
            if split.part(part).any():
                texts[f"{name}_{part}_rawframes.txt"] = export_list(split, manifest, "mmaction-rawframes", part)
        for reference, text in _semi_supervised(split, manifest).items():
            texts.setdefault(reference, text)
    return texts


def _official(manifest: Manifest) -> dict[str, str]:
    dataset = manifest.header.dataset
    table = manifest.videos.arrow.select(["key", "num_frames", "label", "subsets", "status"]).to_pydict()
    rows = [row for row in zip(*table.values(), strict=True) if row[4] == WRITTEN]
    # The reference calls the test lists of UCF101 and HMDB51 `val`; Kinetics has one fold, and `list` in place of its number.
    reference_name = {"test": "val"} if dataset in ("ucf101", "hmdb51") else {}
    texts = {}
    for fold in range(manifest.header.num_folds):
        which = "list" if dataset.startswith("kinetics") else f"split_{fold + 1}"
        for subset in ("train", "val", "test"):
            lines = [f"{key} {frames} {label}\n" for key, frames, label, subsets, _ in rows if subsets[fold] == subset]
            if lines:
                texts[f"{dataset}_{reference_name.get(subset, subset)}_{which}_rawframes.txt"] = "".join(lines)
    return texts


def _semi_supervised(split: LabelSplit, manifest: Manifest) -> dict[str, str]:
    """The labelled list and the rest of train as the reference names them, if the split has a percentage."""
    dataset, percent = manifest.header.dataset, percent_of(split)
    if not percent or dataset not in OFFICIAL:
        return {}
    fold = "" if dataset.startswith("kinetics") else f"_split_{split.provenance.get('fold', '1')}"
    parts = {
        f"{percent}_percent_labeled": split.labelled,
        f"{percent}_percent_unlabeled": split.train & ~split.labelled,
    }
    if dataset == "hmdb51" and split.provenance.get("pool") == "non-test":
        parts["100_percent_labeled"] = split.train  # what the reference takes as unlabelled
    frames = dict(zip(manifest.videos.column("key"), manifest.videos.column("num_frames"), strict=True))
    texts = {}
    for part, flags in parts.items():
        if flags.any():
            lines = (f"{split.key[k]} {frames[split.key[k]]} {split.label[k]}\n" for k in np.flatnonzero(flags))
            texts[f"{SEMI_FOLDER}/{dataset}_train_{part}{fold}_rawframes.txt"] = "".join(lines)
    return texts


def percent_of(split: LabelSplit) -> str:
    """The percentage of a split, drawn or imported from a published list, if it is an integer; else ""."""
    provenance = split.provenance
    percent, per_class = provenance.get("percent"), provenance.get("per_class", "")
    if provenance.get("made") == "imported":
        match = _PUBLISHED.search(provenance.get("list_labelled", ""))
        return match[1] if match else ""
    # Published splits of Kinetics count videos per class instead.
    if percent is None and provenance.get("dataset", "").startswith("kinetics") and per_class.isdigit():
        percent = str(Fraction(int(per_class), KINETICS_PER_PERCENT))
    return percent if percent is not None and percent.isdigit() else ""
