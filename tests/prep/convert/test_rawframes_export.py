"""`tgprep export`: the tree and the lists are those that the reference reads."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from manifests.manifest_io import read_manifest, write_manifest
from manifests.records import GradientCoding, InputError, ManifestHeader, VideoRow
from manifests.splits.label_split import LabelSplit, make_split, read_split, write_split
from manifests.splits.list_import import import_lists
from manifests.splits.settings import SplitSettings
from tgprep.convert.export_rawframes import export_rawframes, list_texts, percent_of, read_jpegs


def test_the_tree_is_laid_out_as_the_reference_does(tree: Path, dataset: Path) -> None:
    manifest = read_manifest(dataset)
    for row in manifest.videos:
        names = sorted(path.name for path in (tree / row.key).iterdir())
        count = row.num_frames
        assert names == [f"img_{n:05d}.jpg" for n in range(1, count + 1)] + [
            f"tempgrad_{n:05d}.jpg" for n in range(1, count)
        ]
        # TG k is frame k minus frame k+1 by the reference's own formula, on files read by OpenCV, within JPEG's error.
        first, second, tg = (
            cv2.imread(str(tree / row.key / name)).astype(np.float32)  # type: ignore[union-attr]
            for name in ("img_00003.jpg", "img_00004.jpg", "tempgrad_00003.jpg")
        )
        assert np.abs((first - second + 255) / 2 - tg).mean() < 4


def test_lists_are_those_of_the_folds_and_splits(tree: Path, dataset: Path) -> None:
    manifest = read_manifest(dataset)
    counts = {row.key: (row.num_frames, row.label) for row in manifest.videos}
    lists = {path.name: path.read_text().splitlines() for path in tree.glob("*_rawframes.txt")}
    for lines in lists.values():
        for line in lines:
            key, num_frames, label = line.split(" ")
            assert counts[key] == (int(num_frames), int(label))
    for fold in (1, 2, 3):
        train, test = lists[f"ucf101_train_split_{fold}_rawframes.txt"], lists[f"ucf101_val_split_{fold}_rawframes.txt"]
        assert len(train) + len(test) == 8
        assert not set(train) & set(test)
    assert (tree / "classInd.txt").read_text() == "".join(
        f"{n} {c}\n" for n, c in enumerate(manifest.header.classes, 1)
    )
    again, report = import_lists(
        manifest, {"labelled": tree / "half_labelled_rawframes.txt", "test": tree / "half_test_rawframes.txt"}
    )
    split = make_split(manifest, SplitSettings(percent=50, name="half"))
    assert again.keys_of("labelled") == split.keys_of("labelled")
    assert again.keys_of("test") == split.keys_of("test")
    assert report.unmatched == ()


def test_an_interrupted_export_continues(dataset: Path, tree: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    shutil.copytree(tree, folder)
    lost = sorted(path for path in folder.glob("*/*") if path.is_dir())[2]
    shutil.rmtree(lost)
    outcome = export_rawframes(str(dataset), folder)
    assert (outcome.num_videos, outcome.num_kept) == (8, 7)
    assert sorted(path.name for path in lost.iterdir()) == sorted(
        path.name for path in (tree / lost.relative_to(folder)).iterdir()
    )
    with pytest.raises(InputError, match="other options"):
        export_rawframes(str(dataset), folder, tg=False)


def load_as_the_reference(tree: Path, line: str, num_frames: int, interval: int) -> list[tuple[str, int, bytes, bytes]]:
    """A clip as the reference's rawframe loader reads it: folder and count from the line, frames counted from 1, TG of the same
    number, and one frame fewer than there are, so that the last has its TG. Written from its description, not its code.
    """
    name, count, label = line.rsplit(" ", 2)
    usable = int(count) - 1
    numbers = [1 + place * interval % usable for place in range(num_frames)]
    return [
        (
            name,
            int(label),
            (tree / name / f"img_{number:05d}.jpg").read_bytes(),
            (tree / name / f"tempgrad_{number:05d}.jpg").read_bytes(),
        )
        for number in numbers
    ]


def test_the_reference_loader_reads_the_lists(tree: Path, dataset: Path) -> None:
    manifest = read_manifest(dataset)
    split = make_split(manifest, SplitSettings(percent=50, name="half"))
    semi = tree / "videossl_splits"
    labelled, rest = (
        (semi / f"ucf101_train_50_percent_{kind}_split_1_rawframes.txt").read_text().splitlines()
        for kind in ("labeled", "unlabeled")
    )
    full = (tree / "ucf101_train_split_1_rawframes.txt").read_text().splitlines()
    assert sorted(labelled + rest) == sorted(full)
    assert [line.split()[0] for line in labelled] == split.keys_of("labelled")
    stored = {
        kind: {row.key: list(read_jpegs(manifest, row, kind)) for row in manifest.videos} for kind in ("rgb", "tg")
    }
    for line in full:
        for number, (key, label, rgb, tg) in enumerate(load_as_the_reference(tree, line, num_frames=8, interval=8)):
            place = number * 8 % (len(stored["rgb"][key]) - 1)
            assert (rgb, tg) == (stored["rgb"][key][place], stored["tg"][key][place])
            assert manifest.header.classes[label] == key.split("/")[0]


def test_lists_of_kinetics_have_the_names_of_the_reference(tmp_path: Path) -> None:
    rows = [
        VideoRow(f"{name}/{n:02d}", f"{name}/{n:02d}.mp4", name, label, "", ("val" if n > 7 else "train",), "written")
        for label, name in enumerate("ab")
        for n in range(10)
    ]
    header = ManifestHeader("kinetics400", ("a", "b"), GradientCoding(), {}, {}, num_folds=1, num_written=len(rows))
    data = write_manifest(tmp_path, header, rows, ())
    for each, seed in ((6, 0), (6, 1), (5, 0)):
        settings = SplitSettings(per_class=each, strategy="per-class", seed=seed)
        write_split(tmp_path, make_split(data, settings))
    for number, name in enumerate(("k6-s1-f1", "k5-s0-f1", "k6-s0-f1")):
        os.utime(tmp_path / "splits" / f"{name}.parquet", (number, number))  # the last is the newest
    texts = list_texts(data)
    newest = "".join(f"{key} 0 {'ab'.index(key[0])}\n" for key in read_split(tmp_path, "k6-s0-f1").keys_of("labelled"))
    assert texts["videossl_splits/kinetics400_train_1_percent_labeled_rawframes.txt"] == newest
    assert sorted(name for name in texts if name.startswith(("kinetics", "videossl"))) == [
        "kinetics400_train_list_rawframes.txt",
        "kinetics400_val_list_rawframes.txt",
        "videossl_splits/kinetics400_train_1_percent_labeled_rawframes.txt",
        "videossl_splits/kinetics400_train_1_percent_unlabeled_rawframes.txt",
    ]
    assert len(texts["kinetics400_val_list_rawframes.txt"].splitlines()) == 4


def test_percentages_follow_from_how_a_split_was_made() -> None:
    told = {
        "20": {"made": "drawn", "percent": "20"},
        "": {"made": "drawn", "percent": "2.5"},
        "10": {"made": "imported", "list_labelled": "x.txt sha256 ab (ltg-kinetics400-10)"},
        "5": {"made": "imported", "list_labelled": "x.txt sha256 ab (videossl-ucf101-5)"},
        "1": {"made": "drawn", "per_class": "6", "dataset": "kinetics700"},
    }
    blank = np.zeros(0, bool)
    for percent, provenance in told.items():
        split = LabelSplit("x", (), np.zeros(0, np.int32), blank, blank, blank, blank, provenance)
        assert percent_of(split) == percent
    own = {"made": "imported", "list_labelled": "x.txt sha256 ab"}
    assert percent_of(LabelSplit("x", (), np.zeros(0, np.int32), blank, blank, blank, blank, own)) == ""
