"""List files: reading a line, the published lists by their bytes, export and import."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manifests.records import InputError
from manifests.splits.label_split import make_split
from manifests.splits.lists import PUBLISHED, Reading, export_list, read_list
from manifests.splits.settings import EXPORT_FORMS, SplitSettings
from tests.manifests.splits.support import imported, row, small

NUM_LINES = {
    "ucf101-train-f1": 9537,
    "ucf101-test-f1": 3783,
    "videossl-ucf101-5": 476,
    "videossl-ucf101-5-unlabelled": 9061,
    "videossl-ucf101-10": 953,
    "videossl-ucf101-10-unlabelled": 8584,
    "videossl-ucf101-20": 1907,
    "videossl-ucf101-20-unlabelled": 7630,
    "videossl-ucf101-50": 4768,
    "videossl-ucf101-50-unlabelled": 4769,
    "hmdb51-test-f1": 1530,
    "videossl-hmdb51-100": 5236,
    "videossl-hmdb51-40": 2094,
    "videossl-hmdb51-50": 2618,
    "videossl-hmdb51-60": 3141,
    "ltg-kinetics400-1": 2400,
    "ltg-kinetics400-10": 24000,
}


def test_published_lists_are_known_by_their_bytes(lists: Path) -> None:
    files = sorted(lists.rglob("*.txt"))
    assert len(files) == len(PUBLISHED) == 19
    for file in files:
        found = read_list(file)
        assert NUM_LINES[found.published] == len(found.entries), file.name
        dataset = next(name for name in ("ucf101", "hmdb51", "kinetics400") if name in found.published)
        assert dataset in file.name


def test_readings_of_a_line(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("run/take 7 120 5\n")
    (entry,) = read_list(tmp_path / "list.txt").entries
    assert entry.readings == (
        Reading("run/take 7", "5", 120),
        Reading("run/take 7 120", "5"),
        Reading("run/take 7 120 5"),
        Reading("run/take", "5", 120),
    )


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.sets(
        st.text("ab1 .,;|[]{}'\"#\\-ü\u0301\u2028\t\n", min_size=1, max_size=8)
        .map(str.strip)
        .filter(lambda name: name.strip(". ")),
        min_size=4,
        max_size=12,
    ),
    seed=st.integers(0, 5),
    form=st.sampled_from(EXPORT_FORMS),
)
def test_export_and_import_are_inverse(tmp_path: Path, names: set[str], seed: int, form: str) -> None:
    rows = [
        dataclasses.replace(
            row(f"v/{('jump', 'run')[number % 2]}/{name}.avi", number % 2),
            key=f"{('jump', 'run')[number % 2]}/k{number}",
        )
        for number, name in enumerate(sorted(names))
    ]
    data = small(*rows)
    split = make_split(data, SplitSettings(percent=60, seed=seed))
    labelled = set(split.keys_of("labelled"))
    if form == "mmaction-videos" and any(re.search(r"\s", entry.path) for entry in rows if entry.key in labelled):
        with pytest.raises(InputError, match="contain spaces"):
            export_list(split, data, form)
        return
    (tmp_path / "list.txt").write_text(export_list(split, data, form), encoding="utf-8")
    again, report = imported(data, tmp_path / "list.txt")
    assert again.keys_of("labelled") == split.keys_of("labelled")
    assert again.keys_of("unlabelled") == split.keys_of("unlabelled")
    assert (again.label == split.label).all()
    assert (report.unmatched, report.differences) == ((), ())


def test_exported_text() -> None:
    data = small(row("v/run/a.avi", 1, num_frames=31), row("v/jump/b.mkv", 0, num_frames=7))
    split = make_split(data, SplitSettings(percent=100))
    assert export_list(split, data, "mmaction-rawframes") == "jump/b 7 0\nrun/a 31 1\n"
    assert export_list(split, data, "mmaction-videos") == "v/jump/b.mkv 0\nv/run/a.avi 1\n"
    assert export_list(split, data, "keys", "unlabelled") == "jump/b\nrun/a\n"
    assert export_list(split, data, "csv").splitlines() == [
        "key,path,label,class_name,num_frames",
        "jump/b,v/jump/b.mkv,0,jump,7",
        "run/a,v/run/a.avi,1,run,31",
    ]
    with pytest.raises(InputError, match="no test videos"):
        export_list(split, data, "csv", "test")
    with pytest.raises(InputError, match="expected one of mmaction-rawframes"):
        export_list(split, data, "xml")
    with pytest.raises(InputError, match="names 1 video that a data set does not hold, such as jump/b"):
        export_list(split, small(row("v/run/a.avi", 1)), "csv")
