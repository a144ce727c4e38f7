"""Files of targets, what they say of their videos, and whose labels they have seen."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from manifests.records import InputError
from manifests.splits.label_split import LabelSplit, make_split, split_digest, write_split
from manifests.splits.settings import SplitSettings
from manifests.table import Manifest
from manifests.targets.measure import compare, entropies, least_sure, margins, measure_parts
from manifests.targets.origins import leaks
from manifests.targets.target_file import Targets, list_targets, read_targets, targets_digest, write_targets
from tests.manifests.targets.support import CLASSES, manifest_of, random_rows, targets_of


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return manifest_of(tmp_path / "set")


@pytest.fixture
def split(manifest: Manifest) -> LabelSplit:
    made = make_split(manifest, SplitSettings(per_class=1, strategy="per-class", name="one"))
    write_split(manifest.root, made)
    return made


def test_written_targets_are_read_back(manifest: Manifest) -> None:
    targets = targets_of(manifest)
    assert write_targets(manifest.root, targets)
    assert not write_targets(manifest.root, targets)
    found = read_targets(manifest.root, "made", CLASSES)
    assert (found.key, found.classes, found.provenance) == (targets.key, targets.classes, targets.provenance)
    np.testing.assert_array_equal(found.probabilities, targets.probabilities)
    assert targets_digest(found) == targets_digest(replace(targets, name="other", provenance={}))
    other = targets_of(manifest, seed=1)
    assert targets_digest(other) != targets_digest(targets)
    with pytest.raises(InputError, match="holds other targets of that name"):
        write_targets(manifest.root, other)
    assert write_targets(manifest.root, other, overwrite=True)
    assert list_targets(manifest.root) == ("made",)


def test_other_classes_damage_and_absence_are_one_message(manifest: Manifest) -> None:
    write_targets(manifest.root, targets_of(manifest))
    with pytest.raises(InputError, match="for other classes"):
        read_targets(manifest.root, "made", (*CLASSES[:2], "Dive"))
    with pytest.raises(InputError, match="No targets none in .* there are: made"):
        read_targets(manifest.root, "none", CLASSES)
    with pytest.raises(InputError, match="Name of targets '../x'"):
        read_targets(manifest.root, "../x", CLASSES)
    path = Path(manifest.root, "targets", "made.parquet")
    content = bytearray(path.read_bytes())
    for place in (4, len(content) // 2, len(content) - 9):
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="is damaged"):
            read_targets(manifest.root, "made", CLASSES)


@pytest.mark.parametrize("row", [[0.5, 0.6, 0], [1.5, -0.5, 0], [math.nan, 1, 0], [math.inf, 0, 0]])
def test_rows_that_are_no_probabilities_make_no_targets(row: list[float]) -> None:
    with pytest.raises(ValueError, match="the row of a/b"):
        Targets("x", ("a/a", "a/b"), np.array([[1, 0, 0], row], np.float32), CLASSES, {})


def test_entropy_and_margin_by_hand() -> None:
    rows = np.array([[1, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.7, 0.2, 0.1]], np.float32)
    expected = [0, math.log(3), -sum(q * math.log(q) for q in (0.7, 0.2, 0.1))]
    np.testing.assert_allclose(entropies(rows), expected, atol=1e-6)
    np.testing.assert_allclose(margins(rows), [1, 0, 0.5], atol=1e-6)


def test_parts_and_agreement_by_hand(manifest: Manifest, split: LabelSplit) -> None:
    targets = targets_of(manifest)
    known = dict(zip(manifest.videos.column("key"), manifest.videos.column("label"), strict=True))
    parts = {part.part: part for part in measure_parts(targets, manifest, split)}
    assert parts["all"].num_targets == 13
    assert parts["all"].num_known == 12, "the video without a label is not counted"
    for part in ("labelled", "unlabelled", "test"):
        keys = split.keys_of(part)
        rows = [targets.key.index(key) for key in keys if known[key] >= 0]
        right = [int(targets.probabilities[row].argmax()) == known[targets.key[row]] for row in rows]
        assert parts[part].agreement == pytest.approx(sum(right) / len(right))
        assert parts[part].num_targets == len(keys)
    assert parts["validation"].num_targets == 0
    assert math.isnan(parts["validation"].agreement)


@pytest.mark.parametrize("by", ["entropy", "margin"])
def test_the_least_sure_are_unlabelled_videos_in_order(manifest: Manifest, split: LabelSplit, by: str) -> None:
    targets = targets_of(manifest)
    found = least_sure(targets, split, 100, by)  # type: ignore[arg-type]
    asked = set(split.keys_of("unlabelled")) - set(split.keys_of("labelled"))
    assert {each.key for each in found} == asked
    assert not asked & {*split.keys_of("test"), *split.keys_of("labelled")}
    figures = [each.entropy if by == "entropy" else -each.margin for each in found]
    assert figures == sorted(figures, reverse=True)
    assert least_sure(targets, split, 2, by) == found[:2]  # type: ignore[arg-type]
    by_class = least_sure(targets, split, 1, by, per_class=True)  # type: ignore[arg-type]
    firsts = {}
    for each in found:
        firsts.setdefault(each.predicted, each)
    assert {each.predicted: each for each in by_class} == firsts
    row = targets.key.index(found[0].key)
    assert found[0].predicted == CLASSES[targets.probabilities[row].argmax()]
    assert found[0].confidence == pytest.approx(float(targets.probabilities[row].max()))


def test_equal_videos_come_by_key(manifest: Manifest, split: LabelSplit) -> None:
    rows = np.full((13, 3), 1 / 3, np.float32)
    targets = replace(targets_of(manifest), probabilities=rows)
    found = [each.key for each in least_sure(targets, split, 100)]
    assert found == sorted(found)


def test_comparison(manifest: Manifest) -> None:
    keys = manifest.videos.column("key")
    first, second = targets_of(manifest, keys=tuple(keys[:8])), targets_of(manifest, seed=3, keys=tuple(keys[3:]))
    found = compare(first, second, manifest)
    a = [first.probabilities[first.key.index(key)] for key in keys[3:8]]
    b = [second.probabilities[second.key.index(key)] for key in keys[3:8]]
    assert (found.num_first, found.num_second, found.num_shared) == (8, 10, 5)
    assert found.same_class == pytest.approx(np.mean([x.argmax() == y.argmax() for x, y in zip(a, b, strict=True)]))
    assert found.mean_distance == pytest.approx(np.mean([np.abs(x - y).sum() / 2 for x, y in zip(a, b, strict=True)]))
    same = compare(first, first, manifest)
    assert (same.same_class, same.mean_distance) == (1, 0)


def of_run(manifest: Manifest, split: LabelSplit, name: str = "made", earlier: Targets | None = None) -> Targets:
    """Targets as an import of the predictions of a run on a split gives them."""
    facts = {"run": f"runs/{split.name}", "split": split.name, "split_digest": split_digest(split)}
    if earlier is not None:
        facts |= {"targets": earlier.name, "targets_digest": targets_digest(earlier)}
    seed = 0 if earlier is None else 5
    return replace(targets_of(manifest, name, seed), provenance={"made": "imported", "file_1_run": json.dumps(facts)})


def test_runs_that_learnt_labels_of_test_videos_are_found(manifest: Manifest, split: LabelSplit) -> None:
    """Also through a second round on a sound split; what cannot be checked is a doubt."""
    assert leaks(manifest.root, of_run(manifest, split), split) == ([], [])
    assert leaks(manifest.root, targets_of(manifest), split) == ([], [])
    labelled = split.labelled | split.test
    other = replace(
        split, name="all", labelled=labelled, unlabelled=split.unlabelled | labelled, test=split.test & False
    )
    write_split(manifest.root, other)
    first = of_run(manifest, other, "first")
    errors, _ = leaks(manifest.root, first, split)
    assert len(errors) == 1
    assert "learnt the labels of 3 test or validation videos of split one" in errors[0]
    second = of_run(manifest, split, "second", earlier=first)
    errors, doubts = leaks(manifest.root, second, split)
    assert not errors
    assert "learnt from targets first" in doubts[0], "the file of the first round is not there"
    write_targets(manifest.root, first)
    errors, doubts = leaks(manifest.root, second, split)
    assert "runs/all on split all" in errors[0]
    assert not doubts
    write_split(manifest.root, replace(other, labelled=split.labelled), overwrite=True)
    errors, doubts = leaks(manifest.root, first, split)
    assert not errors
    assert "not here any more" in doubts[0]


@pytest.mark.parametrize("text", ["[1]", "{", '{"split": 3}', '{"split": "../../etc"}'])
def test_strange_provenance_is_no_traceback(manifest: Manifest, split: LabelSplit, text: str) -> None:
    targets = replace(targets_of(manifest), provenance={"file_1_run": text})
    errors, doubts = leaks(manifest.root, targets, split)
    assert not errors
    assert len(doubts) == 1


def test_random_rows_are_probabilities() -> None:
    assert np.allclose(random_rows(5).sum(axis=1), 1)
