"""Checks of a split: every kind of problem is reported."""

from __future__ import annotations

import dataclasses

import numpy as np

from manifests.splits.check import check_split, count_parts
from manifests.splits.label_split import (
    make_split,
)
from manifests.splits.settings import SplitSettings
from tests.manifests.splits.support import changed, check_problems, manifest


def test_a_good_split_has_no_errors() -> None:
    data = manifest({"jump": 20, "run": 40}, subset=lambda number: "test" if number < 6 else "train")
    split = make_split(data, SplitSettings(percent=40))
    assert [problem.kind for problem in check_split(split, data)] == ["no-validation", "groups-partly-labelled"]
    problem = check_split(split, data)[0]
    assert (problem.level, "test selection" in problem.message, "--hold-out" in problem.message) == ("note", True, True)
    held = make_split(data, SplitSettings(percent=40, hold_out_percent=20))
    assert "no-validation" not in check_problems(held, data)
    labelled = count_parts(split, data)[0]
    assert (labelled.part, labelled.num_videos, labelled.num_classes) == ("labelled", 19, 2)
    assert labelled.per_class_min + labelled.per_class_max == 19


def test_every_kind_of_problem_is_reported() -> None:
    data = manifest(
        {"jump": 20, "run": 40, "walk": 0},
        subset=lambda number: "test" if number < 6 else "train",
        failed=("run/clip0039",),
    )
    good = make_split(data, SplitSettings(percent=40))
    test, train = int(np.flatnonzero(good.test)[0]), int(np.flatnonzero(good.unlabelled)[0])
    label = good.label.copy()
    label[0] = 7
    wrong = good.label.copy()
    wrong[train] = 1 - wrong[train]
    nothing = np.zeros(len(good), bool)
    key = tuple(sorted({*good.key[1:], "run/clip0039"}))
    stranger = tuple(sorted({*good.key[1:], "zzz/stranger"}))
    cases = {
        "test-in-train": changed(good, unlabelled=[test]),
        "validation-in-train": changed(good, validation=[train]),
        "test-in-validation": changed(good, validation=[test]),
        "no-labels": dataclasses.replace(good, labelled=nothing),
        "no-test": dataclasses.replace(good, test=nothing),
        "label-range": dataclasses.replace(good, label=label),
        "other-labels": dataclasses.replace(good, label=wrong),
        "not-written": dataclasses.replace(good, key=key),
        "unknown-videos": dataclasses.replace(good, key=stranger),
        "other-data-set": dataclasses.replace(good, provenance={}),
        "empty-classes": good,
        "unlabelled-classes": dataclasses.replace(good, labelled=good.labelled & (good.label == 0)),
        "untested-classes": dataclasses.replace(good, test=good.test & (good.label == 0)),
        "groups-in-train-and-test": changed(
            dataclasses.replace(good, test=good.test & (np.arange(len(good)) != test)), unlabelled=[test]
        ),
    }
    for kind, split in cases.items():
        assert kind in check_problems(split, data), kind
        assert kind == "empty-classes" or kind not in check_problems(good, data)
    problem = next(
        problem for problem in check_split(cases["groups-in-train-and-test"], data) if problem.kind.endswith("and-test")
    )
    assert problem.examples == ("jump/g00",)
    assert "2 of 11 videos there" in problem.message


def test_videos_of_a_split_are_found_in_any_order() -> None:
    data = manifest({"jump": 3, "run": 4}, failed=("jump/clip0001",))
    table = data.videos
    keys = [key for key, status in zip(table.column("key"), table.column("status"), strict=True) if status == "written"]
    for wanted in (keys, keys[:0], keys[2:], keys[::-1], ["a/none", *keys[1:]], [*keys, "jump/clip0001"]):
        rows = table.rows_of(wanted).to_pylist()
        found = [None if row is None else table[row].key for row in rows]
        assert found == [None if key == "a/none" else key for key in wanted]


def test_groups_are_counted_by_class_and_named_once() -> None:
    data = manifest({"jump": 6, "run": 6}, group=lambda name, number: f"g{number // 3}" if number else "")
    split = make_split(data, SplitSettings(percent=50))
    test = np.array([key.endswith(("1", "4")) for key in split.key])
    moved = dataclasses.replace(split, test=test, labelled=split.labelled & ~test, unlabelled=split.unlabelled & ~test)
    problem = next(each for each in check_split(moved, data) if each.kind == "groups-in-train-and-test")
    assert problem.examples == ("jump/g0", "jump/g1", "run/g0", "run/g1")
    assert "4 of 4 videos there" in problem.message
    # Videos without a group count for none.
    alone = dataclasses.replace(moved, test=np.array([key.endswith("0") for key in split.key]))
    assert "groups-in-train-and-test" not in {each.kind for each in check_split(alone, data)}
    assert [part.num_groups for part in count_parts(moved, data)][3] == 4
