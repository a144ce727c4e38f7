"""Measure the memory of an extraction worker over many videos, one long large video, and segments of a long file; all must be flat.

    python benchmarks/extract_memory.py CLIP [--output benchmarks/results/extract_memory.json] [--videos 1000] [--minutes 10]
    python benchmarks/extract_memory.py CLIP --segments [--output benchmarks/results/extract_memory_segments.json]

CLIP: a real video. The many are links to it; the long one is CLIP in a loop, scaled to 1920x1080 at 25 frames a second by FFmpeg.
The file that is cut (`--segments`) has 30 minutes of 320x240: 60 segments of 10 s, then one of 20 minutes besides.
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


def extract(videos: Path, *options: str) -> dict[str, Any]:
    """Memory during an extraction, by tenths of its time."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["extract", str(videos), f"{folder}/out", *(options or ("--dataset", "folder"))]
        words += ["--threads", "1", "--log-json"]
        with subprocess.Popen(
            [sys.executable, "-m", "tgprep", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
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
            [sys.executable, "-m", "tgprep", "info", f"{folder}/out", "--json"], capture_output=True, check=True
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


def write_loop(clip: Path, target: Path, size: str, minutes: float) -> None:
    """Write CLIP in a loop, scaled to WIDTH:HEIGHT."""
    target.parent.mkdir(parents=True, exist_ok=True)
    words = ["-loglevel", "error", "-stream_loop", "-1", "-i", str(clip), "-t", str(minutes * 60)]
    words += ["-vf", f"scale={size},setsar=1,fps=25,format=yuv420p", "-an", "-c:v", "libx264", "-preset", "ultrafast"]
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), *words, str(target)], check=True)


def measure_whole(clip: Path, folder: Path, num_videos: int, minutes: float) -> dict[str, Any]:
    """Many videos, and a long one."""
    for number in range(num_videos):
        target = folder / "many" / f"class{number % 10}" / f"video{number}{clip.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(clip)
    write_loop(clip, folder / "long" / "class" / "long.mp4", "1920:1080", minutes)
    return {
        f"{num_videos} videos": extract(folder / "many"),
        f"one video of {minutes:g} minutes, 1920x1080": extract(folder / "long"),
    }


def measure_segments(clip: Path, folder: Path) -> dict[str, Any]:
    """Short segments of a long file, and a long one that overlaps most of them."""
    write_loop(clip, folder / "cut" / "long.mp4", "320:240", 30)
    rows = ["path,label,start_seconds,end_seconds", *(f"long.mp4,a,{at},{at + 10}" for at in range(0, 1800, 30))]
    found = {}
    for name, more in (("60 segments of 10 s", []), ("and one of 20 minutes", ["long.mp4,b,300,1500"])):
        (folder / "list.csv").write_text("\n".join([*rows, *more]) + "\n")
        found[name] = extract(folder / "cut", "--annotations", f"{folder}/list.csv")
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("clip", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--videos", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--segments", action="store_true")
    arguments = parser.parse_args()
    clip = arguments.clip.resolve()
    name = "extract_memory_segments.json" if arguments.segments else "extract_memory.json"
    output = arguments.output or Path("benchmarks/results") / name
    with tempfile.TemporaryDirectory() as folder:
        result = {
            "what": "resident memory of an extraction worker, MB",
            "date": time.strftime("%Y-%m-%d"),
            "machine": {"cpu": processor_name(), "cores": os.cpu_count(), "python": platform.python_version()},
            "versions": {name: version(name) for name in ("av", "numba", "simplejpeg", "numpy")},
        }
        if arguments.segments:
            result |= measure_segments(clip, Path(folder))
        else:
            result |= measure_whole(clip, Path(folder), arguments.videos, arguments.minutes)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
