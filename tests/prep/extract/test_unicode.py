"""A data set whose videos were copied to or from a Mac: their names are written otherwise, and are the same names."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from manifests.manifest_io import read_manifest
from tests.prep.support import extract_videos, moving_square, write_video
from tgprep.check.check import check
from tgprep.check.repair import repair
from tgprep.extract.plan import Update

NAMES = ("Übung/größe.avi", "Übung/é.avi", "walk/a.avi")


def in_form(form: str, name: str) -> str:
    return unicodedata.normalize(form, name)


def test_names_in_another_form_are_the_same_videos(tmp_path: Path) -> None:
    videos, out = tmp_path / "videos", tmp_path / "out"
    for number, name in enumerate(NAMES):
        write_video(videos / in_form("NFD", name), moving_square(4, start=number))
    old = extract_videos(videos, out).manifest
    composed = {in_form("NFC", name) for name in NAMES}
    for path in sorted(videos.rglob("*"), reverse=True):  # a folder after what is in it
        path.rename(path.with_name(in_form("NFC", path.name)))
    assert {path.relative_to(videos).as_posix() for path in videos.rglob("*.avi")} == composed
    assert check(str(out), against=videos).sound

    shard = old.shards[0].name
    (out / shard).write_bytes(b"")
    assert repair(out, videos, [shard]).repaired == (shard,)
    assert extract_videos(videos, out, update=Update(add=True)).manifest.digest == old.digest

    write_video(videos / "Übung/new.avi", moving_square(5))
    extract_videos(videos, out, update=Update(add=True))
    added = read_manifest(out)
    assert added.header.classes == old.header.classes
    assert sorted(row.key for row in added.videos) == ["_bung/_", "_bung/gr_e", "_bung/new", "walk/a"]
    # A second file of the same name in the other form is another video.
    write_video(videos / in_form("NFD", "Übung/größe.avi"), moving_square(6))
    assert len(extract_videos(videos, tmp_path / "both").manifest.videos) == 5
