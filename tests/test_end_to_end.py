"""All steps by the commands alone: on a sample rendered here, and the three commands of the README on real UCF101 clips."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(sys.executable).parent


def command(folder: Path, *words: str, expected: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a console script in a folder, as a user would."""
    environment = {**os.environ, "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(list(words), cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == expected, f"{' '.join(words)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def test_from_videos_to_report_on_a_sample(tmp_path: Path) -> None:
    command(tmp_path, "tgprep", "sample", "--num-classes", "2", "--num-groups", "4", "--clips-per-group", "1")
    extracted = command(tmp_path, "tgprep", "extract", "--threads", "2", "--json")
    account = json.loads(extracted.stdout)
    assert (account["num_inputs"], account["num_written"], account["num_failed"]) == (8, 8, 0)
    command(tmp_path, "tgprep", "split", "--percent", "50", "--strategy", "stratified")
    info = json.loads(command(tmp_path, "tgprep", "info", "--json").stdout)
    assert (info["dataset"], info["num_written"], len(info["subsets_per_fold"])) == ("ucf101", 8, 3)
    small = [
        "--set",
        "optimiser.epochs=2",
        "--set",
        "batch.labelled=2",
        "--set",
        "batch.unlabelled=2",
        "--set",
        "data.size=32",
    ]
    small += ["--set", "precise_bn.batches=1", "--set", "evaluate.every_epochs=1"]
    trained = command(tmp_path, "tgtrain", "run", *small, "--json")
    assert "recipe demo" in trained.stderr
    outcome = json.loads(trained.stdout)
    assert outcome["step"] == outcome["num_steps"] > 0
    assert (tmp_path / outcome["run"]).name == "demo-p50-stratified-s0-f1"
    tested = json.loads(command(tmp_path, "tgtrain", "test", "--json").stdout)
    assert tested["num_videos"] == 2
    assert 0 <= tested["top1@3x1"] <= 1
    page = Path(command(tmp_path, "tgtrain", "report").stdout.strip())
    assert "top1@3x1" in (tmp_path / page).read_text(encoding="utf-8")


def test_three_commands_of_readme_on_real_clips(shared: Path, tmp_path: Path) -> None:
    for class_folder in sorted((shared / "ucf101_3class" / "UCF-101").iterdir()):
        (tmp_path / "videos" / class_folder.name).mkdir(parents=True)
        clips = sorted(class_folder.iterdir())
        chosen = clips[:2] + [
            clip for clip in clips if "_g08_" in clip.name or "_g12_" in clip.name or "_g20_" in clip.name
        ]
        for clip in chosen:
            shutil.copy(clip, tmp_path / "videos" / class_folder.name)
    shutil.copytree(shared / "annotations" / "ucf101", tmp_path / "annotations")
    extracted = command(tmp_path, "tgprep", "extract", "--threads", "2")
    assert "detected data set ucf101" in extracted.stderr
    split = command(tmp_path, "tgprep", "split", "--percent", "20")
    assert "p20-s0-f1" in split.stdout
    trained = command(tmp_path, "tgtrain", "run")
    if "no GPU here" not in trained.stderr:
        assert "fewer than 40 unlabelled videos" in trained.stderr
    assert (tmp_path / "runs" / "demo-p20-s0-f1" / "config.json").is_file()
    assert "resumed" not in trained.stderr
    again = command(tmp_path, "tgtrain", "run")
    assert "nothing to do" in again.stderr
    result = json.loads(command(tmp_path, "tgtrain", "test", "--views", "10x3", "--json").stdout)
    assert {"top1@10x3", "top5@10x3", "mean_class@10x3"} <= set(result)
    assert result["num_videos"] == 6
    report = command(tmp_path, "tgtrain", "report")
    assert (tmp_path / report.stdout.strip()).stat().st_size > 50_000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("tgprep", "extract", "nowhere"), "nowhere"),
        (("tgprep", "split", "--percent", "20"), "No data set at dataset"),
        (("tgprep", "info", "nowhere"), "No data set at nowhere"),
        (("tgprep", "extrct"), "Did you mean `extract`?"),
        (("tgtrain", "run"), "No data set at dataset"),
        (("tgtrain", "test"), "No run below runs"),
        (("tgtrain", "test", "nowhere"), "nowhere is no run"),
        (("tgtrain", "recipes", "ucf101-02"), "Nearest: "),
        (("tgprep", "extract", "--quality", "101"), "--quality"),
    ],
)
def test_mistakes_get_one_message_and_exit_code_2(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    done = command(tmp_path, *words, expected=2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
