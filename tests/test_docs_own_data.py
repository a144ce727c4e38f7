"""docs/own_data.md: its commands run in the order of the page, on real clips of two classes, and do what the text promises."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import cli.prep
import cli.train
from manifests.manifest_io import read_manifest
from manifests.records import NO_LABEL
from manifests.splits.label_split import read_split
from tests.prep.support import moving_square, write_video
from tests.train.run.sources import r3d_state, torchvision_name
from tests.train.support import SMALL
from tgtrain.run.folder import read_facts

PAGE = (Path(__file__).parents[1] / "docs" / "own_data.md").read_text("utf-8")
PROGRAMS = {"tgprep": cli.prep.main, "tgtrain": cli.train.main}
# Smaller networks and pictures than those of the recipes.
LITTLE = [word for setting in (*SMALL, "model.depth=10", "data.area=[0.5,1]") for word in ("--set", setting)]


def blocks(language: str, heading: str) -> list[str]:
    """The code blocks of a section and its subsections."""
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


def follow(block: str, *more: str) -> list[str]:
    """Run the commands of a block, those of `tgtrain` with more options; what each prints."""
    said = []
    for line in block.splitlines():
        program, *words = shlex.split(line)
        extra = more if program == "tgtrain" else ()
        done = CliRunner().invoke(PROGRAMS[program], [*words, *extra], catch_exceptions=False)
        assert done.exit_code == 0, f"{line}\n{done.output}"
        said.append(done.output)
    return said


@pytest.fixture(scope="module")
def own(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of the page: videos/ with a folder unlabelled/, and clips/, which holds a copy of a labelled video."""
    root, clips = tmp_path_factory.mktemp("own"), shared / "actions/weizmann10"
    for name in ("run", "walk"):
        found = sorted((clips / name).glob("*.avi"))
        for place, folder in ((slice(0, 4), name), (slice(4, 5), "unlabelled")):
            (root / "videos" / folder).mkdir(parents=True, exist_ok=True)
            for clip in found[place]:
                shutil.copy(clip, root / "videos" / folder)
    (root / "clips").mkdir()
    shutil.copy(min((clips / "walk").glob("*.avi")), root / "clips/from_the_web.avi")
    write_video(root / "clips/film1/other.mp4", moving_square(20, 96, 80), rate=10)
    return root


def test_videos_without_a_label(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own)
    (first,), (second,) = blocks("bash", "Videos without a label"), blocks("bash", "Near-duplicates")
    _, drawn, _ = follow(first, *LITTLE)
    assert "4 of the unlabelled videos have no label" in drawn
    manifest = read_manifest("dataset")
    rows = {row.path: row for row in manifest.videos if row.label == NO_LABEL}
    assert len(rows) == 4
    assert manifest.header.classes == ("run", "walk")
    assert rows[".unlabelled/clips/film1/other.mp4"].group == "film1"
    assert {row.class_name for row in rows.values()} == {""}
    assert all(row.key.startswith("unlabelled/") for row in rows.values())
    (run,) = (own / "runs").iterdir()
    assert [path.name for path in (run / "checkpoints").glob("step-*.pt")] == ["step-00000001.pt"]
    checked, clean, _ = follow(second)
    assert "unlabelled/from_the_web" in checked
    assert "left out as near-copies of others: 1 of the videos without a label" in clean
    kept = {row.key for row in rows.values()} - {"unlabelled/from_the_web"}
    assert {
        key for key in read_split("dataset", "clean").keys_of("unlabelled") if key.startswith("unlabelled/")
    } == kept
    assert "near-copy of" in Path("preview.html").read_text()


def test_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (command,), (table,) = (blocks(language, "Segments of long videos") for language in ("bash", "text"))
    (tmp_path / "segments.csv").write_text(table)
    for name, seconds in (("match_1.mp4", 26), ("match_2.mkv", 10), ("short.mp4", 3)):
        write_video(tmp_path / "videos" / name, moving_square(4 * seconds), rate=4)
    follow(command)
    rows = {row.key: row.num_frames for row in read_manifest("dataset").videos}
    assert rows == {
        "serve/match_1_000012_000022": 40,
        "smash/match_1_000018-5_000024-25": 23,
        "serve/match_2_000000_000009": 36,
        "smash/short": 12,
    }


def test_weights(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own)
    if not Path("dataset").exists():
        follow(blocks("bash", "Videos without a label")[0], *LITTLE)
    torch.save(r3d_state(torchvision_name, blocks=1), "r3d_18.pth")
    (command,) = blocks("bash", "Weights to start from")
    (recipe,) = blocks("toml", "Weights to start from")
    Path("mine.toml").write_text(recipe.replace("/data/", ""))
    more = ("dataset", "--split", "p50-s0-f1-t25", "--max-steps", "1", *LITTLE)
    (said,) = follow(command, *more, "--out", "weights")
    said = " ".join(said.split())  # prose is folded
    assert "(names of torchvision, sha256 " in said
    assert "classifier new: 400 classes there, 2 here" in said
    follow("tgtrain run --recipe mine.toml", *more, "--out", "mine")
    for folder in ("weights", "mine"):
        assert [row.network for row in read_facts(Path(folder)).weights] == ["rgb", "tg"]
