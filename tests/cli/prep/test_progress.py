"""Progress of an extraction: at any width, without a terminal, and as JSON."""

from __future__ import annotations

import io
import json
import time

import pytest
from rich.align import Align
from rich.console import Console, Group

from cli.prep import progress as module
from cli.prep.progress import ExtractProgress
from manifests.records import VideoRow
from tgprep.extract.workers.shards import Progress, Workload


def row(name: str, *, error: str = "", num_frames: int = 100, num_source_bytes: int = 0) -> VideoRow:
    status = "failed" if error else "written"
    return VideoRow(
        key=f"class/{name}", path=f"class/{name}.avi", class_name="class", label=0, group="", subsets=(), status=status,
        error=error, num_frames=0 if error else num_frames, num_source_bytes=num_source_bytes,
    )  # fmt: skip


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_panel_fits_and_does_not_jump(clock: list[float], width: int) -> None:
    progress = ExtractProgress()
    progress.planned(Workload(200, 0, num_kept=20))
    shapes = []
    for step in range(6):
        clock[0] += 2
        for worker in range(3):
            progress(Progress(worker, f"class{worker}/{'long' * step}_{step}", 7**step))
        progress(Progress(0, "", 0, row(f"v{step}", error="broken" if step == 3 else "")))
        console = Console(width=width, height=24, record=True, file=io.StringIO(), force_terminal=True)
        console.print(Group(Align.left(progress.rows(width, 24)[0]), *progress.rows(width, 24)[1:]))
        lines = console.export_text().rstrip("\n").split("\n")
        assert len(lines) == 5
        assert max(map(len, lines)) <= width
        assert len(lines[0]) == width  # the bar
        assert lines[3].rstrip().endswith(f"{7**step:,} frame{'s' * (step > 0)}")
        shapes.append(len(lines[3].rstrip()))
        assert "of 200 videos" in lines[1] or width == 40
    assert len(set(shapes)) == 1
    progress.close()


def test_the_line_shows_counts_rate_and_time_left(clock: list[float]) -> None:
    progress = ExtractProgress()
    progress.planned(Workload(100, 0, num_kept=40))
    assert progress.state()["seconds_left"] == -1
    assert progress.line() == "starting workers for 100 videos, 40 done before"
    for number in range(30):
        clock[0] += 2
        progress(Progress(0, "", 0, row(f"v{number}", error="broken" if number < 3 else "")))
    assert progress.line() == "70 of 100 videos, 45 frames/s, 3 failed, 1 min 0 s left"
    assert progress.state() == {
        "num_videos": 100, "num_done": 70, "num_failed": 3, "frames_per_second": 45.0, "seconds_left": 60.0,
    }  # fmt: skip
    progress.close()


@pytest.mark.parametrize("log_json", [False, True])
def test_without_a_terminal_there_is_one_line_every_thirty_seconds(
    clock: list[float], capsys: pytest.CaptureFixture[str], log_json: bool
) -> None:
    progress = ExtractProgress(log_json)
    progress.planned(Workload(1000, 0))
    for second in range(120):
        clock[0] += 1
        progress(Progress(0, "class/long", 25 * second))  # one long video is reported too
    lines = capsys.readouterr().err.splitlines()
    if log_json:
        assert [json.loads(line)["event"] for line in lines] == ["planned", *["progress"] * 4]
        assert json.loads(lines[-1])["num_videos"] == 1000
    else:
        assert lines[0] == "1,000 videos to extract"
        assert len(lines) == 5
        assert lines[-1] == "0 of 1,000 videos, 25 frames/s"
    progress.close()


def test_the_line_comes_without_worker_events(
    clock: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TICK_SECONDS", 0.01)
    progress = ExtractProgress()
    progress.planned(Workload(7, 0))
    lines = ""
    for count in (1, 2, 3):
        clock[0] += 31

        for _ in range(3000):
            lines += capsys.readouterr().err
            if lines.count("starting workers for 7 videos\n") >= count:
                break
            time.sleep(0.01)
        assert lines.count("starting workers") == count
    progress.close()
    clock[0] += 31
    time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_the_time_left_follows_bytes_not_videos(clock: list[float]) -> None:
    """40 short clips, and two videos that are as much work as 200 of them."""
    progress = ExtractProgress()
    sizes = [1000] * 20 + [200_000] + [1000] * 20 + [200_000]
    progress.planned(Workload(len(sizes) + 3, sum(sizes) + 9000, num_kept=3, num_kept_source_bytes=9000))
    for number, size in enumerate(sizes):
        clock[0] += size / 1000
        progress(Progress(0, "", 0, row(f"v{number}", num_source_bytes=size)))
        assert progress.state()["seconds_left"] == pytest.approx(sum(sizes[number + 1 :]) / 1000)
    progress.close()


def test_the_first_estimates_count_the_videos_in_work(clock: list[float]) -> None:
    """Ten workers take 10 s a video, after 20 s in which they start: 100 videos take 100 s, and so say all estimates."""
    progress = ExtractProgress()
    progress.planned(Workload(100, 0))
    clock[0] += 20
    for second in range(1, 40):
        for worker in range(10):
            video = f"v{worker}-{second // 10}"
            progress(Progress(worker, f"class/{video}", 10 * (second % 10)))
            if second % 10 == 0:
                progress(Progress(worker, "", 0, row(video)))
        clock[0] += 1
        if (state := progress.state())["num_done"]:
            assert state["seconds_left"] == pytest.approx(100 - second, abs=12)
    assert progress.line().startswith("30 of 100 videos, ")
    progress.close()


def test_quiet_shows_failures_alone(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    progress = ExtractProgress(quiet=True)
    progress.log("note", "detected something")
    progress.planned(Workload(2, 0))
    for number, error in enumerate(("", "broken")):
        clock[0] += 40
        progress(Progress(0, "", 0, row(f"v{number}", error=error)))
    progress.log("finished", "2 inputs")
    progress.log("finished", "Wrong: half of the inputs were skipped")
    progress.close()
    assert capsys.readouterr().err == "failed: class/v1.avi: broken\nWrong: half of the inputs were skipped\n"


def test_work_planned_twice_is_followed_twice(capsys: pytest.CaptureFixture[str]) -> None:
    """A resumed extraction with `--add` plans the rest of the first run, then the update."""
    progress = ExtractProgress()
    progress.planned(Workload(2, 100))
    progress.planned(Workload(3, 100))
    progress.close()
    assert [line for line in capsys.readouterr().err.splitlines() if "to extract" in line] == [
        "2 videos to extract",
        "3 videos to extract",
    ]
