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
    header = manifest.header
    table = manifest.videos.arrow.select(["key", "num_frames", "label", "subsets", "status"]).to_pydict()
    rows = [row for row in zip(*table.values(), strict=True) if row[4] == WRITTEN]
    # The reference calls the test lists of UCF101 and HMDB51 `val`; Kinetics has one fold, and `list` in place of its number.
    reference_name = {"test": "val"} if header.dataset in ("ucf101", "hmdb51") else {}
    texts = {}
    for fold in range(header.num_folds):
        for subset in ("train", "val", "test"):
            lines = [f"{key} {frames} {label}\n" for key, frames, label, subsets, _ in rows if subsets[fold] == subset]
            if lines:
                which = "list" if header.dataset.startswith("kinetics") else f"split_{fold + 1}"
                texts[f"{header.dataset}_{reference_name.get(subset, subset)}_{which}_rawframes.txt"] = "".join(lines)
    return texts


def _semi_supervised(split: LabelSplit, manifest: Manifest) -> dict[str, str]:
    """The labelled list and the rest of train as the reference names them, if the split has a percentage."""
    dataset, percent = manifest.header.dataset, percent_of(split)
    if not percent or dataset not in OFFICIAL:
        return {}
    fold = "" if dataset.startswith("kinetics") else f"_split_{split.provenance.get('fold', '1')}"
    rest = split.train & ~split.labelled
    parts = {(percent, "labeled"): split.labelled, (percent, "unlabeled"): rest}
    if dataset == "hmdb51" and split.provenance.get("pool") == "non-test":
        parts["100", "labeled"] = split.train  # what the reference takes as unlabelled
    labels = dict(zip(split.key, split.label.tolist(), strict=True))
    frames = dict(zip(manifest.videos.column("key"), manifest.videos.column("num_frames"), strict=True))
    texts = {}
    for (share, kind), flags in parts.items():
        keys = [split.key[index] for index in np.flatnonzero(flags)]
        if keys:
            name = f"{SEMI_FOLDER}/{dataset}_train_{share}_percent_{kind}{fold}_rawframes.txt"
            texts[name] = "".join(f"{key} {frames[key]} {labels[key]}\n" for key in keys)
    return texts


def percent_of(split: LabelSplit) -> str:
    """The percentage of a split, drawn or imported from a published list, if it is an integer; else ""."""
    provenance = split.provenance
    if provenance.get("made") == "imported":
        match = _PUBLISHED.search(provenance.get("list_labelled", ""))
        return match[1] if match else ""
    if "percent" in provenance:
        return provenance["percent"] if provenance["percent"].isdigit() else ""
    if provenance.get("dataset", "").startswith("kinetics") and provenance.get("per_class", "").isdigit():
        percent = Fraction(int(provenance["per_class"]), KINETICS_PER_PERCENT)
        return str(percent) if percent.denominator == 1 else ""
    return ""
