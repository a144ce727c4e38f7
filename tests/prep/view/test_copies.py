"""Equal files of a data set: counted per class, found across classes and across train and test."""

from __future__ import annotations

from manifests.records import FAILED, WRITTEN, VideoRow
from manifests.table import VideoTable
from tgprep.view.copies import find_copies


def row(path: str, digest: str, subsets: tuple[str, ...] = ("train",), status: str = WRITTEN) -> VideoRow:
    class_name = path.partition("/")[0]
    return VideoRow(path, path, class_name, 0, "", subsets, status, source_sha256=digest)


def test_copies_are_counted_per_class_and_leaks_come_first() -> None:
    rows = [
        row("A/1", "a"),
        row("A/2", "a"),
        row("A/3", "a"),
        row("B/1", "b", ("train", "test")),
        row("C/1", "b", ("test", "test")),
        row("C/2", "c"),
        row("D/1", "d", ("train", "test")),
        row("D/2", "d", ("train", "test")),
    ]
    copies = find_copies(VideoTable.from_rows(rows))
    assert (copies.num_copies, copies.num_other_class, copies.num_leaks) == (4, 1, 1)
    assert copies.by_class == {"A": 2, "C": 1, "D": 1}
    assert copies.examples == (("B/1", "C/1"), ("A/1", "A/2", "A/3"), ("D/1", "D/2"))
    text = "\n".join(copies.lines())
    assert "4 videos are copies" in text
    assert "B/1 = C/1" in text
    assert "not clean" in text


def test_failed_videos_and_files_of_their_own_are_no_copies() -> None:
    rows = [row("A/1", "a"), row("A/2", "b"), row("A/3", "", status=FAILED), row("A/4", "", status=FAILED)]
    copies = find_copies(VideoTable.from_rows(rows))
    assert copies.num_copies == 0
    assert copies.lines() == []
    assert find_copies(VideoTable.from_rows([])).num_copies == 0
