"""Names of strangers that command a terminal: every command prints their codes, and a list for a program keeps them."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli.prep import main as tgprep
from cli.prep.progress import ExtractProgress
from cli.train import main as tgtrain
from manifests.console import echo, say, visible
from manifests.manifest_io import read_manifest
from tests.prep.support import moving_square, write_video
from tgprep.extract.workers.shards import Progress, Workload

# Title of the window, colour, C1 CSI, carriage return, erase, right-to-left override, isolate, separator, mark of order, markup.
EVIL = "\x1b]0;owned\x07\x1b[31mred\x9b2J\rgone\x08\x7f\u202eexe.\u2066\u2028\ufeff[bold]x[/bold][link=http://a]:bomb:"
COMMANDS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
FIXTURE = Path(__file__).parents[1] / "fixtures" / "old_run"


def call(main: Any, *words: object) -> Result:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    found = COMMANDS.search(done.output + done.stderr)
    assert found is None, (words, found, done.output)
    return done


def test_visible_text_keeps_what_people_read() -> None:
    kept = "a\tb\nÄé 日本 हिन्दी שלום 👩‍👩‍👧 \\ “x” [red]"
    assert visible(kept) == kept
    assert visible("\x1b[2J\x9b\u202e\udc80\r\0") == "\\u001b[2J\\u009b\\u202e\\udc80\\u000d\\u0000"
    value = {"a\x9b\x1b": "\u202e\udc80\x7f"}
    assert json.loads(visible(json.dumps(value, ensure_ascii=False))) == value


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes with names of this kind, a video that fails and a file that is skipped."""
    root = tmp_path_factory.mktemp("evil") / "videos"
    for name in (EVIL.replace("/", "|"), "plain"):
        for number in range(4):
            write_video(root / name / f"{number}{name}.avi", moving_square(5, start=number))
        (root / name / f"bad{name}.avi").write_bytes(b"no video")
    (root / "plain" / f"skip{EVIL.replace('/', '|')}.xyz").write_bytes(b"x")
    (root / "plain" / "empty").mkdir()
    return root


def test_commands_on_a_data_set(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / ("out" + EVIL.replace("/", "|"))
    done = call(tgprep, "extract", videos, out, "--threads", "1", "--videos-per-shard", "4")
    assert done.exit_code == 1
    assert "\\u001b]0;owned\\u0007" in done.output
    assert call(tgprep, "extract", videos, out, "--videos-per-shard", "4", "--log-json").exit_code == 1
    assert "\\u001b" in call(tgprep, "info", out).output
    facts = json.loads(call(tgprep, "info", out, "--json").stdout)
    assert "\x1b]0;owned\x07" in facts["path"]  # JSON: the same name, escaped
    call(tgprep, "split", out, "--percent", "50", "--strategy", "stratified", "--name", "s")
    call(tgprep, "split", out, "--show", "s")
    call(tgprep, "split", out)
    assert call(tgprep, "card", out).exit_code == 0
    assert COMMANDS.search((out / "README.md").read_text("utf-8").replace("\n", "")) is None
    assert (out / "croissant.json").read_bytes().isascii()
    listed = CliRunner().invoke(tgprep, ["split", str(out), "--export", "csv", "--name", "s", "--part", "labelled"])
    assert listed.exit_code == 0
    assert "\x1b]0;owned\x07" in listed.stdout  # of use to programs only as it is
    with (out / "shard-000000.tar").open("r+b") as shard:
        shard.truncate(5000)
    assert call(tgprep, "check", out).exit_code == 1
    assert call(tgprep, "check", out, "--repair", "--against", videos, "--threads", "1").exit_code == 0
    assert len(read_manifest(out).header.classes) == 2


def test_commands_on_a_run(tmp_path: Path) -> None:
    run = tmp_path / f"run{EVIL.replace('/', '|')}"
    shutil.copytree(FIXTURE / "run", run)
    facts = json.loads((run / "config.json").read_bytes())
    facts["data"]["root"] = str(tmp_path / f"gone{EVIL}")
    facts["data"]["classes"] = [f"{number}{EVIL}" for number, _ in enumerate(facts["data"]["classes"])]
    facts["split"]["name"] = facts["config"]["name"] = facts["config"]["description"] = EVIL
    facts["machine"]["cpu"] = facts["machine"]["host"] = facts["versions"]["torch"] = EVIL
    (run / "config.json").write_text(json.dumps(facts))
    write_video(video := tmp_path / f"{EVIL.replace('/', '|')}.avi", moving_square(12))
    (tmp_path / f"bad{EVIL.replace('/', '|')}.avi").write_bytes(b"no video")
    assert "\\u001b]0;owned" in call(tgtrain, "info", run).output
    call(tgtrain, "test", run)
    call(tgtrain, "report", run)
    done = call(tgtrain, "predict", run, video, next(tmp_path.glob("bad*")), "--views", "1x1")
    assert done.exit_code == 1
    assert "\\u001b]0;owned" in done.output


def test_recipes(tmp_path: Path) -> None:
    recipe = tmp_path / f"{EVIL.replace('/', '|')}.toml"
    recipe.write_text(
        f"description = {json.dumps(EVIL)}\npublished = {json.dumps(EVIL)}\n[data]\ndataset = {json.dumps(EVIL)}\n"
    )
    assert "\\u001b]0;owned" in call(tgtrain, "recipes", recipe).output
    recipe.write_text(f"[data]\n{json.dumps(EVIL)} = 1\nsize = {json.dumps(EVIL)}\n")
    assert call(tgtrain, "recipes", recipe).exit_code == 2
    recipe.write_text(f"extends = {json.dumps(EVIL)}\n")
    assert call(tgtrain, "recipes", recipe).exit_code == 2


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_panel_and_a_list_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stderr", shown := Terminal())
    monkeypatch.setattr(sys, "stdout", listed := Terminal())
    progress = ExtractProgress()
    progress.planned(Workload(2, 100))
    progress(Progress(0, EVIL, 3))
    progress.log("note", EVIL)
    assert progress.panel is not None
    progress.panel.draw()
    progress.close()
    say(EVIL)
    echo(EVIL, exact=True)
    for text in (shown.getvalue(), listed.getvalue()):
        assert "owned" in text
        assert not {"\x07", "\x9b", "\u202e", "\x1b]"} & set(text) | {
            part for part in ("\x1b]", "\x1b[2J") if part in text
        }
    assert ":bomb:" in shown.getvalue()
    assert "[bold]x[/bold]" in shown.getvalue()
