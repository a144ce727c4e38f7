"""What a newcomer reads: the right cause, the right cure, and a next step that works."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.common import plural
from cli.prep import main
from manifests.splits.label_split import list_splits, read_split
from tests.prep.support import moving_square, write_video


def run(*words: object, code: int = 0) -> Result:
    done = CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done


def refused(*words: object) -> str:
    (line,) = [line for line in run(*words, code=2).output.splitlines() if line.startswith("Error: ")]
    return line


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of two classes of HMDB51 and one of nobody's, videos without a label, and the data set of the classes."""
    root = tmp_path_factory.mktemp("next")
    for number in range(12):
        name = ("walk", "run", "cartwheeling")[number % 3]
        write_video(root / f"videos/{name}/v{number:02d}.avi", moving_square(5, start=number))
    for number in range(2):
        write_video(root / f"plain/unlabelled/u{number}.avi", moving_square(5, start=20 + number))
    done = run("extract", root / "videos", root / "set", "--threads", 1, "--dataset", "folder")
    (root / "said.txt").write_text(done.output)
    return root


def test_too_many_skipped_inputs_are_an_error_with_a_cure(base: Path, tmp_path: Path) -> None:
    words = ("extract", base / "videos", tmp_path / "hmdb", "--threads", 1, "--dataset", "hmdb51")
    done = run(*words, code=1)
    assert "12 inputs = 8 written + 0 failed + 4 skipped" in done.output
    (wrong,) = [line for line in done.output.splitlines() if line.startswith("Wrong: ")]
    assert "33 % of the inputs were skipped, more than 10 %" in wrong
    assert "If these are not the videos of hmdb51: --dataset folder" in wrong
    assert "Next:" not in done.output
    again = run(*words, "--json", code=1)
    assert json.loads(again.stdout)["too_many_skipped"] is True
    help_text = run("extract", "--help").output
    assert "over a tenth of the inputs was skipped" in " ".join(help_text.split())


def test_the_next_step_of_own_folders_makes_a_split_with_a_test_part(base: Path) -> None:
    (step,) = re.findall(r"^Next: (tgprep .*?)(?: \(.*)?$", (base / "said.txt").read_text(), re.M)
    assert "--test-percent 20" in step
    run(*shlex.split(step)[1:])
    assert read_split(base / "set").test.any()
    assert "have no video" not in (base / "said.txt").read_text()


def test_few_classes_of_a_list_hint_at_present_ones_and_missing_ones_are_named_once(base: Path, tmp_path: Path) -> None:
    lists = tmp_path / "annotations"
    lists.mkdir()
    for number, name in enumerate(("walk", "run")):
        for fold in (1, 2, 3):
            rows = [f"v{place:02d}.avi {1 + (place > 6)}" for place in range(number, 12, 3)] + ["absent.avi 1"]
            (lists / f"{name}_test_split{fold}.txt").write_text("\n".join(rows) + "\n")
    videos = tmp_path / "videos"
    for name in ("walk", "run"):
        (videos / name).parent.mkdir(exist_ok=True)
        (videos / name).symlink_to(base / "videos" / name)
    done = run("extract", videos, tmp_path / "set", "--threads", 1, "--dataset", "hmdb51", "--annotations", lists)
    assert done.output.count("have no video") == 1
    assert "are not in the folder" not in done.output
    assert len(re.findall(r"listed videos", done.output)) == 1
    done = run("extract", videos, tmp_path / "of_51", "--threads", 1, "--dataset", "hmdb51")
    assert done.output.count("49 classes of 51 have no video") == 1
    assert "--classes present, into another folder, leaves them out" in done.output


def test_after_videos_without_a_label_alone_the_next_step_is_to_add_labelled_ones(base: Path, tmp_path: Path) -> None:
    done = run("extract", base / "plain", tmp_path / "set", "--threads", 1)
    assert "Next: these videos have no label" in done.output
    assert "--add" in done.output
    assert "tgprep split" not in done.output
    assert "need" in refused("split", tmp_path / "set", "--percent", 20)


def test_causes_and_cures(base: Path, tmp_path: Path) -> None:
    for command in ("extract", "plan"):
        assert "/nonexistent does not exist" in refused(command, "/nonexistent", tmp_path / "out")
        said = refused(command, base / "set", tmp_path / "out")
        assert "is a data set that tgprep made" in said
        assert "packed archives" not in said
    empty = tmp_path / "empty"
    empty.mkdir()
    said = refused("check", base / "set", "--against", empty)
    assert "holds none of the 12 sources" in said
    table = tmp_path / "list.csv"
    table.write_text("path,label\n.hidden/a.avi,walk\n")
    said = refused("extract", base / "videos", tmp_path / "out", "--dataset", "csv", "--annotations", table)
    assert "First: ." not in said
    assert "()" not in said
    assert re.search(r"VIDEOS holds \S+\.avi", said)
    frames = tmp_path / "frames" / "video"
    frames.mkdir(parents=True)
    (frames / "img_00001.jpg").write_bytes(b"")
    said = refused("import-rawframes", tmp_path / "frames", tmp_path / "out")
    assert "csv --annotations FILE.csv" not in said
    assert "--unlabelled" not in said


def test_a_web_address_is_no_folder_of_videos(tmp_path: Path) -> None:
    from tgprep.scan.files import Listing, _other_place

    assert "is a web address" in _other_place("http://example.org/videos", Listing())  # type: ignore[arg-type]


def test_amounts_that_are_hardly_meant(base: Path) -> None:
    done = run("split", base / "set", "--per-class", 1000, "--overwrite")
    assert (
        "note: --per-class 1000: every class has fewer train videos (at most 4), all of which are labelled"
        in done.output
    )
    assert "Did you mean --percent 20?" in refused("split", base / "set", "--percent", 0.2)
    done = run("split", base / "set", "--percent", 0.5, "--strategy", "stratified")
    assert "Did you mean --percent 50?" in done.output
    assert "Did you mean" not in run("split", base / "set", "--percent", 50).output


def test_a_split_that_is_asked_for_again_is_the_newest(base: Path) -> None:
    run("split", base / "set", "--percent", 50, "--seed", 1)
    run("split", base / "set", "--percent", 50, "--seed", 2)
    before = (base / "set/splits/p50-s1-f1.parquet").read_bytes()
    assert list_splits(base / "set")[0] == "p50-s2-f1"
    assert "unchanged:" in run("split", base / "set", "--percent", 50, "--seed", 1).output
    assert list_splits(base / "set")[0] == "p50-s1-f1"
    assert (base / "set/splits/p50-s1-f1.parquet").read_bytes() == before


def test_one_of_a_thing_is_not_called_by_the_plural() -> None:
    assert [plural(number, "class", "classes") for number in (0, 1, 2)] == ["0 classes", "1 class", "2 classes"]
    assert plural(1, "video") == "1 video"
