"""Clips of a test with 10 clips x 3 crops: by loader processes, without a model, this code and that of another checkout in turns.

    python benchmarks/views.py DATA --before CHECKOUT [--repeats 5] [--workers 0,1,2] [--videos 40]

DATA: a data set of `tgprep extract` with a split. Each run is a process of its own; RGB and TG of 8 frames at 256, all views of a
video. Wall time counts from the first video on; the processor time is that of all processes of a run.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from manifests.machine import processor_name

CHILD = """
import json, os, sys, time
from types import SimpleNamespace
import torch
from benchmarks.loader import used
from benchmarks.loader_way import our_setup
from tgtrain.evaluate import evaluate as module
from tgtrain.evaluate.results import EvalProtocol
from tgtrain.evaluate.score import VideoScores
from tgtrain.ranks.distributed import Ranks

data, workers, num_videos = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

class Reads(module.Scorer):
    # What a model does to clips is left out.
    def score(self, videos):
        for number, video in enumerate(videos):
            if number == workers:
                begin.extend([time.perf_counter(), used()[0]])
            yield VideoScores(video.position, None, bad="not scored")

if __name__ == "__main__":
    module.Scorer, begin = Reads, []
    setup = our_setup(data)
    videos = (setup.videos("train") * num_videos)[: num_videos + workers + 1]
    settings = module.EvalSettings(EvalProtocol(10, 3), "both")
    model = SimpleNamespace(training=False, train=lambda mode: None, eval=lambda: None)
    module.evaluate(model, setup, videos, settings, Ranks(0, 1, torch.device("cpu")), workers=workers)
    views = 30 * num_videos
    print(json.dumps({
        "views_per_second": views / (time.perf_counter() - begin[0]),
        "views_per_core_second": views / (used()[0] - begin[1]),
    }))
    sys.stdout.flush()
    os._exit(0)
"""


def measure(code: Path, arguments: argparse.Namespace, workers: int) -> dict[str, float]:
    """One run by the code of a checkout."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(code)}
    words = [sys.executable, "-c", CHILD, arguments.data, str(workers), str(arguments.videos)]
    done = subprocess.run(
        words, cwd=code, env=environment, stdout=subprocess.PIPE, text=True, check=True, start_new_session=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=lambda text: str(Path(text).resolve()))
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", default="0,1,2")
    parser.add_argument("--videos", type=int, default=40)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/views.json"))
    arguments = parser.parse_args()
    codes = {"now": Path(__file__).resolve().parents[1], "before": arguments.before.resolve()}
    rows = []
    for workers in map(int, arguments.workers.split(",")):
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in codes}
        for _ in range(arguments.repeats):
            for name, code in codes.items():
                runs[name].append(measure(code, arguments, workers))
                print(workers, name, runs[name][-1], file=sys.stderr)
        row: dict[str, object] = {"loader processes": workers}
        for figure in ("views_per_second", "views_per_core_second"):
            ratios = [now[figure] / before[figure] for now, before in zip(runs["now"], runs["before"], strict=True)]
            row[figure] = {name: round(statistics.median(run[figure] for run in runs[name]), 1) for name in codes}
            row[f"{figure}, now / before"] = {
                "median": round(statistics.median(ratios), 3),
                "pairs": [round(ratio, 3) for ratio in ratios],
            }
        rows.append(row)
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=codes["before"], capture_output=True, text=True, check=True
    )
    result = {
        "what": "views of tests with 10 clips x 3 crops (8 RGB + 8 TG at 256), read without a model",
        "date": datetime.date.today().isoformat(),
        "machine": {"cpu": processor_name(), "cores": len(os.sched_getaffinity(0)), "load at the end": os.getloadavg()[0]},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("torch", "numpy", "simplejpeg")}},
        "settings": {"before": commit.stdout.strip(), "repeats": arguments.repeats, "videos": arguments.videos},
        "rows": rows,
    }  # fmt: skip
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
