"""`tgprep extract` on a terminal: the panel fits, survives failures, and Ctrl-C ends it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.extraction import BACKENDS, wait_until
from tests.terminal import Terminal

LONG = "a_name_that_is_much_too_long_for_a_narrow_terminal_" * 2
HOW = ("--decoder", "fake_backends:open_video", "--threads", "3", "--videos-per-shard", "3", "--dataset", "folder")


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """24 videos, of which every third cannot be decoded."""
    (tmp_path / "fake_backends.py").write_text(BACKENDS)
    for number in range(24):
        name = f"refuse{number:02d}" if number % 3 == 0 else f"v{number:02d}_{LONG if number % 3 == 1 else ''}"
        path = tmp_path / "videos" / "some class" / f"{name}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number + 1]) * (10 + number))
    return tmp_path / "videos"


@pytest.fixture
def terminal() -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for entry in opened:
        entry.close()


@pytest.mark.parametrize("columns", [80, 200])
def test_the_panel_fits_the_terminal_and_survives_failures(
    videos: Path, tmp_path: Path, terminal: list[Terminal], columns: int
) -> None:
    run = Terminal(columns, "extract", videos, tmp_path / "out", *HOW, path=tmp_path, FAKE_SECONDS="0.06")
    terminal.append(run)
    assert run.read_to_the_end() == 1
    assert max(map(len, run.lines)) <= columns
    failed = [line for line in run.lines if line.startswith("failed: some class/refuse")]
    assert len(failed) == 8
    assert all(line.endswith(": it does not want to") for line in failed)
    panel = [line for line in run.lines if " of 24 videos, " in line]
    counts = [int(re.search(r"(\d+) of 24 videos", line)[1]) for line in panel]  # type: ignore[index]
    assert counts == sorted(counts)
    assert len(set(counts)) > 4
    assert any(" left, " in line for line in panel)
    assert any("starting workers for 24 videos" in line for line in run.lines)
    whole_bar = rf"(?<![━╸╺])[━╸╺]{{{columns}}}(?![━╸╺])"
    assert any(re.search(whole_bar, line) for line in run.lines)
    workers = [line for line in run.lines if re.match(r"[123]  some_class/", line)]
    assert {line[0] for line in workers} == {"1", "2", "3"}
    assert any("…" in line for line in workers)
    assert any("24 inputs = 16 written + 8 failed + 0 skipped" in line for line in run.lines)
    assert run.shown.rindex("\x1b[?25h") > run.shown.rindex("\x1b[?25l")  # the cursor is given back


def test_ctrl_c_removes_the_panel_and_prints_the_command(
    videos: Path, tmp_path: Path, terminal: list[Terminal]
) -> None:
    run = Terminal(80, "extract", videos, tmp_path / "out", *HOW, path=tmp_path, FAKE_SECONDS="0.2")
    terminal.append(run)
    wait_until(lambda: run.read() and " of 24 videos, " in run.shown)
    os.write(run.ours, b"\x03")
    assert run.read_to_the_end() == 130
    assert "Finished shards are kept; to continue:" in run.shown
    assert f"  tgprep extract {videos} {tmp_path / 'out'} --decoder" in run.shown  # in one piece, to be copied
    assert run.shown.rindex("\x1b[?25h") > run.shown.rindex("\x1b[?25l")
    assert "Traceback" not in run.shown


@pytest.mark.parametrize(
    ("prefix", "code"), [((), 129), (("sh", "-c", "trap '' HUP; exec \"$@\"", "sh"), 1)], ids=["plain", "nohup"]
)
def test_the_terminal_is_closed(
    videos: Path, tmp_path: Path, terminal: list[Terminal], prefix: tuple[str, ...], code: int
) -> None:
    """The kernel sends SIGHUP, and no line can be written any more: an orderly stop, or, if it is ignored as under nohup, no stop at all."""
    run = Terminal(80, "extract", videos, tmp_path / "out", *HOW, path=tmp_path, prefix=prefix, FAKE_SECONDS="0.2")
    terminal.append(run)
    wait_until(lambda: run.read() and " of 24 videos, " in run.shown)
    os.close(run.ours)
    run.ours = os.open(os.devnull, os.O_RDONLY)
    assert run.process.wait(timeout=120) == code
    assert (tmp_path / "out" / "dataset.json").exists() is (code == 1)  # 8 videos fail
