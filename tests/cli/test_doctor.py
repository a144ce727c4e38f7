"""`tgprep doctor`: every decoder is tried on a clip; whatever is broken is named, with advice."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cli.prep import main
from tgprep import doctor
from tgprep.doctor import CLIP, CLIP_FRAMES, decode_clip, examine


def test_this_machine_passes(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["doctor", str(tmp_path / "not" / "there"), "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    levels = {finding["name"]: finding["level"] for finding in report["findings"]}
    assert report["ok"]
    assert {levels[name] for name in ("python", "pyarrow", "pyav", "ffmpeg program", "jpeg", "space")} == {"ok"}
    assert {"opencv", "processor", "memory", "rar archives", "open files", "disk"} <= levels.keys()
    assert list(tmp_path.iterdir()) == []


def test_clip_has_the_frames_that_ffmpeg_counts() -> None:
    import imageio_ffmpeg

    words = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(CLIP), "-f", "null", "-"]
    counted = subprocess.run(words, capture_output=True, text=True).stderr
    assert re.findall(r"frame=\s*(\d+)", counted)[-1] == str(CLIP_FRAMES)


def test_ffmpeg_program_is_compared_with_pyav(monkeypatch: pytest.MonkeyPatch) -> None:
    """A difference or a missing program is reported, and stops nothing else."""
    from tgprep.decode import open as decode

    assert re.fullmatch(r"shows what PyAV shows; ffmpeg n?\d+\.[\w.+-]+", decode_clip("ffmpeg"))
    frames = [np.asarray(frame) for frame in decode.open_video(CLIP, decoder="pyav", space="rgb", short_side=0).frames]
    fake = decode.DecodedVideo(frames=iter([frame // 2 for frame in frames]))
    monkeypatch.setattr(decode, "open_video", lambda *args, **kwargs: fake)
    with pytest.raises(ValueError, match=r"show different pixels: \d+\.\d levels apart"):
        decode_clip("ffmpeg")
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
    *_, finding = doctor._decoders()
    assert finding.name == "ffmpeg program"
    assert (finding.level, finding.advice.split(".")[0]) == (
        "note",
        "pip install --force-reinstall ffmpeg-python imageio-ffmpeg",
    )


def test_broken_parts_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "av.py").write_text("import os\nos.abort()\n")  # a library that takes the process with it
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')\n")
    (tmp_path / "decord.py").write_text("import time\ntime.sleep(60)\n")
    root = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{root}")
    monkeypatch.setattr(doctor, "DECODER_SECONDS", 5)
    monkeypatch.setattr(doctor, "OPEN_FILES", 10**9)
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    monkeypatch.setenv("PATH", "")
    findings = {finding.name: finding for finding in examine(tmp_path)}
    assert findings["pyav"].level == "error"
    assert "it ended with -6" in findings["pyav"].text
    assert "default decoder" in findings["pyav"].advice
    assert findings["opencv"].level == "note"
    assert "libGL.so.1" in findings["opencv"].text
    assert "no answer in 5 s" in findings["decord"].text
    assert findings["jpeg"].level == "error"  # a check that fails is a finding, not a traceback
    assert "ulimit" in findings["open files"].advice or "higher limit" in findings["open files"].advice
    assert "apt-get install unar" in findings["rar archives"].advice
    monkeypatch.undo()


def test_lost_and_swapped_frames_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    from tgprep.decode import open as decode

    video = decode.open_video(CLIP, decoder="pyav", space="rgb", short_side=0)
    frames = list(video.frames)
    assert len(frames) == CLIP_FRAMES
    for changed, words in (
        (frames[:-1], "19 of 20 frames"),
        ([*frames[:5], frames[9], *frames[6:]], "20 of 20 frames, wrong from frame 5 on"),
    ):
        fake = decode.DecodedVideo(frames=iter(changed))
        monkeypatch.setattr(decode, "open_video", lambda *args, fake=fake, **kwargs: fake)
        with pytest.raises(ValueError, match=words):
            decode_clip("pyav")
