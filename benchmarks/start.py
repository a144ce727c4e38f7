"""How long a command takes until it does its work: `tgtrain run` to its first step, `tgprep extract` to its first frame.

    python benchmarks/start.py VIDEOS [--runs 5] [--output FILE]

VIDEOS: a folder of class folders. A small sample is made for the training. Kernels are compiled by a first extraction, which is not
counted. The first frame is known from the first bytes in the folder of the data set.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from manifests.machine import processor_name

BIN = Path(sys.executable).parent
OUTPUT = Path(__file__).parent / "results/start.json"


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [BIN / str(arguments[0]), *map(str, arguments[1:])],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def seconds_to_line(process: subprocess.Popen[str], text: str) -> float:
    """Seconds from now to the first line of a process's messages that contains a text."""
    began = time.monotonic()
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return time.monotonic() - began
    raise SystemExit(f"the command ended without '{text}'")


def training(data: Path, folder: Path, workers: int) -> dict[str, float]:
    """Seconds of `tgtrain run` to its announcement, to its first step, and to its end after one step."""
    shutil.rmtree(folder, ignore_errors=True)
    settings = ("--set", f"runtime.workers={workers}", "--max-steps", "1")
    process = start("tgtrain", "run", data, "--recipe", "demo", "--out", folder, *settings)
    announced = seconds_to_line(process, "unlabelled")
    step = announced + seconds_to_line(process, "step 1/")
    began = time.monotonic()
    process.communicate()
    return {"announced": announced, "first step": step, "end": step + time.monotonic() - began}


def extraction(videos: Path, out: Path) -> dict[str, float]:
    """Seconds of `tgprep extract` to the end of its scan, and from then to its first frame."""
    shutil.rmtree(out, ignore_errors=True)
    process = start("tgprep", "extract", videos, out, "--dataset", "folder", "--threads", "2")
    scanned = seconds_to_line(process, "to extract")
    began = time.monotonic()
    while not any(file.stat().st_size for file in out.rglob("*.tar*")):
        time.sleep(0.005)
    first = time.monotonic() - began
    process.terminate()
    process.communicate()
    return {"scan": scanned, "first frame after the scan": first}


def medians(measure: Callable[[], dict[str, float]], runs: int) -> dict[str, list[float]]:
    """Median, least and most of every figure."""
    found = [measure() for _ in range(runs)]
    figures = {name: sorted(each[name] for each in found) for name in found[0]}
    return {
        name: [round(each, 2) for each in (statistics.median(values), values[0], values[-1])]
        for name, values in figures.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        sample = (
            "--num-classes",
            "6",
            "--num-groups",
            "20",
            "--clips-per-group",
            "1",
            "--width",
            "80",
            "--height",
            "60",
        )
        for command in (
            ("tgprep", "sample", work / "videos", *sample, "--annotations", work / "lists"),
            ("tgprep", "extract", work / "videos", work / "data", "--dataset", "ucf101", "--annotations", work / "lists", "--classes", "present"),
            ("tgprep", "split", work / "data", "--percent", "20"),
        ):  # fmt: skip
            process = start(*command)
            errors = process.communicate()[1]
            if process.returncode:
                raise SystemExit(errors)
        result = {
            "machine": processor_name(),
            "runs": given.runs,
            "date": time.strftime("%Y-%m-%d"),
            "figures": "seconds: median, least, most",
            "tgtrain run, two loader processes": medians(lambda: training(work / "data", work / "run", 2), given.runs),
            "tgtrain run, no loader process": medians(lambda: training(work / "data", work / "run", 0), given.runs),
            "tgprep extract": medians(lambda: extraction(given.videos, work / "out"), given.runs),
        }
    print(json.dumps(result, indent=1))
    given.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
