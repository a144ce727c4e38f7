"""Keys: safe, unique, and the same whatever the order of the videos."""

from __future__ import annotations

import hashlib
import io
import random
import re
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.prep.scan.support import fill
from tgprep.scan.keys import unique_keys, video_key
from tgprep.scan.scan import scan

KEY = re.compile(r"(?!__)[A-Za-z0-9_-]{1,100}/(?!__)[A-Za-z0-9_-]{1,80}")
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=130)


@settings(deadline=None)
@given(NAMES, NAMES)
def test_keys_are_safe_and_fit_a_ustar_name(class_name: str, stem: str) -> None:
    key = video_key(class_name, stem)
    assert KEY.fullmatch(key)
    with tarfile.open(fileobj=io.BytesIO(), mode="w", format=tarfile.USTAR_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo(f"{key}.flow_x.offsets.npy"))  # raises where the name is too long


@settings(deadline=None)
@given(st.lists(st.tuples(NAMES, NAMES, st.sampled_from(["avi", "mp4"])), max_size=12), st.randoms())
def test_keys_are_unique_and_independent_of_order(names: list[tuple[str, str, str]], chance: random.Random) -> None:
    videos = [(c, s, f"{c}/{s}.{e}") for c, s, e in sorted(set(names))]
    keys, _ = unique_keys(videos)
    assert len({key.lower() for key in keys}) == len(videos)
    assert all(KEY.fullmatch(key) for key in keys)
    mixed = list(videos)
    chance.shuffle(mixed)
    again, _ = unique_keys(mixed)
    assert dict(zip(mixed, again, strict=True)) == dict(zip(videos, keys, strict=True))


@pytest.mark.parametrize(
    ("class_name", "stem", "key"),
    [
        ("PushUps", "v_PushUps_g01_c01", "PushUps/v_PushUps_g01_c01"),
        ("zumba", "-7tDxxH2g6I", "zumba/-7tDxxH2g6I"),
        ("brush_hair", "Hair__[_NEW_]_UPDATED!!!!_x", "brush_hair/Hair____NEW___UPDATED__x"),
        ("a b", "日本 (1).final", "a_b/_1_final"),
        ("__background__", "__init__", "_background__/_init__"),
        ("_(x)_", "日本_walk", "_x__/_walk"),
        ("a__b", "____", "a__b/_"),
        ("U\u0308bung", "u\u0308", "_bung/_"),
    ],
)
def test_key_examples(class_name: str, stem: str, key: str) -> None:
    assert video_key(class_name, stem) == key


def test_long_names_end_in_a_hash() -> None:
    ending = hashlib.sha256(f"run/{'x' * 81}".encode()).hexdigest()[:8]
    assert video_key("run", "x" * 81) == f"run/{'x' * 71}_{ending}"
    assert video_key("run", "x" * 80) == f"run/{'x' * 80}"
    assert video_key("run", "x" * 81) != video_key("run", "x" * 82)


def test_clashing_names_end_in_a_hash_of_their_path(tmp_path: Path) -> None:
    fill(tmp_path, "run/a b.mp4", "run/a_b.mp4", "run/A_B.mkv", "run/other.mp4")
    result = scan(tmp_path)
    keys = {video.path: video.key for video in result.videos}
    assert keys["run/other.mp4"] == "run/other"
    for path in ("run/a b.mp4", "run/a_b.mp4", "run/A_B.mkv"):
        assert re.fullmatch(r"run/[aA]_[bB]_[0-9a-f]{8}", keys[path])
    (tmp_path / "run/other.mp4").unlink()
    assert {video.path: video.key for video in scan(tmp_path).videos}.items() <= keys.items()
    assert any("3 videos share class and name" in note for note in result.notes)


def test_name_that_looks_like_a_hashed_key() -> None:
    videos = [("run", "a b", "run/a b.mp4"), ("run", "a_b", "run/a_b.mp4")]
    first, _ = unique_keys(videos)
    sly = ("run", first[0].removeprefix("run/"), "run/sly.mp4")
    keys, clashes = unique_keys([*videos, sly])
    assert len(set(keys)) == 3
    assert sly[2] in clashes


ODD = ["__background__", "_(x)_", "__key__", "__x", "走る", "歩く", "a.b.c", " ", "-", "Case", "case", "CON", "x" * 200]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its files open
def test_every_reader_shows_every_key(tmp_path: Path) -> None:
    """Each odd name as a class and as a file, read by webdataset and by Hugging Face's reader."""
    import datasets
    import webdataset

    videos = sorted((name, stem, f"{name}/{stem}.avi") for name in ODD for stem in ODD)
    keys, _ = unique_keys(videos)
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for key in sorted(keys):
            member = tarfile.TarInfo(f"{key}.json")
            member.size = 2
            tar.addfile(member, io.BytesIO(b"{}"))
    shown = [sample["__key__"] for sample in webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False)]
    assert shown == sorted(keys)
    files = {"train": str(tmp_path / "a.tar")}
    loaded = datasets.load_dataset("webdataset", data_files=files, split="train", streaming=True)
    assert [sample["__key__"] for sample in loaded] == sorted(keys)
