"""`tgprep split` as users and scripts call it: what it writes, prints, refuses, and with which exit code."""

from __future__ import annotations

import csv
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.prep import main
from manifests.manifest_io import read_header, read_manifest, write_manifest
from manifests.records import GradientCoding, ManifestHeader, VideoRow
from manifests.splits.label_split import read_split
from manifests.splits.settings import EXPORT_FORMS, PARTS


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["split", *map(str, arguments)], catch_exceptions=False)


def facts(*arguments: str | Path) -> dict[str, object]:
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.output
    value: dict[str, object] = json.loads(result.stdout)
    return value


def make_data(root: Path, num_classes: int = 3, clips: int = 20, dataset: str = "folder", subset: str = "test") -> Path:
    classes = tuple(f"class{number:02d}" for number in range(num_classes))
    rows = [
        VideoRow(
            key=f"{name}/v_g{clip // 4:02d}_c{clip % 4}",
            path=f"{name}/v_g{clip // 4:02d}_c{clip % 4}.avi",
            class_name=name,
            label=label,
            group=f"g{clip // 4:02d}",
            subsets=((subset if clip < 4 else "train"),) if subset else (),
            status="written",
            num_frames=30 + clip,
        )
        for label, name in enumerate(classes)
        for clip in range(clips)
    ]
    root.mkdir()
    write_manifest(
        root,
        ManifestHeader(dataset, classes, GradientCoding(), {}, {}, num_folds=int(bool(subset)), num_written=len(rows)),
        rows,
        (),
    )
    return root


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_data(tmp_path / "data")


def test_percent(data: Path) -> None:
    result = call(data, "--percent", "25")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "split p25-s0-f1  (25 %, random, seed 0, fold 1)"
    assert any(line.split()[:3] == ["labelled", "12", "3"] for line in lines)
    assert any(line.split()[:4] == ["test", "12", "3", "3"] for line in lines)
    assert sum(int(line.split()[1]) for line in lines if line.startswith("class0")) == 12
    assert max(map(len, lines)) <= 80
    assert result.stderr == f"written: {data}/splits/p25-s0-f1.parquet\n"
    assert read_split(data).labelled.sum() == 12


def test_the_same_again_changes_nothing_and_another_is_refused(data: Path) -> None:
    assert call(data, "--percent", "25").exit_code == 0
    file = data / "splits/p25-s0-f1.parquet"
    before = (file.read_bytes(), file.stat().st_mtime_ns)
    again = call(data, "--percent", "25")
    assert (again.exit_code, again.stderr) == (0, f"unchanged: {file}\n")
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before
    other = call(data, "--percent", "25", "--seed", "4", "--name", "p25-s0-f1")
    assert (other.exit_code, other.stdout) == (2, "")
    assert other.stderr.startswith("Error: ")
    assert "seed 0 there, 4 now" in other.stderr
    assert "--overwrite" in other.stderr
    assert file.read_bytes() == before[0]
    assert call(data, "--percent", "25", "--seed", "4", "--name", "p25-s0-f1", "--overwrite").stderr.startswith(
        "replaced"
    )


def test_json_is_one_object_with_everything(data: Path) -> None:
    made = facts(data, "--per-class", "2", "--unlabeled", "rest")
    assert (made["name"], made["state"], made["num_classes"]) == ("k2-s0-f1-rest", "written", 3)
    assert made["path"] == f"{data}/splits/k2-s0-f1-rest.parquet"
    assert {part: count["num_videos"] for part, count in made["parts"].items()} == {  # type: ignore[attr-defined]
        "labelled": 6,
        "unlabelled": 42,
        "validation": 0,
        "test": 12,
    }
    assert [row["labelled"] for row in made["classes"]] == [2, 2, 2]  # type: ignore[attr-defined]
    assert made["provenance"]["strategy"] == "per-class"  # type: ignore[index]
    shown = facts(data, "--show", "k2-s0-f1-rest")
    assert {name: value for name, value in made.items() if name not in ("state", "duplicates")} == shown


def test_many_classes_are_shown_as_a_histogram(tmp_path: Path) -> None:
    data = make_data(tmp_path / "many", num_classes=40)
    lines = call(data, "--percent", "25").stdout.splitlines()
    start = lines.index("labelled videos per class (40 classes)")
    histogram = [line for line in lines[start + 1 :] if line[:10].strip().replace("-", "").isdigit()]
    assert sum(int(line.split()[-1]) for line in histogram) == 40
    assert any(line.strip().startswith("fewest: class") for line in lines)
    assert max(map(len, lines)) <= 80


def test_classes_without_videos_are_counted_not_listed(data: Path) -> None:
    header = read_header(data)
    more = (*header.classes, *(f"more{number}" for number in range(40)))
    write_manifest(data, dataclasses.replace(header, classes=more), list(read_manifest(data).videos), ())
    result = call(data, "--percent", "25")
    assert "(40 of 43 classes have no video)" in result.stdout.splitlines()
    assert "more0 " not in result.stdout
    assert "note: classes without any video: 40 (more0, more1, more2, ...)" in result.stdout


def test_import_reports_and_export_gives_it_back(data: Path, tmp_path: Path) -> None:
    keys = ["class00/v_g01_c0", "class02/v_g02_c1"]
    (tmp_path / "my list.txt").write_text(f"{keys[0]} 34 0\n{keys[1]} 99 1\nclass01/gone 10 1\n")
    made = call(data, "--import", tmp_path / "my list.txt")
    assert made.exit_code == 0, made.stderr
    assert "my list.txt: 2 of 3 lines matched (not a known published list)" in made.stdout
    assert "line 3: no such video in the data set: class01/gone 10 1" in made.stdout
    assert "labels: 1 differ from the class folder (ours kept; --labels chooses)" in made.stdout
    assert "frames: 1 counts differ" in made.stdout
    assert "classes with train videos but no labelled one: 1 (class01)" in made.stdout
    assert read_split(data).name == "my-list"
    out = call(data, "--export", "mmaction-rawframes")
    assert (out.exit_code, out.stdout) == (0, f"{keys[0]} 34 0\n{keys[1]} 39 2\n")
    theirs = facts(data, "--import", tmp_path / "my list.txt", "--labels", "theirs")
    assert theirs["name"] == "my-list-theirs"
    assert theirs["import"]["num_unmatched"] == 1  # type: ignore[index]
    assert theirs["import"]["num_label_differences"] == 1  # type: ignore[index]


def test_import_of_every_part(data: Path, tmp_path: Path) -> None:
    for part, clip in (("labelled", 1), ("unlabelled", 2), ("validation", 3), ("test", 4)):
        (tmp_path / part).write_text(f"class00/v_g0{clip}_c0\n")
    given = [
        argument for part in ("unlabelled", "validation", "test") for argument in (f"--import-{part}", tmp_path / part)
    ]
    made = facts(data, "--import", tmp_path / "labelled", *given, "--name", "own")
    assert [count["num_videos"] for count in made["parts"].values()] == [1, 2, 1, 1]  # type: ignore[attr-defined]


CASES = {
    "four parts": ["--percent", "25", "--hold-out", "20"],
    "rest": ["--percent", "25", "--unlabelled", "rest"],
    "rest, four parts": ["--per-class", "2", "--unlabelled", "rest", "--hold-out", "25"],
    "whole groups": ["--percent", "40", "--by-group", "--strategy", "stratified"],
    "every video": ["--percent", "100"],
}


@pytest.mark.parametrize("form", EXPORT_FORMS)
@pytest.mark.parametrize("case", CASES)
def test_import_of_an_export_is_the_identity(data: Path, tmp_path: Path, case: str, form: str) -> None:
    """Of every part, whatever the split was drawn with."""
    assert call(data, *CASES[case], "--name", "one").exit_code == 0
    there_and_back(data, tmp_path, form, ["--unlabelled", "rest"] if "rest" in case else [])


def test_import_of_an_export_is_the_identity_of_a_test_part_set_aside(tmp_path: Path) -> None:
    data = make_data(tmp_path / "whole", subset="")
    assert call(data, "--percent", "25", "--test-percent", "20", "--hold-out", "20", "--name", "one").exit_code == 0
    assert min(read_split(data, "one").part(part).sum() for part in PARTS) > 0
    there_and_back(data, tmp_path, "csv", [])


@pytest.mark.parametrize("form", ["mmaction-rawframes", "mmaction-videos", "csv"])
def test_import_of_an_export_keeps_labels_of_others(data: Path, tmp_path: Path, form: str) -> None:
    (tmp_path / "list.txt").write_text("class00/v_g01_c0 1\nclass01/v_g01_c0 1\nclass02/v_g01_c0 2\n")
    assert call(data, "--import", tmp_path / "list.txt", "--labels", "theirs", "--name", "one").exit_code == 0
    assert read_split(data, "one").label[read_split(data, "one").labelled].tolist() == [1, 1, 2]
    there_and_back(data, tmp_path, form, ["--labels", "theirs"])


def there_and_back(data: Path, folder: Path, form: str, options: list[str]) -> None:
    """Export every part of split `one`, import the lists, and compare key by key."""
    one = read_split(data, "one")
    given: list[str | Path] = []
    for part in PARTS:
        if one.part(part).any():
            file = folder / f"{part}.list"
            done = call(data, "--export", form, "--part", part, "--name", "one", "--output", file)
            assert done.exit_code == 0, done.output
            given += ["--import" if part == "labelled" else f"--import-{part}", file]
    done = call(data, *given, *options, "--name", "again")
    assert done.exit_code == 0, done.output
    again = read_split(data, "again")
    assert again.key == one.key
    assert again.label.tolist() == one.label.tolist()
    for part in PARTS:
        assert again.part(part).tolist() == one.part(part).tolist(), part


def test_a_report_holds_every_line(data: Path, tmp_path: Path) -> None:
    lines = [f"class01/gone{number} 10 1" for number in range(12)]
    (tmp_path / "list.txt").write_text("\n".join(["class00/v_g01_c0 34 0", "class02/v_g02_c1 99 1", *lines]) + "\n")
    report = tmp_path / "report.csv"
    made = call(data, "--import", tmp_path / "list.txt", "--report", report)
    assert made.exit_code == 0
    assert "... 7 more lines without a video (--report FILE or --json lists them)" in made.stdout
    rows = list(csv.DictReader(report.read_text().splitlines()))
    assert [(row["line"], row["text"]) for row in rows if row["what"] == "unmatched"] == [
        (str(number), line) for number, line in enumerate(lines, 3)
    ]
    others = [tuple(row[name] for name in ("what", "key", "ours", "theirs")) for row in rows[12:]]
    assert others == [("label", "class02/v_g02_c1", "2", "1"), ("num_frames", "class02/v_g02_c1", "39", "99")]
    refused = call(data, "--import", tmp_path / "list.txt", "--report", tmp_path / "no/report.csv")
    assert refused.exit_code == 2
    assert "report.csv: No such file or directory" in refused.stderr


def test_percent_of_kinetics_means_six_of_every_class(data: Path, tmp_path: Path) -> None:
    kinetics = make_data(tmp_path / "k400", clips=40, dataset="kinetics400")
    made = facts(kinetics, "--percent", "1", "--strategy", "per-class")
    assert made["name"] == "k6-s0-f1"
    assert [row["labelled"] for row in made["classes"]] == [6, 6, 6]  # type: ignore[attr-defined]
    assert made["provenance"] == facts(kinetics, "--per-class", "6")["provenance"]
    for percent, expected in (("0.25", "1.5 videos of every class"), ("nan", "--percent nan"), ("0.1", "0.6 videos")):
        refused = call(kinetics, "--percent", percent, "--strategy", "per-class")
        assert refused.exit_code == 2
        assert expected in refused.stderr
    refused = call(data, "--percent", "20", "--strategy", "per-class")
    assert refused.exit_code == 2
    assert "only the Kinetics lists say how many" in refused.stderr


def test_export_to_a_file(data: Path, tmp_path: Path) -> None:
    call(data, "--percent", "25", "--name", "one")
    target = tmp_path / "list.csv"
    done = facts(data, "--export", "csv", "--part", "test", "--output", target, "--name", "one")
    assert (done["num_videos"], done["path"], done["name"]) == (12, str(target), "one")
    assert len(target.read_text().splitlines()) == 13
    target.write_text("mine")
    refused = call(data, "--export", "csv", "--output", target)
    assert refused.exit_code == 2
    assert target.read_text() == "mine"
    assert call(data, "--export", "csv", "--output", target, "--overwrite").exit_code == 0
    assert len(target.read_text().splitlines()) == 13
    assert "does not exist" in call(data, "--export", "csv", "--output", tmp_path / "no/list.csv").stderr
    assert "needs --output" in call(data, "--export", "keys", "--json").stderr


def test_list_and_compare(data: Path) -> None:
    empty = call(data)
    assert empty.exit_code == 2
    assert "has no split yet" in empty.stderr
    call(data, "--percent", "25")
    call(data, "--percent", "50")
    assert [line.split()[0] for line in call(data).stdout.splitlines()[1:]] == ["p50-s0-f1", "p25-s0-f1"]
    assert [row["name"] for row in facts(data)["splits"]] == ["p50-s0-f1", "p25-s0-f1"]  # type: ignore[attr-defined]
    compared = facts(data, "--compare", "p25-s0-f1", "p50-s0-f1")
    assert compared["parts"][0] == {"part": "labelled", "num_first": 12, "num_second": 24, "num_shared": 12}  # type: ignore[index]
    text = call(data, "--compare", "p25-s0-f1", "p50-s0-f1").stdout.splitlines()
    assert text[1].split() == ["labelled", "12", "24", "12", "100.0", "%"]


def test_show_of_a_split_for_another_data_set_fails(data: Path, tmp_path: Path) -> None:
    call(data, "--percent", "25")
    other = make_data(tmp_path / "other", clips=24)
    (other / "splits").mkdir()
    (other / "splits/p25-s0-f1.parquet").write_bytes((data / "splits/p25-s0-f1.parquet").read_bytes())
    result = call(other, "--show", "p25-s0-f1")
    assert result.exit_code == 1
    assert "error: the split was made for another data set" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--percent", "20", "--per-class", "3"], "give either --percent P or --per-class N"),
        (["--percent", "120"], "--percent 120: expected more than 0 and at most 100"),
        (["--percent", "0.1"], "is less than one"),
        (["--percent", "20", "--fold", "2"], "--fold 2: the data set at"),
        (["--percent", "20", "--test-percent", "20"], "already has a test part"),
        (["--percent", "20", "--name", "a/b"], "--name 'a/b'"),
        (["--percent", "20", "--show", "x"], "Do one thing at a time: draw, show"),
        (["--percent", "20", "--labels", "theirs"], "--labels: has no meaning with --percent"),
        (["--import", "none.txt"], "none.txt: no such file"),
        (["--import", "none.txt", "--seed", "3", "--nested"], "--nested, --seed: has no meaning with --import"),
        (["--seed", "3"], "--seed: give --percent P"),
        (["--show", "none"], "No split none"),
        (["--percent", "20", "--strategy", "fair"], "'fair' is not one of"),
        (["--percent", "many"], "'many' is not a valid float"),
    ],
)
def test_mistakes_end_with_one_message_and_code_2(data: Path, arguments: list[str], expected: str) -> None:
    result = call(data, *arguments)
    assert result.exit_code == 2
    assert expected in result.stderr
    assert result.stdout == ""
    assert not (data / "splits").exists()


def test_no_data_set(tmp_path: Path) -> None:
    result = call(tmp_path / "none", "--percent", "20")
    assert result.exit_code == 2
    assert "tgprep extract" in result.stderr


def test_out_defaults_to_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_data(tmp_path / "dataset")
    monkeypatch.chdir(tmp_path)
    assert facts("--percent", "20")["path"] == "dataset/splits/p20-s0-f1.parquet"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom cli.prep import main\nmain(['split', '--help'], standalone_mode=False)\n"
        "heavy = {'numpy', 'pyarrow', 'torch', 'pydantic', 'fsspec'} & set(sys.modules)\nsys.exit(f'{heavy} loaded' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--percent" in done.stdout
