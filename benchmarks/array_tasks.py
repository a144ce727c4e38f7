"""Array tasks of `tgprep extract` on 650,000 made-up videos: seconds of each part of a task besides its videos.

    python benchmarks/array_tasks.py [--videos 650000] [--tasks 100] [--measured 0,1,50,99] [--folder DIR] [--keep]

VIDEOS is a tree of 650,000 files of a few bytes in 700 classes of train, val and test. A task is the command `tgprep extract VIDEOS OUT
--num-tasks N --task-id I` in a process of its own, with one part exchanged: the work on a shard writes a few bytes and makes up the
rows of its 64 videos. Scan, plan, locks, journal and joining are the program's own. The tasks that are not measured write their
shards in one process, by the same journal, between those that are; so the last one joins the shards of all.
Parts are timed where the program calls them; seconds are wall time and processor time on this machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scale import CLASSES, PARTS
from manifests.machine import processor_name
from manifests.records import WRITTEN, Members, ShardRow
from tgprep.extract.workers.shards import Request, ShardPlan, ShardResult

# What is timed: module, name. A part within another is counted in both.
PARTS_OF_A_TASK = {
    "scan": ("tgprep.scan.scan", "scan"),
    "plan: make or read": ("tgprep.extract.array_jobs", "_common_plan"),
    "plan: of it waiting for and holding the lock": ("tgprep.extract.array_jobs", "critical_section"),
    "plan: divide into shards": ("tgprep.extract.plan", "plan_shards"),
    "journal: read": ("tgprep.extract.array_jobs", "load_done"),
    "empty work and entries of the journal": ("tgprep.extract.array_jobs", "make_shards"),
    "join": ("tgprep.extract.array_jobs", "join"),
}


def make_videos(root: Path, num_videos: int) -> None:
    """The tree of made-up source files."""
    draw = np.random.default_rng(0)
    classes = draw.integers(0, len(CLASSES), num_videos).tolist()
    parts = draw.choice(list(PARTS), num_videos, p=list(PARTS.values())).tolist()
    for part in PARTS:
        for name in CLASSES:
            (root / part / name).mkdir(parents=True)
    for number, (part, label) in enumerate(zip(parts, classes, strict=True)):
        path = root / part / CLASSES[label] / f"v{number:010}_000004_000014.mp4"
        path.write_bytes(b"v" * (1 + number % 7))


def empty_work(
    shards: Sequence[ShardPlan], request: Request, scratch: Path | None
) -> Generator[ShardResult, None, None]:
    """In place of the workers: a shard of a few bytes, and rows as of videos of 10 seconds at 340x256."""
    for shard in shards:
        content = shard.name.encode()
        (Path(str(request.out)) / shard.name).write_bytes(content)
        rows = []
        for number, video in enumerate(shard.videos):
            start = number * 3_000_000
            members = Members(start + 512, 2136, start + 4096, 1_900_000, start + 1_905_000, 2128, start + 1_909_000, 1_000_000)  # fmt: skip
            facts: dict[str, Any] = {
                "num_frames": 250,
                "num_frames_header": 250,
                "fps": 25.0,
                "height": 256,
                "width": 340,
            }
            facts |= {"codec": "h264", "pixel_format": "yuv420p", "shard": shard.name, "members": members}
            facts |= {"sample_offset": start, "sample_bytes": 3_000_000}
            facts |= {"source_sha256": hashlib.sha256(video.key.encode()).hexdigest()}
            rows.append(video.row(WRITTEN, **facts))
        digest = hashlib.sha256(content).hexdigest()
        yield ShardResult(ShardRow(shard.name, len(rows), len(content), digest), tuple(rows))


def run_task(words: list[str]) -> None:
    """One task in this process: prints the seconds of its parts as JSON on the last line."""
    import importlib

    import tgprep.extract.pipeline
    from cli import start

    start()
    began = time.perf_counter()
    tgprep.extract.pipeline.run_local = empty_work
    seconds: dict[str, list[float]] = {name: [0.0, 0.0] for name in PARTS_OF_A_TASK}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            wall, cpu = time.perf_counter(), time.process_time()
            try:
                found = function(*arguments, **options)
                return _Timed(found, name, seconds) if name.endswith("the lock") else found
            finally:
                seconds[name][0] += time.perf_counter() - wall
                seconds[name][1] += time.process_time() - cpu

        return call

    for name, (module, function) in PARTS_OF_A_TASK.items():
        place = importlib.import_module(module)
        setattr(place, function, timed(name, getattr(place, function)))
    from cli.prep import main as tgprep_main

    code: Any = 0
    try:
        tgprep_main([*words, "--json"], standalone_mode=False)
    except SystemExit as end:
        code = end.code
    parts = {name: {"wall": round(wall, 2), "cpu": round(cpu, 2)} for name, (wall, cpu) in seconds.items()}
    parts["all of the task"] = {
        "wall": round(time.perf_counter() - began, 2),
        "cpu": round(time.process_time(), 2),
    }
    print("\n" + json.dumps({"code": code, "parts": parts}))


class _Timed:
    """The lock as a context: the time until it is held, and while it is."""

    def __init__(self, lock: Any, name: str, seconds: dict[str, list[float]]) -> None:
        self.lock, self.name, self.seconds = lock, name, seconds

    def __enter__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()
        self.lock.__enter__()

    def __exit__(self, *error: object) -> Any:
        left = self.lock.__exit__(*error)
        self.seconds[self.name][0] += time.perf_counter() - self.wall
        self.seconds[self.name][1] += time.process_time() - self.cpu
        return left


def fill(out: Path, tasks: Sequence[int], num_tasks: int) -> None:
    """Write the shards of these tasks, and their entries of the journal, by the plan in OUT."""
    from tgprep.config import ExtractSettings, WorkerSettings
    from tgprep.extract.plan import load_plan, plan_digest
    from tgprep.extract.work_folder import save_done

    work = out / ".tgprep"
    plan, digest = load_plan(work), plan_digest(work)
    assert plan is not None
    shards = plan.shards
    request = Request(out, out, ExtractSettings(), WorkerSettings())
    for task in tasks:
        for result in empty_work(shards[task::num_tasks], request, None):
            save_done(work, result, digest)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--videos", type=int, default=650_000)
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--measured", default="0,1,50,99", help="tasks to measure, in order; the last one joins")
    parser.add_argument("--folder", type=Path, help="where VIDEOS and OUT are made (default: a temporary folder)")
    parser.add_argument("--keep", action="store_true", help="take the videos that are there, and leave them")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/array_tasks.json"))
    parser.add_argument("--task", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        run_task(arguments.task)
        return
    root = arguments.folder or Path(tempfile.mkdtemp())
    try:
        if not (root / "videos").exists():
            make_videos(root / "videos", arguments.videos)
        shutil.rmtree(root / "out", ignore_errors=True)
        found = measure(root, list(map(int, arguments.measured.split(","))), arguments.tasks)
    finally:
        if not arguments.keep:
            shutil.rmtree(root)
    result = {
        "what": f"array tasks on {arguments.videos} made-up videos, {arguments.tasks} tasks, without the work on videos",
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"cpu": processor_name(), "cores": os.cpu_count(), "load at the end": os.getloadavg()},
        "versions": {"python": platform.python_version()} | {name: version(name) for name in ("pyarrow", "numpy")},
        "tasks": found,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def measure(root: Path, tasks: list[int], num_tasks: int) -> dict[str, Any]:
    """The parts of the measured tasks, with the others filled in between."""
    found: dict[str, Any] = {}
    out = root / "out"
    for place, task in enumerate(tasks):
        options = ["--dataset", "folder", "--num-tasks", str(num_tasks), "--task-id", str(task)]
        words = ["extract", str(root / "videos"), str(out), *options]
        done = subprocess.run(
            [sys.executable, __file__, "--task", *words], stdout=subprocess.PIPE, text=True, check=True
        )
        found[f"task {task}"] = json.loads(done.stdout.splitlines()[-1])
        print(task, found[f"task {task}"], file=sys.stderr, flush=True)
        if place + 1 < len(tasks):
            until = tasks[place + 1] if place + 2 < len(tasks) else num_tasks
            fill(out, [each for each in range(task + 1, until) if each not in tasks], num_tasks)
    return found


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    main()
