"""Headers that claim anything: sizes, counts and rates without sense cost neither memory nor the other videos."""

from __future__ import annotations

import math
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from manifests.manifest_io import read_manifest
from tests.prep.support import extract_videos, moving_square, write_video
from tgprep.decode.open import open_video

SIZE = (64, 48)  # of the pictures of `moving_square`
MEMORY_MB = 300  # a process that imports what decoding needs takes 60 to 90

# Decodes the files of the command line, and prints the name, the frames and the peak memory after each.
DECODE = """
import re, sys
from pathlib import Path
from tgprep.decode.frames import DecodeError
from tgprep.decode.open import open_video
for name in sys.argv[1:]:
    try:
        video = open_video(Path(name), decoder="pyav", space="ycbcr420", short_side=0, as_coded=True)
        text = str(sum(1 for _ in video.frames))
    except DecodeError as error:
        text = str(error)
    peak = re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())  # without that of the parent
    print(Path(name).name, int(peak[1]) // 1024, text, sep="|")
"""


def changed(path: Path, name: str, old: bytes, new: bytes) -> Path:
    """The file with other bytes at each place where `old` stands."""
    content = path.read_bytes()
    assert old in content
    target = path.with_name(name)
    target.write_bytes(content.replace(old, new))
    return target


def with_rate(path: Path, name: str, scale: int, rate: int, length: int) -> Path:
    """The .avi with another rate (rate / scale) and number of frames in the header of its stream."""
    content = bytearray(path.read_bytes())
    start = content.index(b"strh") + 8
    content[start + 20 : start + 28] = struct.pack("<II", scale, rate)
    content[start + 32 : start + 36] = struct.pack("<I", length)
    target = path.with_name(name)
    target.write_bytes(content)
    return target


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_huge_pictures_take_no_memory(tmp_path: Path) -> None:
    frames = moving_square(3)
    made = {
        suffix: write_video(tmp_path / f"a.{suffix}", frames, codec=codec, pixel_format=pixel_format)
        for suffix, codec, pixel_format in (
            ("y4m", "wrapped_avframe", "yuv420p"),
            ("gif", "gif", "rgb8"),
            ("mov", "png", "rgb24"),
            ("ivf", "libvpx", "yuv420p"),
            ("avi", "rawvideo", "yuv420p"),
        )
    }
    files = []
    for side in (30_000, 65_500):
        header = f"W{side} H{side}".encode()
        files.append(changed(made["y4m"], f"{side}.y4m", b"W64 H48", header))
        files.append(changed(made["gif"], f"{side}.gif", struct.pack("<HH", *SIZE), struct.pack("<HH", side, side)))
        files.append(changed(made["ivf"], f"{side}.ivf", struct.pack("<HH", *SIZE), struct.pack("<HH", side, side)))
    for side in (30_000, 2**31 - 1):
        files.append(changed(made["avi"], f"{side}.avi", struct.pack("<II", *SIZE), struct.pack("<II", side, side)))
        chunk = b"IHDR" + struct.pack(">II", *SIZE), b"IHDR" + struct.pack(">II", side, side)
        files.append(changed(made["mov"], f"{side}.mov", *chunk))
    done = subprocess.run([sys.executable, "-c", DECODE, *files], capture_output=True, text=True, timeout=60)
    lines = [line.split("|") for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == [path.name for path in files], done.stderr
    for name, memory, text in lines:
        assert int(memory) < MEMORY_MB, name
        assert text == "0" or "pixels" in text or "cannot be opened" in text, (name, text)


def test_counts_and_rates_without_sense_are_unknown_and_stop_nothing(tmp_path: Path) -> None:
    video = write_video(tmp_path / "videos" / "c" / "a.avi", moving_square(4))
    with_rate(video, "length.avi", 1, 25, 2**32 - 1)
    with_rate(video, "infinite.avi", 0, 25, 4)
    with_rate(video, "zero.avi", 1, 0, 4)
    with_rate(video, "both.avi", 0, 0, 4)
    with_rate(video, "huge.avi", 1, 2**32 - 1, 4)
    extract_videos(tmp_path / "videos", tmp_path / "out", store="video")
    rows = read_manifest(tmp_path / "out").videos
    assert len(rows) == 6
    for row in rows:
        assert (row.status, row.num_frames) == ("written", 4), row
        assert 0 <= row.fps < math.inf
        assert row.num_frames_header in (-1, 4)


@pytest.mark.parametrize(("frames", "fps"), [(2**31, 25.0), (-7, 25.0), (3, math.nan), (3, math.inf), (3, -1.0)])
def test_facts_of_a_custom_decoder_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frames: int, fps: float
) -> None:
    (tmp_path / "odd_facts.py").write_text(
        "from tgprep.decode import DecodedVideo\n"
        "def decode(path):\n"
        f"    return DecodedVideo(frames=iter(()), num_frames_header={frames}, fps=float('{fps}'))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "odd_facts", raising=False)
    video = open_video(tmp_path / "odd_facts.py", decoder="odd_facts:decode", space="rgb", short_side=0)
    assert video.num_frames_header in (-1, 3)
    assert video.fps in (0.0, 25.0)
