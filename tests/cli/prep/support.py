"""What the tests of `tgprep extract` share."""

from __future__ import annotations

import subprocess

SLOW = ("--decoder", "fake_backends:open_video", "--videos-per-shard", "4", "--threads", "2")


def one_message(done: subprocess.CompletedProcess[str]) -> str:
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert "Traceback" not in done.stderr
    return line
