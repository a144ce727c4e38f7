"""Precision and recall of `tgprep check --duplicates` on real clips, and the time of its search for many videos.

    python benchmarks/duplicates.py ../shared --originals 24 --output benchmarks/results/duplicates.json
    python benchmarks/duplicates.py ../shared --scale 650000 --output benchmarks/results/duplicates.json

Copies of UCF101, HMDB51 and Weizmann clips are made with ffmpeg in six ways, beside all UCF101 clips of three classes (two a group).
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import resource
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np

from tgprep.config import ExtractSettings, WorkerSettings
from tgprep.duplicates.hashes import WINDOWS, VideoHashes
from tgprep.duplicates.pairs import find_pairs
from tgprep.duplicates.search import find_candidates
from tgprep.extract.pipeline import extract
from tgprep.extract.workers.shards import Request
from tgprep.scan.pool import Pools
from tgprep.scan.scan import scan

KINDS = {
    "reencode": ["-c:v", "libx264", "-crf", "32"],
    "crop": ["-vf", "crop=iw*0.86:ih*0.86:iw*0.05:ih*0.09", "-c:v", "libx264", "-crf", "23"],
    "scale": ["-vf", "scale=160:120", "-c:v", "mpeg4", "-q:v", "6"],
    "mirror": ["-vf", "hflip", "-c:v", "libx264", "-crf", "23"],
    "trim": ["-c:v", "libx264", "-crf", "23"],
    "all": ["-vf", "hflip,crop=iw*0.9:ih*0.9:iw*0.02:ih*0.06,scale=224:168", "-c:v", "libx264", "-crf", "28"],
}


def copy(source: Path, kind: str, target: Path) -> None:
    """Write a copy; `trim` and `all` keep the half behind the first 23 %."""
    with av.open(str(source)) as container:
        seconds = (container.duration or 0) / 1e6
    cut = ["-ss", f"{seconds * 0.23:.3f}", "-t", f"{seconds * 0.5:.3f}"] if kind in ("trim", "all") else []
    program = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-v",
        "error",
        *cut,
        "-i",
        str(source),
        "-an",
        *KINDS[kind],
        str(target),
    ]
    subprocess.run(program, check=True)


def measure(shared: Path, num_originals: int, seed: int, root: Path) -> dict[str, object]:
    """Make the copies and the data set, and count what is found."""
    ucf = sorted((shared / "ucf101_3class/UCF-101").rglob("*.avi"))
    others = [*(shared / "videos/hmdb51").rglob("*.avi"), *(shared / "actions/weizmann10").rglob("*.avi")]
    draw = random.Random(seed)
    originals = draw.sample(ucf, num_originals // 2) + draw.sample(sorted(others), num_originals - num_originals // 2)
    for source in {*ucf, *originals}:
        (root / "videos" / source.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(source, root / "videos" / source.parent.name)
    (root / "pool").mkdir()
    made = Counter[str]()
    for number, source in enumerate(originals):
        for kind in (list(KINDS)[number % len(KINDS)], list(KINDS)[(number + 2) % len(KINDS)]):
            copy(source, kind, root / "pool" / f"{kind}__{source.stem}.mp4")
            made[kind] += 1
    pools = Pools.of(root / "videos", [root / "pool"])
    settings = ExtractSettings(short_side=120, gradient="derived")
    request = Request(root / "videos", root / "out", settings, WorkerSettings(), pools)
    manifest = extract(request, scan(root / "videos", dataset="folder", pools=pools)).manifest
    began = time.perf_counter()
    pairs = find_pairs(manifest)
    seconds = time.perf_counter() - began
    names = [[key.split("/")[1].rpartition("__")[::2] for key in (pair.first, pair.second)] for pair in pairs]
    wrong = sum(first[1] != second[1] for first, second in names)
    found = Counter(max(a[0], b[0]) for a, b in names if a[1] == b[1] and "" in (a[0], b[0]))
    groups = Counter(f"{source.parent.name}/{source.stem.rpartition('_')[0]}" for source in ucf)
    return {
        "num_videos": manifest.header.num_written,
        "num_pairs_of_one_group": sum(count * (count - 1) // 2 for count in groups.values()),
        "num_pairs_found": len(pairs),
        "num_wrong_pairs": wrong,
        "precision": 1 - wrong / max(1, len(pairs)),
        "recall": sum(found.values()) / made.total(),
        "copies": {kind: {"made": made[kind], "found": found[kind]} for kind in made},
        "seconds": round(seconds, 1),
    }


def search(num_videos: int) -> dict[str, float]:
    """Time and memory of the search among random hashes of 16 frames a video, and how many of the planted pairs it finds.

    One video in a hundred is a near-copy of another one: 0 to 8 bits of each of its hashes differ.
    """
    generator = np.random.default_rng(0)
    hashes = generator.integers(0, 2**64, (num_videos, 16, len(WINDOWS)), np.uint64)
    planted = num_videos // 100
    for number in range(planted):
        flips = np.zeros((16, len(WINDOWS)), np.uint64)
        for _ in range(8):
            drawn = generator.integers(0, 64, flips.shape, np.uint64)
            flips ^= (generator.random(flips.shape) < 0.5).astype(np.uint64) << drawn
        hashes[num_videos - 1 - number] = hashes[number] ^ flips
    videos = [VideoHashes(np.arange(16, dtype=np.int32), of_video) for of_video in hashes]
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = find_candidates(videos)
    seconds = time.perf_counter() - began
    pairs = {(min(pair.first, pair.second), max(pair.first, pair.second)) for pair in found}
    return {
        "videos": num_videos,
        "seconds": round(seconds, 1),
        "hashes_mb": round(before / 1024),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "candidates": len(found),
        "planted": planted,
        "planted_found": sum((number, num_videos - 1 - number) in pairs for number in range(planted)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--originals", type=int, default=24)
    parser.add_argument("--seed", type=int, default=2, help="of the originals; the threshold was chosen with seed 1")
    parser.add_argument(
        "--scale", type=int, help="measure the search alone, for this many videos made up, and keep the other figures"
    )
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    facts: dict[str, object] = json.loads(options.output.read_text()) if options.output.exists() else {}
    now: dict[str, object] = {"machine": platform.machine(), "date": time.strftime("%Y-%m-%d")}
    if options.scale:
        facts["search"] = now | search(options.scale)
    else:
        with tempfile.TemporaryDirectory() as folder:
            now |= {"originals": options.originals, "seed": options.seed}
            facts["clips"] = now | measure(options.shared, options.originals, options.seed, Path(folder))
    options.output.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
