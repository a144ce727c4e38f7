"""`split`, `info` and `check` on a data set of the size of Kinetics-700: seconds and peak memory of each command.

    python benchmarks/scale.py [--output benchmarks/results/scale.json] [--videos 650000] [--folder DIR] [--keep]

The data set is made up, the way to it is not: 700 classes, official train, val and test parts, 64 videos a shard, tables and shards as
docs/format.md says. A video has 250 frames of one byte each, so that all shards fit on a disk (6.0 GB for 650,000): `check` without --deep
compares only sizes and sha256 of shards, and the time to read real ones from disk is not in these figures. Each command is a process
of its own, started with the made shards in the page cache; seconds are wall time and processor time, memory is the peak of the resident set.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from manifests.manifest_io import write_manifest
from manifests.records import WRITTEN, GradientCoding, ManifestHeader, ShardRow, VideoRow
from manifests.sample import EncodedVideo, FrameSpool, sample_facts, write_end, write_sample

CLASSES = tuple(f"made_up_class_{number:03}" for number in range(700))
FRAMES = 250
VIDEOS_PER_SHARD = 64
PARTS = {"train": 0.83, "val": 0.05, "test": 0.12}  # about the shares of Kinetics-700
COMMANDS = {
    "split --percent 10": ["split", "{out}", "--percent", "10", "--name", "percent"],
    "split --per-class 8": ["split", "{out}", "--per-class", "8", "--name", "each"],
    "split --export csv": ["split", "{out}", "--export", "csv", "--name", "percent", "--output", "{out}/../list.csv"],
    "split --import (the exported list)": ["split", "{out}", "--import", "{out}/../list.csv", "--name", "again"],
    "split --show": ["split", "{out}", "--show", "percent"],
    "split --compare": ["split", "{out}", "--compare", "percent", "again"],
    "info": ["info", "{out}"],
    "check --quick": ["check", "{out}", "--quick"],
    "check": ["check", "{out}"],
}


def make(out: Path, num_videos: int) -> None:
    """A sound data set of made-up videos at `out`."""
    draw = np.random.default_rng(0)
    classes = draw.integers(0, len(CLASSES), num_videos).tolist()
    parts = draw.choice(list(PARTS), num_videos, p=list(PARTS.values())).tolist()
    fps = draw.choice([25.0, 29.97, 30.0], num_videos).tolist()
    rgb = FrameSpool(io.BytesIO(bytes(FRAMES)), list(range(FRAMES + 1)))
    tg = FrameSpool(io.BytesIO(bytes(FRAMES - 1)), list(range(FRAMES)))
    gradient = GradientCoding(space="ycbcr420")
    out.mkdir(parents=True)
    rows: list[VideoRow] = []
    shards: list[ShardRow] = []
    for first in range(0, num_videos, VIDEOS_PER_SHARD):
        shard, name = io.BytesIO(), f"shard-{len(shards):06}.tar"
        for number in range(first, min(first + VIDEOS_PER_SHARD, num_videos)):
            key = f"{CLASSES[classes[number]]}/v{number:010}_000004_000014"
            facts: dict[str, Any] = {
                "key": key,
                "path": f"{parts[number]}/{key}.mp4",
                "class_name": CLASSES[classes[number]],
                "label": classes[number],
                "group": "",
                "num_frames": FRAMES,
                "fps": fps[number],
                "height": 256,
                "width": 340,
                "codec": "h264",
                "pixel_format": "yuv420p",
                "source_sha256": hashlib.sha256(key.encode()).hexdigest(),
            }
            meta = sample_facts(VideoRow(subsets=(), status=WRITTEN, **facts), {"quality": 95}, gradient)
            offset, size, members = write_sample(shard, EncodedVideo(key, meta, rgb, tg))
            rows.append(
                VideoRow(
                    subsets=(parts[number],),
                    status=WRITTEN,
                    shard=name,
                    sample_offset=offset,
                    sample_bytes=size,
                    members=members,
                    num_frames_header=FRAMES,
                    num_source_bytes=1_000_000,
                    **facts,
                )
            )
        write_end(shard)
        content = shard.getvalue()
        (out / name).write_bytes(content)
        num_samples = len(rows) - first
        shards.append(ShardRow(name, num_samples, len(content), hashlib.sha256(content).hexdigest()))
    rows.sort(key=lambda row: row.key)
    settings = {"quality": 95, "videos_per_shard": VIDEOS_PER_SHARD}
    header = ManifestHeader(
        "kinetics700", CLASSES, gradient, settings, {"tgprep": "made up"}, num_folds=1, num_written=len(rows)
    )
    write_manifest(out, header, rows, shards)


def measure(words: list[str]) -> dict[str, float]:
    """One command as a process of its own: wall and processor seconds, peak memory."""
    began = time.monotonic()
    process = os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "tgprep", *words],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)],
    )
    _, status, usage = os.wait4(process, 0)
    if status:
        raise SystemExit(f"tgprep {' '.join(words)} ended with {os.waitstatus_to_exitcode(status)}")
    return {
        "seconds": round(time.monotonic() - began, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mb": round(usage.ru_maxrss / 1024, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/scale.json"))
    parser.add_argument("--videos", type=int, default=650_000)
    parser.add_argument("--folder", type=Path, help="where the data set is made (default: a temporary folder)")
    parser.add_argument("--keep", action="store_true", help="take the data set that is there, and leave it")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make:
        make(arguments.make, arguments.videos)
        return
    root = arguments.folder or Path(tempfile.mkdtemp())
    out = root / "dataset"
    try:
        if not out.exists():  # in a process of its own: Linux counts the peak of a parent as that of its children
            subprocess.run(
                [sys.executable, __file__, "--make", str(out), "--videos", str(arguments.videos)], check=True
            )
        made = sum(file.stat().st_size for file in out.glob("*.tar"))
        figures = {name: measure([word.format(out=out) for word in words]) for name, words in COMMANDS.items()}
    finally:
        if not arguments.keep:
            shutil.rmtree(root)
    result = {
        "what": f"commands of tgprep on {arguments.videos} made-up videos of {len(CLASSES)} classes",
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"cores": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("pyarrow", "numpy")},
        "num_videos": arguments.videos,
        "shard_bytes": made,
        "commands": figures,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
