"""Videos without a label from `tgprep extract` to every reader: killed, in tasks, added later, split, checked, repaired, exported."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli.prep import main
from manifests.manifest_io import read_manifest
from manifests.records import NO_LABEL, WRITTEN
from manifests.splits.check import check_split
from manifests.splits.label_split import read_split
from tests.cli.prep.support import LONG_REPEATS, SLOW, kill_after
from tests.conftest import Reliability
from tests.extraction import call, start, tree, wait_until
from tests.prep.support import moving_square, write_video

Tree = dict[str, str]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VIDEOS with train/, test/ and a reserved folder, and two folders of other sizes and rates; one file is damaged."""
    root = tmp_path_factory.mktemp("own")
    for number in range(12):
        subset = "test" if number % 3 == 0 else "train"
        write_video(
            root / f"videos/{subset}/class{number % 2}/v_g{number:02d}_c01.avi",
            moving_square(6 + number % 3, start=number),
        )
    for number in range(3):
        write_video(root / f"videos/train/unlabelled/u{number}.avi", moving_square(7, start=20 + number))
        write_video(root / f"pool/film{number}/c.mp4", moving_square(9, 96, 80, start=30 + number), rate=10 + number)
        write_video(root / f"later/c{number}.avi", moving_square(5, 32, 48, start=40 + number))
    (root / "pool/bad.avi").write_bytes(b"no video")
    return root


def run(*arguments: str | Path | int, code: int = 0) -> Result:
    result = CliRunner().invoke(main, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def refused(*arguments: str | Path) -> str:
    """The one message of a command that ends with code 2."""
    (line,) = [line for line in run(*arguments, code=2).stderr.splitlines() if line.startswith("Error: ")]
    return line


def facts(*arguments: str | Path | int, code: int = 0) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(run(*arguments, "--json", code=code).stdout)
    return value


@pytest.fixture(scope="module")
def made(folders: Path) -> Path:
    """The data set of VIDEOS and pool/, and a split."""
    out = folders / "out"
    account = facts("extract", folders / "videos", out, "--unlabelled", folders / "pool", "--threads", 1, code=1)
    assert (account["num_written"], account["num_failed"], account["num_without_label"]) == (18, 1, 6)
    assert [entry["path"] for entry in account["failed"]] == [".unlabelled/pool/bad.avi"]
    run("split", out, "--percent", 50)
    return out


def test_rows_and_split(made: Path) -> None:
    manifest = read_manifest(made)
    assert manifest.header.classes == ("class0", "class1")
    pool = {row.key for row in manifest.videos if row.label == NO_LABEL and row.status == WRITTEN}
    assert len(pool) == 6
    assert {row.group for row in manifest.videos if row.key in pool} == {"u0", "u1", "u2", "film0", "film1", "film2"}
    assert len({(row.width, row.height, row.fps) for row in manifest.videos if row.key in pool}) == 4
    for options in (
        (),
        ("--unlabelled", "rest"),
        ("--unlabelled", "rest", "--hold-out", "20"),
        ("--strategy", "stratified"),
    ):
        name = facts("split", made, "--percent", "50", *options)["name"]
        split = read_split(made, name)
        assert pool <= set(split.keys_of("unlabelled"))
        for part in ("labelled", "validation", "test"):
            assert pool.isdisjoint(split.keys_of(part))
        assert {key for key, label in zip(split.key, split.label, strict=True) if label == NO_LABEL} == pool
        assert not [problem for problem in check_split(split, manifest) if problem.level == "error"]


def test_the_pool_moves_no_label(folders: Path, made: Path, tmp_path: Path) -> None:
    """The same videos are labelled, held out and tested with the pool and without it."""
    alone = tmp_path / "videos"
    shutil.copytree(folders / "videos", alone, ignore=shutil.ignore_patterns("unlabelled"))
    run("extract", alone, tmp_path / "out", "--threads", 1)
    assert read_manifest(tmp_path / "out").videos.num_without_label == 0
    assert "label" not in (tmp_path / "out/README.md").read_text().replace("labelled", "")
    for options in (("--percent", "30", "--hold-out", "20"), ("--per-class", "1"), ("--percent", "50", "--by-group")):
        ours, theirs = (read_split(out, facts("split", out, *options)["name"]) for out in (made, tmp_path / "out"))
        for part in ("labelled", "validation", "test"):
            assert ours.keys_of(part) == theirs.keys_of(part)
        more = set(ours.keys_of("unlabelled")) - set(theirs.keys_of("unlabelled"))
        assert {key.split("/")[0] for key in more} == {"unlabelled"}


def test_every_reader_counts_them(made: Path, tmp_path: Path) -> None:
    assert facts("info", made)["num_without_label"] == 6
    assert facts("info", made)["num_classes"] == 2
    assert facts("info", made)["videos_per_class"] == {"min": 6, "median": 6, "mean": 6.0, "max": 6}
    assert "no label    6 videos" in run("info", made).stdout
    report = facts("check", made, "--deep")
    assert report["sound"]
    assert report["num_without_label"] == 6
    assert "6 of the videos have no label: unlabelled in every split" in report["notes"]
    assert facts("split", made, "--show", "p50-s0-f1")["num_without_label"] == 6
    assert "6 of the unlabelled videos have no label" in run("split", made, "--show", "p50-s0-f1").stdout
    assert "6 of the videos have no label" in (made / "README.md").read_text()
    for more in ((), ("--split", "p50-s0-f1")):
        run("preview", made, "--output", tmp_path / "page.html", *more)
        page = (tmp_path / "page.html").read_text()
        assert page.count('"class":"(no label)","label":-1') == 6
        assert '"numWithoutLabel":6' in page


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, LONG_REPEATS))])
def test_killed_and_finished(
    folders: Path,
    modules: Path,
    slow: Tree,
    tmp_path: Path,
    seed: int,
    reliability: Reliability,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same command finishes; one without the folders of the plan is refused, and the plan stays."""
    out, moment = tmp_path / "out", random.Random(seed).uniform(0, 1.5)
    alone = ("extract", folders / "videos", out, *SLOW)
    arguments = (*alone, "--unlabelled", folders / "pool")
    killed = start(*arguments, path=modules, FAKE_SECONDS="0.06")
    wait_until((out / ".tgprep/plan.json").exists)
    kill_after(killed, moment)
    plan = (out / ".tgprep/plan.json").read_bytes()
    monkeypatch.syspath_prepend(modules)
    assert "Give the same folder again: --unlabelled PATH/pool." in refused(*alone)
    assert (out / ".tgprep/plan.json").read_bytes() == plan
    done = call(*arguments, path=modules)
    assert done.returncode == 0, done.stderr
    assert tree(out) == slow
    reliability.record(
        "Extraction", "kill -9 while videos without a label are extracted, then the same command",
        num_kills=1, at_seconds=[moment], differing_files=0, lost_videos=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def slow(folders: Path, modules: Path, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    out = tmp_path_factory.mktemp("slow") / "out"
    done = call("extract", folders / "videos", out, "--unlabelled", folders / "pool", *SLOW, path=modules)
    assert done.returncode == 0, done.stderr
    return tree(out)


def test_array_jobs_give_the_same_bytes(folders: Path, modules: Path, slow: Tree, tmp_path: Path) -> None:
    for task in range(2):
        arguments = ("extract", folders / "videos", tmp_path / "out", "--unlabelled", folders / "pool", *SLOW)
        assert call(*arguments, "--num-tasks", "2", "--task-id", str(task), path=modules).returncode == 0
    assert tree(tmp_path / "out") == slow


def test_more_are_added_later(folders: Path, made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(made, out)
    before, old = read_manifest(out), {name: digest for name, digest in tree(out).items() if name.endswith(".tar")}
    account = facts(
        "extract", folders / "videos", out, "--add", "--unlabelled", folders / "later", "--threads", 1, code=1
    )
    assert (account["num_written"], account["num_without_label"]) == (21, 9)
    manifest = read_manifest(out)
    assert old.items() <= tree(out).items()
    assert manifest.header.classes == before.header.classes
    assert "9 of the videos have no label" in (out / "README.md").read_text()
    rows = {row.path: row for row in manifest.videos}
    assert all(rows[row.path] == row for row in before.videos)
    assert sorted(set(rows) - {row.path for row in before.videos}) == [f".unlabelled/later/c{n}.avi" for n in range(3)]
    assert facts("extract", folders / "videos", out, "--add", "--unlabelled", folders / "later", code=1)[
        "already_finished"
    ]
    # Another folder of the same name is not taken for the first one.
    write_video(tmp_path / "later/c0.avi", moving_square(30))
    adding = ("extract", folders / "videos", out, "--add", "--unlabelled", tmp_path / "later")
    assert "another folder of the name later" in refused(*adding)
    # Failed videos of such a folder are tried again, if it is given.
    retrying = ("extract", folders / "videos", out, "--retry-failed")
    assert "Give the same folder again: --unlabelled PATH/pool" in refused(*retrying)


def test_unlabelled_videos_first_and_labelled_ones_later(folders: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("extract", folders / "later", out, "--unlabelled", folders / "later", "--threads", 1)
    assert read_manifest(out).header.classes == ()
    assert facts("check", out, "--deep")["sound"]
    assert facts("info", out)["num_classes"] == 0
    run("preview", out, "--output", tmp_path / "page.html")
    said = refused("split", out, "--percent", "50")
    assert "holds 3 videos without a label and no other: a split needs labelled ones. Add them" in said
    run("extract", folders / "videos", out, "--add", "--threads", 1)
    manifest = read_manifest(out)
    assert (manifest.header.classes, manifest.header.num_folds, manifest.videos.num_without_label) == (
        ("class0", "class1"),
        1,
        6,
    )
    assert facts("check", out, "--deep")["sound"]
    assert len(read_split(out, facts("split", out, "--percent", "50")["name"]).keys_of("test")) == 4


def test_shards_are_repaired_and_sources_compared(folders: Path, made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(made, out)
    shard = next(row.shard for row in read_manifest(out).videos if row.path.startswith(".unlabelled/") and row.shard)
    whole = (out / shard).read_bytes()
    (out / shard).write_bytes(whole[:5000] + b"!" + whole[5001:])
    both = ("--against", folders / "videos", "--unlabelled", folders / "pool")
    assert facts("check", out, *both, "--repair")["repaired"] == [shard]
    assert (out / shard).read_bytes() == whole
    assert facts("check", out, *both)["num_sources"] == 18
    said = refused("check", out, "--against", folders / "videos")
    assert "Give the same folder again: --unlabelled PATH/pool" in said


def test_lists_and_frames_leave_and_come_back(made: Path, tmp_path: Path) -> None:
    split = read_split(made, "p50-s0-f1")
    lists = {}
    for part in ("labelled", "unlabelled", "test"):
        lists[part] = tmp_path / f"{part}.txt"
        run(
            "split",
            made,
            "--export",
            "mmaction-rawframes",
            "--name",
            "p50-s0-f1",
            "--part",
            part,
            "--output",
            lists[part],
        )
    assert lists["unlabelled"].read_text().count(" -1\n") == 6
    more = ("--import-unlabelled", lists["unlabelled"], "--import-test", lists["test"])
    for options in ((), more, ("--unlabelled", "rest")):
        again = read_split(
            made,
            facts("split", made, "--import", lists["labelled"], "--name", "again", "--overwrite", *options)["name"],
        )
        assert again.keys_of("labelled") == split.keys_of("labelled")
        assert len([key for key in again.keys_of("unlabelled") if key.startswith("unlabelled/")]) == 6
        assert set(again.keys_of("unlabelled")) == set(split.keys_of("unlabelled")) or "rest" in options
    # A list cannot make a video without a label a labelled or tested one.
    named = tmp_path / "named.txt"
    named.write_text(lists["labelled"].read_text() + "unlabelled/u0 7 1\n")
    imported = facts("split", made, "--import", named, "--name", "named")["import"]
    assert [entry["reason"] for entry in imported["unmatched"]] == [
        "has no label in the data set, and can be unlabelled only"
    ]
    named.write_text("unlabelled/u0 7 1\n")
    assert "can be unlabelled only" in refused("split", made, "--import", named)
    # Frames out and in again: the same videos have no label.
    run("split", made, "--materialise", "p50-s0-f1", "--output", tmp_path / "plain")
    run("export", made, tmp_path / "frames")
    run("import-rawframes", tmp_path / "frames", tmp_path / "imported")
    ours, theirs = read_manifest(made), read_manifest(tmp_path / "imported")
    assert theirs.header.classes == ours.header.classes
    assert {row.key: (row.label, row.class_name) for row in theirs.videos} == {
        row.key: (row.label, row.class_name) for row in ours.videos if row.status == WRITTEN
    }


def test_a_changed_split_cannot_test_them(made: Path, tmp_path: Path) -> None:
    manifest, split = read_manifest(made), read_split(made, "p50-s0-f1")
    place = split.key.index("unlabelled/u0")
    for part in ("labelled", "test", "validation"):
        for label in (NO_LABEL, 1):
            flags, labels = split.part(part).copy(), split.label.copy()
            flags[place], labels[place] = True, label
            changed = dataclasses.replace(split, **{part: flags}, label=labels)
            kinds = {problem.kind for problem in check_split(changed, manifest) if problem.level == "error"}
            assert ("no-label" in kinds) == ((part, label) != ("labelled", 1))  # which a list may say
    labels = split.label.copy()
    labels[split.key.index(split.keys_of("labelled")[0])] = NO_LABEL
    kinds = {problem.kind for problem in check_split(dataclasses.replace(split, label=labels), manifest)}
    assert "label-range" in kinds
