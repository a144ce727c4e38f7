"""Messages between supervisor and worker: each comes through one line unchanged, and the parent stays light."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from manifests.records import Members, SourceVideo, VideoRow
from tgprep.config import ExtractSettings
from tgprep.extract.workers import messages as m

ROW = VideoRow("k", "a/\udce9.avi", "class", 1, "g01", ("train", "test"), "written", members=Members(1, 2), fps=29.97)


@pytest.mark.parametrize(
    "message",
    [
        m.ShardJob(
            "s.tar", "t\nmp", "/scratch \udcff", "s3://b/v", ExtractSettings(store="video", crf=3),
            (SourceVideo("k", "p", "c", 0, subsets=("train", "")),), start=512, worker=3,
        ),
        m.HeaderJob(("a", "b"), ExtractSettings(quality=80)),
        m.Ready(),
        m.VideoBegun(),
        m.FramesDone(7),
        m.VideoEncoded(9),
        m.VideoDone(ROW, 1024),
        m.ShardDone("ab", 2048),
        m.HeaderRead(-1),
        m.StoreWarning("s3://b", "two\nlines"),
        m.JobFailed("no space"),
    ],
    ids=lambda message: type(message).__name__,
)  # fmt: skip
def test_a_message_comes_through_unchanged(message: m.Job | m.Answer) -> None:
    line = m.encode(message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert m.decode(line) == message


def test_a_frame_rate_may_be_nan() -> None:
    row = m.decode(m.encode(m.VideoDone(VideoRow("k", "p", "c", 0, "", (), "written", fps=math.nan), 0))).row
    assert math.isnan(row.fps)


def test_the_supervisor_imports_neither_worker_nor_decoders() -> None:
    code = "import sys, tgprep.extract.workers.local; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"cv2", "av", "numba", "simplejpeg", "tgprep.extract.workers.worker", "tgprep.encode.encode"}
