"""A split that grows: labels are added, nothing else changes, and its history says how."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from manifests.manifest_io import file_sha256
from manifests.records import InputError
from manifests.splits.grow import grow_split
from manifests.splits.label_split import LabelSplit, make_split, read_split, split_digest, write_split
from manifests.splits.settings import SplitSettings
from manifests.table import Manifest
from tests.manifests.targets.support import manifest_of


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return manifest_of(tmp_path / "set")


def parent_of(manifest: Manifest, unlabelled: str = "all") -> LabelSplit:
    return make_split(manifest, SplitSettings(per_class=1, strategy="per-class", unlabelled=unlabelled, name="p1"))


def others(manifest: Manifest, parent: LabelSplit, number: int = 2) -> list[str]:
    labels = dict(zip(manifest.videos.column("key"), manifest.videos.column("label"), strict=True))
    asked = set(parent.keys_of("unlabelled")) - set(parent.keys_of("labelled"))
    return sorted(key for key in asked if labels[key] >= 0)[:number]


def listed(tmp_path: Path, *lines: str) -> Path:
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "list.csv"


@pytest.mark.parametrize("unlabelled", ["all", "rest"])
def test_labels_are_added_and_held_out_parts_stay(manifest: Manifest, tmp_path: Path, unlabelled: str) -> None:
    parent = parent_of(manifest, unlabelled)
    added = others(manifest, parent)
    grown, growth = grow_split(manifest, parent, listed(tmp_path, *added))
    assert set(grown.keys_of("labelled")) == {*parent.keys_of("labelled"), *added}
    assert growth.num_added == 2
    assert grown.name == "p1-n5"
    for part in ("validation", "test"):
        assert grown.keys_of(part) == parent.keys_of(part)
    expected = set(parent.keys_of("unlabelled")) - (set(added) if unlabelled == "rest" else set())
    assert set(grown.keys_of("unlabelled")) == expected
    np.testing.assert_array_equal(grown.train, parent.train)
    digest = file_sha256(tmp_path / "list.csv")
    text = f"2 labels added to p1 digest {split_digest(parent)} by list.csv sha256 {digest}"
    assert grown.provenance == {**parent.provenance, "grown_1": text}
    write_split(manifest.root, grown)
    assert read_split(manifest.root, grown.name).provenance == grown.provenance
    more = listed(tmp_path, *others(manifest, grown, 1), *added)
    again, growth = grow_split(manifest, grown, more)
    assert again.name == "p1-n6"
    assert (growth.num_added, growth.num_labelled_before) == (1, 2)
    assert again.provenance["grown_1"] == text
    assert again.provenance["grown_2"].startswith(f"1 labels added to p1-n5 digest {split_digest(grown)} by list.csv")


def test_a_label_of_the_list_must_be_the_folders_unless_asked(manifest: Manifest, tmp_path: Path) -> None:
    parent = parent_of(manifest)
    key = next(key for key in others(manifest, parent, 9) if key.startswith("Cut/"))
    grow_split(manifest, parent, listed(tmp_path, "key,label", f"{key},cut"))
    wrong = listed(tmp_path, "key,label", f"{key},Archery")
    with pytest.raises(InputError, match=rf"list\.csv:2: {key} has label 0 in the list and 2 by its class folder"):
        grow_split(manifest, parent, wrong)
    grown, growth = grow_split(manifest, parent, wrong, labels="theirs", name="named")
    assert grown.name == "named"
    assert grown.label[grown.key.index(key)] == 0
    assert [(found.key, found.ours, found.theirs) for found in growth.relabelled] == [(key, 2, 0)]
    assert "1 of them not those of the class folders" in grown.provenance["grown_1"]


def test_what_cannot_be_added_is_named_by_file_and_line(manifest: Manifest, tmp_path: Path) -> None:
    parent = parent_of(manifest)
    good, labelled, test = others(manifest, parent, 1)[0], parent.keys_of("labelled")[0], parent.keys_of("test")[0]
    held = replace(parent, test=parent.test & False, validation=parent.test)
    for split, lines, message in (
        (parent, [good, test], rf"list\.csv:2: {test} is in the test part"),
        (held, [good, test], rf"list\.csv:2: {test} is in the validation part"),
        (parent, [good, "Cut/v_99"], r"list\.csv:2: 'Cut/v_99': no such video"),
        (parent, [good, good], r"list\.csv:2: .*listed before, in line 1"),
        (parent, ["key,label", f"{good},Dive"], r"list\.csv:2: .*'Dive' is none of the 3 classes"),
        (parent, ["key,label", f"{labelled},{(int(parent.label[parent.key.index(labelled)]) + 1) % 3}"], "is labelled"),
        (parent, [labelled], "nothing to add"),
        (replace(parent, provenance={}), [good], "another state of the data set"),
    ):
        with pytest.raises(InputError, match=message):
            grow_split(manifest, split, listed(tmp_path, *lines))


def test_a_video_without_a_label_gets_one_from_the_list(manifest: Manifest, tmp_path: Path) -> None:
    parent, key = parent_of(manifest), "unlabelled/extra"
    assert key in parent.keys_of("unlabelled")
    with pytest.raises(InputError, match=r"list\.csv:1: unlabelled/extra: no label"):
        grow_split(manifest, parent, listed(tmp_path, key))
    grown, growth = grow_split(manifest, parent, listed(tmp_path, "key,label", f"{key},Cut"))
    assert grown.label[grown.key.index(key)] == 2
    assert not growth.relabelled
