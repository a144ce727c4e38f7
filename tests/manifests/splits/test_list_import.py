"""Splits from list files: the published lists and their measured facts, every form of line, mistakes."""

from __future__ import annotations

import dataclasses
import json
from itertools import combinations
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.prep import main
from manifests.manifest_io import write_manifest
from manifests.records import InputError
from manifests.splits.check import check_split, class_counts, compare_splits
from manifests.splits.list_import import import_lists
from manifests.splits.settings import PARTS, ImportSettings
from tests.manifests.splits.support import Official, imported, published, row, small


@pytest.mark.parametrize(
    ("percent", "count", "low", "high"), [(5, 476, 0, 11), (10, 953, 1, 21), (20, 1907, 8, 34), (50, 4768, 29, 64)]
)
def test_ucf101_lists(official: Official, lists: Path, percent: int, count: int, low: int, high: int) -> None:
    data = official("ucf101")
    split, report = imported(data, published(lists, "ucf101", percent))
    assert split.name == f"videossl-ucf101-{percent}"
    assert [int(split.part(part).sum()) for part in PARTS] == [count, 9537, 0, 3783]
    assert (report.unmatched, report.differences, report.notes) == ((), (), ())
    per_class = class_counts(split, "labelled", 101)
    assert (per_class.min(), per_class.max()) == (low, high)
    empty = [problem.examples for problem in check_split(split, data) if problem.kind == "unlabelled-classes"]
    assert empty == ([("CliffDiving",)] if percent == 5 else [])


@pytest.mark.parametrize(
    ("percent", "count", "errors", "low", "high"),
    [(40, 2094, 54, 23, 215), (50, 2618, 73, 30, 272), (60, 3141, 65, 38, 298), (100, 5236, 132, 72, 518)],
)
def test_hmdb51_lists_and_their_label_errors(
    official: Official, lists: Path, percent: int, count: int, errors: int, low: int, high: int
) -> None:
    data = official("hmdb51")
    file = published(lists, "hmdb51", percent)
    ours, report = imported(data, file)
    assert [int(ours.part(part).sum()) for part in PARTS] == [count, 5236, 0, 1530]
    assert (report.count("label"), report.count("num_frames"), len(report.unmatched)) == (errors, 0, 0)
    twins = {frozenset(pair) for pair in ((5, 6), (20, 21), (44, 45))}  # climb, kick, sword and their longer namesakes
    for difference in report.differences:
        assert frozenset((difference.ours, difference.theirs)) in twins
    theirs, _ = imported(data, file, labels="theirs")
    assert theirs.name == f"videossl-hmdb51-{percent}-theirs"
    assert int((theirs.label != ours.label).sum()) == errors
    per_class = class_counts(theirs, "labelled", 51)
    assert (per_class.min(), per_class.max()) == (low, high)
    kinds = {problem.kind: problem.count for problem in check_split(theirs, data)}
    assert kinds["other-labels"] == errors
    # what the published train list costs: clips of tested sources are trained on
    assert kinds["groups-in-train-and-test"] == 177
    assert any("outside the official train list" in note for note in report.notes)


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ("ucf101", {(5, 10): 43, (10, 20): 204, (20, 50): 938}),
        ("hmdb51", {(40, 50): 1031, (50, 60): 1602, (40, 100): 2094}),
    ],
)
def test_published_lists_are_not_nested(
    official: Official, lists: Path, dataset: str, expected: dict[tuple[int, int], int]
) -> None:
    splits = {
        percent: imported(official(dataset), published(lists, dataset, percent))[0]
        for percent in sorted({percent for pair in expected for percent in pair})
    }
    found = {
        (one, other): compare_splits(splits[one], splits[other])[0].num_shared
        for one, other in combinations(splits, 2)
        if (one, other) in expected
    }
    assert found == expected


def test_compare_of_published_lists(official: Official, lists: Path, tmp_path: Path) -> None:
    """The lists of 10 and 20 % of UCF101 share 204 videos, as the command prints."""

    def call(*words: str | Path) -> Result:
        return CliRunner().invoke(main, ["split", *map(str, words)], catch_exceptions=False)

    made = official("ucf101")
    (tmp_path / "ucf").mkdir()
    write_manifest(tmp_path / "ucf", made.header, made.videos, ())
    for percent in (10, 20):
        done = call(tmp_path / "ucf", "--import", published(lists, "ucf101", percent))
        assert done.exit_code == 0, done.output
        assert f"known list videossl-ucf101-{percent}" in done.stdout
    lines = call(tmp_path / "ucf", "--compare", "videossl-ucf101-10", "videossl-ucf101-20").stdout.splitlines()
    assert lines[1].split() == ["labelled", "953", "1,907", "204", "21.4", "%"]
    assert lines[2].split() == ["unlabelled", "9,537", "9,537", "9,537", "100.0", "%"]


def test_ucf101_rest_list_and_test_list(official: Official, lists: Path) -> None:
    data = official("ucf101")
    files = {
        "labelled": published(lists, "ucf101", 20),
        "unlabelled": lists / "ucf101/videossl_splits/ucf101_train_20_percent_unlabeled_split_1_rawframes.txt",
        "test": lists / "ucf101/ucf101_val_split_1_rawframes.txt",
    }
    rest, report = import_lists(data, files, ImportSettings(unlabelled="rest"))
    assert [int(rest.part(part).sum()) for part in PARTS] == [1907, 7630, 0, 3783]
    assert [entry.published for entry in report.lists] == [
        "videossl-ucf101-20",
        "videossl-ucf101-20-unlabelled",
        "ucf101-test-f1",
    ]
    every, _ = import_lists(data, files)
    plain, _ = imported(data, files["labelled"])
    for part in PARTS:
        assert every.keys_of(part) == plain.keys_of(part)


def test_a_list_of_another_fold_is_refused(official: Official, lists: Path) -> None:
    with pytest.raises(InputError, match=r"labelled videos are in the test part too \(fold 2\)\. .*--fold"):
        imported(official("ucf101"), published(lists, "ucf101", 20), fold=2)


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("form", ["rawframes", "videos"])
def test_kinetics_lists_match_both_file_names(lists: Path, shared: Path, timed: bool, form: str) -> None:
    classes = tuple((shared / "annotations/kinetics400/label_map_k400.txt").read_text().split("\n")[:-1])
    file = published(lists, "kinetics400", 1, form)
    entries = (line.split(" ")[0].removesuffix(".mp4").split("/") for line in file.read_text().splitlines())
    folders = {name.replace(" ", "_"): (name, label) for label, name in enumerate(classes)}
    rows = []
    for number, (class_name, stem) in enumerate(entries):
        name, label = folders[class_name]
        path = f"train/{name}/{stem if timed else stem[:11]}.{'mkv' if number % 2 else 'mp4'}"
        rows.append(
            dataclasses.replace(row(path, label), class_name=class_name, key=f"{class_name}/{number}", num_frames=300)
        )
    data = small(*rows, dataset="kinetics400", classes=tuple(folders))
    split, report = imported(data, file)
    assert (int(split.labelled.sum()), report.unmatched, report.count("label")) == (2400, (), 0)
    assert set(class_counts(split, "labelled", 400).tolist()) == {6}
    assert (report.count("num_frames") > 0) == (form == "rawframes")


def test_kinetics_lists_are_balanced_and_hardly_overlap(lists: Path) -> None:
    """What is known of the two published lists: 6 and 60 of every class, 298 of the smaller one in the larger."""
    files = {percent: published(lists, "kinetics400", percent) for percent in (1, 10)}
    entries = {
        (path.split("/")[0], path, int(label))
        for file in files.values()
        for path, _, label in (line.rsplit(" ", 2) for line in file.read_text().splitlines())
    }
    classes = dict(sorted((label, name) for name, _, label in entries))
    assert list(classes) == list(range(400))
    rows = [row(f"train/{path}.mp4", label) for _, path, label in entries]
    data = small(*rows, dataset="kinetics400", classes=tuple(classes.values()))
    splits = {percent: imported(data, file)[0] for percent, file in files.items()}
    assert [split.name for split in splits.values()] == ["ltg-kinetics400-1", "ltg-kinetics400-10"]
    for percent, each in ((1, 6), (10, 60)):
        assert set(class_counts(splits[percent], "labelled", 400).tolist()) == {each}
    shared = compare_splits(splits[1], splits[10])[0]
    assert (shared.num_first, shared.num_second, shared.num_shared) == (2400, 24000, 298)


@pytest.mark.parametrize(
    "text",
    [
        "run/a 100 1\njump/b c 100 0\n",
        "run/a.avi 1\njump/b c.avi 0\n",
        "RUN/A.AVI 1\r\nJump/b c.mkv 0\r\n\r\n",
        "/mnt/blob/data/videos/run/a.avi 1\n/mnt/blob/data/videos/jump/b c.avi 0\n",
        "C:\\data\\run\\a.avi 1\nC:\\data\\jump\\b c.avi 0\n",
        "run/a 0 100 1\njump/b c 0 100 0\n",
        "run/a\njump/b_c\n",
        "run/a.avi\njump/b c.avi\n",
        "run/a.avi,1\njump/b c.avi,0\n",
        "path,label\nrun/a.avi,run\njump/b c.avi,jump\n",
        "label,num_frames,Video_Path\n1,100,run/a.avi\n0,100,jump/b c.avi\n",
        "\ufeffkey,label\nrun/a,1\njump/b_c,0\n",
        json.dumps(
            [{"frame_dir": "run/a", "total_frames": 100, "label": [1]}, {"filename": "jump/b c.avi", "label": 0}]
        ),
        "a.avi 1\nb c.avi 0\n",
        "a 100 1\nb c 100 0\n",
        "run/a.avi 2\njump/b c.avi 1\n",  # official UCF101 train lists count labels from 1
    ],
)
def test_every_form_is_read(tmp_path: Path, text: str) -> None:
    data = small(row("deep/run/a.avi", 1), row("deep/jump/b c.avi", 0), row("deep/run/other.avi", 1))
    (tmp_path / "list.txt").write_text(text)
    split, report = imported(data, tmp_path / "list.txt")
    assert split.keys_of("labelled") == ["jump/b_c", "run/a"]
    assert int(split.unlabelled.sum()) == 3
    assert (report.unmatched, report.differences) == ((), ())
    assert split.name == "list"
    assert "list.txt sha256" in split.provenance["list_labelled"]


def test_svformer_lists_with_the_names_of_hmdb51(tmp_path: Path) -> None:
    """Lines as in its train.csv: a path on its authors' machine, a space, the label; names hold all sorts of signs."""
    stems = {"chew/#2_Gum_chew_h_nm_np1_fr_med_0": 0, "chew/Geena_und_die_Radschl_ge___;-)_chew_f_cm_np1_ri_med_0": 0,
             "run/[Big]_Run!(Part4)_run_f_cm_np1_ri_bad_0": 1}  # fmt: skip
    data = small(*(row(f"{stem}.avi", label) for stem, label in stems.items()), classes=("chew", "run"))
    lines = [f"/mnt/blob/datasets/hmdb51/videos/{stem}.avi {label}\n" for stem, label in stems.items()]
    (tmp_path / "train.csv").write_text("".join(lines))
    split, report = imported(data, tmp_path / "train.csv")
    assert (int(split.labelled.sum()), report.unmatched, report.differences) == (3, (), ())


def test_what_does_not_match_is_reported_line_by_line(tmp_path: Path) -> None:
    data = small(
        row("train/run/a.avi", 1, num_frames=99),
        row("train/run/bad.avi", 1, status="failed", error="moov atom not found"),
        row("train/run/twice.avi", 1),
        dataclasses.replace(row("val/run/twice.avi", 1), key="run/twice_2"),
        row("train/jump/c.avi", 0),
    )
    (tmp_path / "l.txt").write_text(
        "run/a 100 0\nrun/gone 5 1\n\nrun/bad 5 1\nrun/twice 100 1\njump/c 100 0\njump/c 100 0\n"
    )
    split, report = imported(data, tmp_path / "l.txt")
    assert split.keys_of("labelled") == ["jump/c", "run/a", "run/twice"]  # run/twice is also a key: keys come first
    assert [(entry.line, entry.reason) for entry in report.unmatched] == [
        (2, "no such video in the data set"),
        (4, "failed: moov atom not found"),
        (7, "listed before, in line 6"),
    ]
    assert [(entry.key, entry.what, entry.ours, entry.theirs) for entry in report.differences] == [
        ("run/a", "label", 1, 0),
        ("run/a", "num_frames", 99, 100),
    ]
    assert (report.lists[0].num_lines, report.lists[0].num_matched) == (6, 3)
    (tmp_path / "l.txt").write_text("train/RUN/twice.mp4 1\njump/c 0\n")
    renamed = small(*(dataclasses.replace(entry, key=f"{entry.key}_x") for entry in data.videos))
    _, report = imported(renamed, tmp_path / "l.txt")
    assert [entry.reason for entry in report.unmatched] == ["several videos fit"]


def test_labels_of_another_numbering(tmp_path: Path) -> None:
    data = small(*(row(f"run/{name}.avi", 1) for name in "abc"), row("jump/d.avi", 0))
    (tmp_path / "l.txt").write_text("run/a.avi 40\nrun/b.avi 40\nrun/c.avi 40\njump/d.avi 7\n")
    split, report = imported(data, tmp_path / "l.txt")
    assert split.label.tolist() == [0, 1, 1, 1]
    assert any("numbers its classes differently" in note for note in report.notes)
    with pytest.raises(InputError, match="numbers its classes differently"):
        imported(data, tmp_path / "l.txt", labels="theirs")
    (tmp_path / "l.txt").write_text("run/a.avi 1\nrun/b.avi 1\njump/d.avi 2\n")
    with pytest.raises(InputError, match="label 2 of jump/d is not one of the 2 classes"):
        imported(data, tmp_path / "l.txt", labels="theirs")


def test_own_parts(tmp_path: Path) -> None:
    data = small(*(row(f"run/{name}.avi", 1) for name in "abcdef"))
    files = {}
    for part, names in (("labelled", "a"), ("unlabelled", "abc"), ("validation", "d"), ("test", "e")):
        files[part] = tmp_path / f"{part}.txt"
        files[part].write_text("".join(f"run/{name}\n" for name in names))
    split, _ = import_lists(data, files)
    assert [split.keys_of(part) for part in PARTS] == [["run/a"], ["run/a", "run/b", "run/c"], ["run/d"], ["run/e"]]
    files["test"].write_text("run/b\n")
    with pytest.raises(InputError, match="1 of 3 unlabelled videos is in the test part too"):
        import_lists(data, files)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("list.txt", "", "is empty"),
        ("list.txt", "swim/x.avi 3\n", "none of its 1 line names a video"),
        ("list.json", '{"a": 1}', "not a list of objects"),
        ("wave_test_split1.txt", "a.avi 1\n", "official HMDB51 list"),
        ("list.bin", "\x00\udcff", r"line 1: byte 2 \(0xff\) is not UTF-8"),
        ("k.csv", "label,youtube_id,time_start,time_end\nrun,a,soon,2\n", "line 2: time_start 'soon'"),
    ],
)
def test_mistakes(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=message):
        imported(small(row("run/a.avi", 1)), tmp_path / name)


def test_more_mistakes(tmp_path: Path) -> None:
    data = small(row("run/a.avi", 1))
    with pytest.raises(InputError, match="no such file"):
        imported(data, tmp_path / "gone.txt")
    with pytest.raises(InputError, match="needs a list of labelled videos"):
        import_lists(data, {"test": tmp_path / "gone.txt"})
    with pytest.raises(InputError, match="--labels mine"):
        ImportSettings(labels="mine")
