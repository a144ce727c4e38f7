"""`tgprep targets` and `tgprep split --grow` as commands: what they print and write, and that bad input writes nothing."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cli.prep import main
from manifests.splits.label_split import make_split, write_split
from manifests.splits.settings import SplitSettings
from manifests.targets.target_file import targets_digest, write_targets
from tests.manifests.targets.support import manifest_of, targets_of


@pytest.fixture
def root(tmp_path: Path) -> Path:
    manifest = manifest_of(tmp_path / "set")
    write_split(manifest.root, make_split(manifest, SplitSettings(per_class=1, strategy="per-class", name="one")))
    return tmp_path / "set"


def call(*words: object, code: int = 0) -> str:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == code, done.output
    return done.output


def json_of(*words: object) -> dict[str, Any]:
    done = CliRunner().invoke(main, [*(str(word) for word in words), "--json"])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def files(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()
    }


def test_export_and_import_give_the_same_numbers(root: Path, tmp_path: Path) -> None:
    made = targets_of(manifest_of(tmp_path / "other"))
    write_targets(root, made)
    for name in ("a.csv", "b.parquet"):
        call("targets", root, "--export", "made", "--output", tmp_path / name)
        facts = json_of("targets", root, "--import", tmp_path / name, "--name", f"from-{name[0]}")
        assert facts["digest"] == targets_digest(made)
        assert facts["state"] == "written"
        assert (
            json_of("targets", root, "--import", tmp_path / name, "--name", f"from-{name[0]}")["state"] == "unchanged"
        )
    assert (tmp_path / "a.csv").read_text() == call("targets", root, "--export", "made")
    shown = call("targets", root, "--show", "from-a")
    assert hashlib.sha256((tmp_path / "a.csv").read_bytes()).hexdigest() in shown
    assert "targets are of validation and test videos: no run with this split learns from them" in shown
    assert "from-b" in call("targets", root)
    assert "Same most likely class: 100.0 %" in call("targets", root, "--compare", "made", "from-b")


def test_one_class_a_video_that_is_the_label_is_said(root: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("key,label\nArchery/v_00,Archery\nCut/v_01,Cut\n")
    assert "warning: these targets are one class a video" in call("targets", root, "--import", tmp_path / "labels.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("key,Archery,Basket Ball,Cut\nArchery/v_00,1,0,0\nCut/v_77,1,0,0\n", "bad.csv:3: 'Cut/v_77'"),
        ("key,Archery,Basket Ball,Cut\nArchery/v_00,1,0,nan\n", "bad.csv:2"),
        ("key,Archery,Dive,Cut\nArchery/v_00,1,0,0\n", "classes differ"),
        ("", "bad.csv"),
    ],
)
def test_bad_input_writes_nothing(root: Path, tmp_path: Path, content: str, message: str) -> None:
    write_targets(root, targets_of(manifest_of(tmp_path / "other"), "bad"))
    before = files(root)
    (tmp_path / "bad.csv").write_text(content)
    said = call("targets", root, "--import", tmp_path / "bad.csv", "--name", "bad", "--overwrite", code=2)
    assert message in said
    assert "Traceback" not in said
    assert files(root) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--show", "made", "--compare", "a", "b"], "cannot be combined"),
        (["--per-class"], "--per-class: give --import FILE"),
        (["--show", "made", "--per-class"], "--per-class: give --least-sure N too"),
        (["--show", "made", "--temperature", "2"], "--temperature: has no meaning with --show"),
        (["--show", "none"], "No targets none"),
        (["--import", "x.csv", "--name", "../x"], "--name '../x': expected"),
        (["--export", "made", "--json"], "needs --output"),
        ([], "has no targets yet"),
    ],
)
def test_wrong_options(root: Path, tmp_path: Path, words: list[str], message: str) -> None:
    if words:
        write_targets(root, targets_of(manifest_of(tmp_path / "other")))
    assert message in call("targets", root, *words, code=2)


def test_the_least_sure_become_labels_of_a_grown_split(root: Path, tmp_path: Path) -> None:
    write_targets(root, targets_of(manifest_of(tmp_path / "other")))
    facts = json_of("targets", root, "--show", "made", "--least-sure", 2, "--by", "margin")
    keys = [video["key"] for video in facts["videos"]]
    assert len(keys) == 2
    (tmp_path / "ask.txt").write_text("other\n")
    list_file = (
        "targets",
        root,
        "--show",
        "made",
        "--least-sure",
        2,
        "--by",
        "margin",
        "--output",
        tmp_path / "ask.txt",
    )
    assert "exists with other content" in call(*list_file, code=2)
    call(*list_file, "--overwrite")
    assert (tmp_path / "ask.txt").read_text().split() == keys
    known = [key for key in keys if not key.startswith("unlabelled/")]
    (tmp_path / "ask.csv").write_text("key,label\n" + "".join(f"{key},{key.partition('/')[0]}\n" for key in known))
    grown = json_of("split", root, "--grow", tmp_path / "ask.csv")
    assert grown["name"] == f"one-n{3 + len(known)}"
    assert grown["grow"]["num_added"] == len(known)
    assert grown["parts"]["test"]["num_videos"] == 3
    assert "grown 1 times" in call("split", root, "--show", grown["name"])
    (tmp_path / "ask.csv").write_text("key,label\nCut/v_03,Cut\n")
    before = files(root)
    said = call("split", root, "--grow", tmp_path / "ask.csv", "--parent", "one", code=2)
    assert "ask.csv:2: Cut/v_03 is in the test part of split one" in said
    assert files(root) == before
