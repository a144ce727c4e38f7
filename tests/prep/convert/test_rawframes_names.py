"""Frame folders with all kinds of names: the layouts of videos hold for them, and an export gives the same classes back."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
import simplejpeg

from manifests.records import InputError
from tests.prep.support import moving_square
from tgprep.check.check import check
from tgprep.convert.export_rawframes import export_rawframes
from tgprep.convert.import_rawframes import import_rawframes

JPEGS = [simplejpeg.encode_jpeg(frame, 60) for frame in moving_square(3, 32, 32)]


def frames(root: Path, *folders: str) -> Path:
    """Folders of three frames below a folder; returns that folder."""
    for folder in folders:
        (root / folder).mkdir(parents=True)
        for number, jpeg in enumerate(JPEGS, 1):
            (root / folder / f"img_{number:05d}.jpg").write_bytes(jpeg)
    return root


def test_subsets_stay_subsets(tmp_path: Path) -> None:
    tree = frames(tmp_path / "tree", "train/walk/a", "test/walk/b", "test/run/c", "unlabeled/u")
    frames(tmp_path / "disk", "d")
    (tree / "train/run").symlink_to(tmp_path / "disk")
    frames(tree, os.fsdecode(b"train/walk/\xff"))
    videos = import_rawframes(tree, tmp_path / "out").manifest.videos
    found = {row.path: (row.class_name, row.subsets) for row in videos if row.status == "written"}
    assert found == {
        "train/walk/a": ("walk", ("train",)),
        "train/run/d": ("run", ("train",)),
        "test/walk/b": ("walk", ("test",)),
        "test/run/c": ("run", ("test",)),
        "unlabeled/u": ("", ("train",)),
    }
    skipped = {row.path: row.error for row in videos if row.status == "skipped"}
    assert sorted(skipped) == ["train/walk/\\udcff"]
    assert "not valid UTF-8" in skipped["train/walk/\\udcff"]
    assert check(str(tmp_path / "out"), deep=True).sound
    with pytest.raises(InputError, match=r"subsets or classes\?"):
        import_rawframes(frames(tmp_path / "flat", "train/a", "test/b", "demo/c"), tmp_path / "no")


ODD_CLASSES = ["new\nline", "tab\tand\x0bmore", "two\u2028lines", '"quoted"', " blank ", "1 2", "a,b", "走る", "歩く"]
ODD_CLASSES += ["__background__", "_(x)_", "_x_", unicodedata.normalize("NFC", "Übung"), "walk", "x" * 130, "-", "é\r"]


def test_every_class_name_comes_back(tmp_path: Path) -> None:
    first = import_rawframes(
        frames(tmp_path / "tree", *(f"{name}/v" for name in ODD_CLASSES)), tmp_path / "one"
    ).manifest
    assert first.header.classes == tuple(sorted(ODD_CLASSES))
    export_rawframes(first.root, tmp_path / "export")
    again = import_rawframes(tmp_path / "export", tmp_path / "two").manifest
    assert again.header.classes == first.header.classes
    columns = ("key", "class_name", "label")
    assert {name: again.videos.column(name) for name in columns} == {
        name: first.videos.column(name) for name in columns
    }
    assert check(again.root, deep=True).sound


def test_classes_of_kinetics_come_back(tmp_path: Path) -> None:
    names = ("massaging_person's_head", "tying_knot_(not_on_a_tie)")
    tree = frames(tmp_path / "tree", *(f"{name}/AAAAAAAAAA{k}_000001_000011" for k, name in enumerate(names)))
    first = import_rawframes(tree, tmp_path / "one", dataset="kinetics400").manifest
    export_rawframes(first.root, tmp_path / "export")
    again = import_rawframes(tmp_path / "export", tmp_path / "two").manifest
    assert again.header.dataset == "kinetics400"
    assert again.videos.column("label") == first.videos.column("label") == [196, 369]


def test_a_damaged_list_of_labels_is_named(tmp_path: Path) -> None:
    tree = frames(tmp_path / "tree", "走る/v", "歩く/w")
    export_rawframes(import_rawframes(tree, tmp_path / "one").manifest.root, tmp_path / "export")
    for content in ("[1]", '{"_/v": 7}', "{", '{"_/v": "x"}'):
        (tmp_path / "export/.tgprep-labels.json").write_text(content)
        with pytest.raises(InputError, match=r"\.tgprep-labels\.json is damaged: export again"):
            import_rawframes(tmp_path / "export", tmp_path / "two")
