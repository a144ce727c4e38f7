"""Output is not the work: what a program does if its log or its result can no longer be written."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_PROGRAM = """
import contextlib, os, sys
from manifests import console
console.protect()
for number in range(200):
    console.say(f"log {number}")
    print("of a library", file=sys.stderr)
    console.echo(f"result {number}", kept=sys.argv[1])
    with contextlib.suppress(OSError):
        os.write(2, b"of FFmpeg")
with open("work", "w") as file:
    file.write(f"done, file {file.fileno()}, lost: {console.lost_log()}")
sys.exit(console.exit_code(0))
"""
FULL, EMPTY, CLOSED, GONE = "No space left on device", "", "it is closed", "Broken pipe"


def ended(tmp_path: Path, redirections: str, kept: str = "") -> tuple[int, str]:
    """Exit code, and what it says in the end, on stderr."""
    (tmp_path / "program.py").write_text(_PROGRAM)
    line = f'set -o pipefail; "$0" program.py "$1" {redirections}'
    done = subprocess.run(
        ["bash", "-c", line, sys.executable, kept],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return done.returncode, done.stderr


def work(tmp_path: Path) -> tuple[int, str]:
    """The descriptor that the file of the work got, and why lines of the log were lost."""
    text = (tmp_path / "work").read_text()
    return int(text.split()[2].rstrip(",")), text.partition("lost: ")[2]


@pytest.mark.parametrize(
    ("redirections", "reason"),
    [
        ("2>/dev/full >/dev/null", FULL),
        ("2>&- >/dev/null", CLOSED),
        ("<&- >/dev/null 2>&-", CLOSED),
        ("2>&1 >/dev/null | true", GONE),
    ],
)
def test_work_goes_on_without_its_log(tmp_path: Path, redirections: str, reason: str) -> None:
    code, said = ended(tmp_path, redirections)
    assert (code, said) == (0, "")
    descriptor, lost = work(tmp_path)
    assert lost == reason
    assert descriptor > 2, "what libraries print would go into the file"


@pytest.mark.parametrize(("redirections", "reason"), [(">/dev/full", FULL), (">&-", CLOSED)])
def test_a_result_that_cannot_be_printed_is_one_message(tmp_path: Path, redirections: str, reason: str) -> None:
    code, said = ended(tmp_path, f"{redirections} 2> log; code=$?; grep -a result log >&2; exit $code")
    assert code == 2
    assert said.endswith(
        f"Error: the result cannot be printed: standard output: {reason}. Make room, or send it elsewhere.\n"
    )
    assert work(tmp_path)[1] == ""


def test_a_result_that_is_in_a_file_as_well_is_no_error(tmp_path: Path) -> None:
    code, said = ended(
        tmp_path, ">/dev/full 2> log; code=$?; grep -a result log | tail -1 >&2; exit $code", kept="r.json"
    )
    assert code == 0
    assert said.endswith(f"note: the result cannot be printed ({FULL}); it is in r.json\n")


def test_a_reader_that_has_read_enough_is_no_error(tmp_path: Path) -> None:
    assert ended(tmp_path, "2>/dev/null | head -1") == (0, "")


def test_work_outlives_its_terminal(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    (tmp_path / "program.py").write_text("input()\n" + _PROGRAM)
    process = subprocess.Popen(
        [sys.executable, "program.py", ""],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    os.close(ours)
    process.communicate(b"\n", timeout=60)
    assert process.returncode == 0
    assert work(tmp_path)[1] == "Input/output error"


def test_a_terminal_that_another_program_made_non_blocking_gets_every_line(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "import os\nfrom manifests import console\nos.set_blocking(2, False)\nconsole.protect()\n"
        "for number in range(3000):\n    console.say('x' * 100)\n"
    )
    line = '"$0" program.py 2>&1 >/dev/null | (sleep 0.5; wc -l)'
    done = subprocess.run(
        ["bash", "-c", line, sys.executable],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "3000"


def test_a_long_wait_is_reported() -> None:
    program = (
        "import time\nfrom manifests.console import waiting\n"
        "with waiting(lambda: 'process 1 of 2', after_seconds=0.1):\n    time.sleep(0.5)\n"
        "with waiting('nothing', after_seconds=0.1):\n    pass\ntime.sleep(0.2)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    assert 2 <= len(lines) <= 3
    assert all(line.startswith("waiting for process 1 of 2 (") for line in lines)
