"""Compare decoders on real and odd files: speed, number of frames, the same pixels every time, hangs and crashes.

    python benchmarks/decoders.py VIDEOS [--speed ucf101,hmdb51,kinetics400] [--repeats 20] [--output benchmarks/results/decoders.json]

VIDEOS: a folder with videos; speed is measured on those below the folders named by --speed. The expected number of frames is that of
the ffmpeg program (the binary of imageio-ffmpeg) for a file's default stream. Each decoder reads each file `--repeats` times in a
separate process with a time limit; digests are of all pixels.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import imageio_ffmpeg

from manifests.machine import processor_name
from tgprep.decode.frames import DecodeError, Planes
from tgprep.decode.open import open_video

WAYS = {
    "pyav, planes as coded": ("pyav", "ycbcr420"),  # the input of the fused encoder
    "pyav, planes": ("pyav", "ycbcr420"),
    "pyav, RGB": ("pyav", "rgb"),
    "opencv, RGB": ("opencv", "rgb"),
    "decord, RGB": ("decord", "rgb"),
}
LIMIT_SECONDS = 60.0
ENDINGS = {".avi", ".mp4", ".mkv", ".webm", ".mov", ".mpg", ".gif"}


def true_frames(path: Path) -> int:
    """Number of frames that the ffmpeg program decodes."""
    program = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", f"file:{path}", "-an", "-fps_mode", "passthrough"]
    listing = subprocess.run([*program, "-f", "framecrc", "-"], capture_output=True, check=False)
    return sum(bool(line) and not line.startswith("#") for line in listing.stdout.decode().splitlines())


def read(way: str, path: Path, repeats: int) -> None:
    """Decode the file `repeats` times; print a JSON line each (frames, digest, processor seconds of decoding only)."""
    decoder, space = WAYS[way]
    for _ in range(repeats):
        digest, count, seconds = hashlib.sha256(), 0, 0.0
        began = time.process_time()
        try:
            video = open_video(path, decoder=decoder, space=space, short_side=0, as_coded=way.endswith("as coded"))
            for picture in video.frames:
                seconds += time.process_time() - began
                for plane in (picture.y, picture.cb, picture.cr) if isinstance(picture, Planes) else (picture,):
                    digest.update(plane.data if plane.flags.c_contiguous else plane.tobytes())
                count += 1
                began = time.process_time()
            seconds += time.process_time() - began
            video.close()
        except DecodeError as error:
            print(json.dumps({"frames": 0, "refused": str(error)}), flush=True)
            return
        print(json.dumps({"frames": count, "digest": digest.hexdigest(), "seconds": seconds}), flush=True)


def run_decoder(way: str, path: Path, repeats: int) -> dict[str, Any]:
    """The result of a decoder for a file: frames, number of different outcomes, processor seconds of the fastest run, or the error."""
    words = [sys.executable, __file__, "--read", way, str(path), "--repeats", str(repeats)]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=LIMIT_SECONDS * max(1, repeats / 10), check=False
        )
        lines, wrong = done.stdout.splitlines(), f"exit {done.returncode}" if done.returncode else ""
    except subprocess.TimeoutExpired as error:
        lines, wrong = (error.stdout or b"").decode().splitlines(), "hangs"
    runs = [json.loads(line) for line in lines]
    if not runs:
        return {"frames": 0, "outcomes": 0, "wrong": wrong or "nothing"}
    if "refused" in runs[0]:
        return {"frames": 0, "outcomes": 1, "wrong": f"refused: {runs[0]['refused']}"}
    return {
        "frames": runs[0]["frames"],
        "outcomes": len({(run["frames"], run["digest"]) for run in runs}),
        "seconds": min(run["seconds"] for run in runs),
        "wrong": wrong,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("videos", type=Path)
    parser.add_argument("--speed", default="ucf101,hmdb51,kinetics400")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1, help="files read at a time")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/decoders.json"))
    parser.add_argument("--read", metavar="WAY", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        read(arguments.read, arguments.videos, arguments.repeats)
        return
    root = arguments.videos.resolve()
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.suffix.lower() in ENDINGS)
    truth = {path: true_frames(path) for path in files}
    outcomes_by_way: dict[str, dict[Path, dict[str, Any]]] = {}
    for way in WAYS:
        with ThreadPoolExecutor(arguments.processes) as pool:
            outcomes = pool.map(run_decoder, [way] * len(files), files, [arguments.repeats] * len(files))
            outcomes_by_way[way] = dict(zip(files, outcomes, strict=True))
        print(way, time.strftime("%H:%M:%S"), file=sys.stderr, flush=True)
    rows: dict[str, Any] = {}
    for way, outcomes in outcomes_by_way.items():
        speed: dict[str, float] = {}
        for folder in arguments.speed.split(","):
            in_folder = [o for path, o in outcomes.items() if path.relative_to(root).parts[0] == folder and o["frames"]]
            seconds = sum(o.get("seconds", 0.0) for o in in_folder)
            speed[folder] = round(sum(o["frames"] for o in in_folder) / seconds, 1) if seconds else 0.0
        wrong = defaultdict(list)
        for path, outcome in outcomes.items():
            name = path.relative_to(root).as_posix()
            if outcome["wrong"]:
                wrong[outcome["wrong"].partition(":")[0]].append(name)
            elif outcome["frames"] != truth[path]:
                wrong["other number of frames"].append(f"{name}: {outcome['frames']}, ffmpeg {truth[path]}")
            if outcome["outcomes"] > 1:
                wrong["other pixels from run to run"].append(name)
        rows[way] = {
            "frames_per_core_second": speed,
            "files_with_all_frames": sum(o["frames"] == truth[p] for p, o in outcomes.items()),
            "files": len(files),
            "same_every_time": sum(o["outcomes"] == 1 for o in outcomes.values()),
            "wrong": dict(wrong),
        }
    result = {
        "what": "decoders on real and odd files",
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"cpu": processor_name(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("av", "opencv-python-headless", "decord", "imageio-ffmpeg")},
        "settings": {
            "repeats": arguments.repeats,
            "processes": arguments.processes,
            "time_limit_seconds": LIMIT_SECONDS,
        },
        "ways": rows,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    for way, row in rows.items():
        print(f"{way:22} {row['frames_per_core_second']}  all frames {row['files_with_all_frames']}/{row['files']}")
        print(f"{'':22} same every time {row['same_every_time']}/{row['files']}  {json.dumps(row['wrong'], indent=1)}")


if __name__ == "__main__":
    main()
