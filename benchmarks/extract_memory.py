"""Measure the memory of an extraction worker over many videos, and over one long large video; both must be flat.

    python benchmarks/extract_memory.py CLIP [--output benchmarks/results/extract_memory.json] [--videos 1000] [--minutes 10]

CLIP: a real video. The many are links to it; the long one is CLIP in a loop, scaled to 1920x1080 at 25 frames a second by FFmpeg.
The resident memory of the worker process and of its supervisor is read twice a second while `tgprep extract --threads 1` runs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import imageio_ffmpeg

from manifests.machine import processor_name

PARTS = 10


def resident_mb(pid: int) -> tuple[float, float]:
    """Resident memory of a process, and of the largest of its children; 0.0 if there is none."""
    own, largest = 0.0, 0.0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if int(entry.name) == pid or parent == pid:
                resident = int((entry / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
                own, largest = (resident, largest) if int(entry.name) == pid else (own, max(largest, resident))
        except (OSError, IndexError, ValueError):
            continue
    return own, largest


def extract(videos: Path) -> dict[str, Any]:
    """Memory during an extraction, by tenths of its time."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["extract", str(videos), f"{folder}/out", "--dataset", "folder", "--threads", "1", "--log-json"]
        with subprocess.Popen(
            [sys.executable, "-m", "cli.prep", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as run:
            seen, parent = [], 0.0
            while run.poll() is None:
                own, worker = resident_mb(run.pid)
                seen.append(worker)
                parent = max(parent, own)
                time.sleep(0.5)
        if run.returncode:
            raise SystemExit(f"extract ended with {run.returncode}")
        shown = subprocess.run(
            [sys.executable, "-m", "cli.prep", "info", f"{folder}/out", "--json"], capture_output=True, check=True
        )
    facts = json.loads(shown.stdout)
    while seen and not seen[-1]:
        seen.pop()
    edges = [len(seen) * part // PARTS for part in range(PARTS + 1)]
    return {
        "num_frames": facts["num_frames"],
        "seconds": round(len(seen) * 0.5, 1),
        "peak_mb": round(max(seen), 1),
        "peak_parent_mb": round(parent, 1),
        "peak_mb_by_tenth": [round(max(seen[a:b]), 1) for a, b in zip(edges, edges[1:], strict=False) if b > a],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("clip", type=Path)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/extract_memory.json"))
    parser.add_argument("--videos", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=10)
    arguments = parser.parse_args()
    clip = arguments.clip.resolve()
    with tempfile.TemporaryDirectory() as folder:
        many, long = Path(folder) / "many", Path(folder) / "long"
        for number in range(arguments.videos):
            target = many / f"class{number % 10}" / f"video{number}{clip.suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(clip)
        (long / "class").mkdir(parents=True)
        words = ["-loglevel", "error", "-stream_loop", "-1", "-i", str(clip), "-t", str(arguments.minutes * 60)]
        words += [
            "-vf",
            "scale=1920:1080,setsar=1,fps=25,format=yuv420p",
            "-an",
            "-c:v",
            "libx264",
            "-preset",
            "ultrafast",
        ]
        subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), *words, str(long / "class" / "long.mp4")], check=True)
        result = {
            "what": "resident memory of an extraction worker, MB",
            "date": time.strftime("%Y-%m-%d"),
            "machine": {"cpu": processor_name(), "cores": os.cpu_count(), "python": platform.python_version()},
            "versions": {name: version(name) for name in ("av", "numba", "simplejpeg", "numpy")},
            f"{arguments.videos} videos": extract(many),
            f"one video of {arguments.minutes:g} minutes, 1920x1080": extract(long),
        }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
