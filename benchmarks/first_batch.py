"""Seconds from the start of a training to its first batch: of 650,000 videos, and of a run that resumes.

    python benchmarks/first_batch.py DATA [--before CHECKOUT] [--repeats 5] [--workers 0,2] [--store FOLDER]

DATA: a small data set of `tgprep extract` with a split. The long list repeats its videos under other keys in 10,200 shards, so that every
sample can be read. Each start is a process of its own that does what `tgtrain run` does: it starts the server of loader processes,
imports, reads table and split, checks them, and waits for the batch of the first step (or of step 50). Seconds count from the end of
the imports, as a user's own program would see them, and from the start of the process. CPU seconds are those of all its processes.
With --before the code of another checkout takes turns with this one. Page caches are warm.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.machine import processor_name
from manifests.manifest_io import read_manifest, write_manifest
from manifests.splits.label_split import make_split, write_split
from manifests.splits.settings import SplitSettings
from manifests.table import VideoTable

LISTED_VIDEOS = 650_000
RESUMED_STEP = 50
STARTS = {f"{LISTED_VIDEOS} videos": ("many", 0), "resumed": ("few", RESUMED_STEP)}

CHILD = """
import time
began = time.time()
import json, os, sys
from cli import start
start()
data, workers, step = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if workers:
    from tgtrain.ranks.signals import start_helpers
    start_helpers()
import torch
from benchmarks.loader import used
from benchmarks.loader_way import our_setup
from tgtrain.data.build import step_dataset
from tgtrain.data.loader import step_loader
from tgtrain.ranks.distributed import Ranks
import tgtrain.train.trainer
imported, before = time.time(), time.process_time()
setup = our_setup(data)
prepared, after = time.time(), time.process_time()
dataset = step_dataset(setup, Ranks(0, 1, torch.device("cpu")))
next(step_loader(dataset, range(step, 10**9), workers, pin=False))
first = time.time()
print(json.dumps({
    "seconds": first - imported, "seconds_with_imports": first - began,
    "setup_cpu_seconds": after - before, "cpu_seconds_with_imports": used()[0],
    # Not ru_maxrss, which begins with that of the process that started this one.
    "peak_mb": int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024,
}))
sys.stdout.flush()
os._exit(0)
"""


def measure(code: Path, data: Path, workers: int, step: int) -> dict[str, float]:
    """One start by the code of a checkout."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(code)}
    words = [sys.executable, "-c", CHILD, str(data), str(workers), str(step)]
    done = subprocess.run(
        words, cwd=code, env=environment, stdout=subprocess.PIPE, text=True, check=True, start_new_session=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def many_videos(data: Path, folder: Path) -> Path:
    """A data set of LISTED_VIDEOS videos in shards of 64: rows of `data` under other keys, paths and digests, links to its shards.

    Keys, digests and places differ from row to row, as in a real table: one whose values repeat is read many times faster.
    """
    if (folder / "splits").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    manifest = read_manifest(data)
    rows = manifest.videos.arrow.filter(pc.equal(manifest.videos.arrow["status"], "written"))
    copies = -(-LISTED_VIDEOS // len(rows))
    table = rows.take(pa.array(np.repeat(np.arange(len(rows)), copies)[:LISTED_VIDEOS]))
    ending = pa.array([f"-{number:05d}" for number in range(copies)])
    ending = ending.take(pa.array(np.tile(np.arange(copies), len(rows))[:LISTED_VIDEOS]))
    # Copy number c of a shard of M videos stands for one of 64: it has the M videos 64 / M times.
    number_of = {shard.name: number for number, shard in enumerate(manifest.shards)}
    turn = np.tile(np.arange(copies), len(rows))[:LISTED_VIDEOS]
    per_shard = {shard.name: max(1, 64 // shard.num_videos) for shard in manifest.shards}
    shards: dict[str, Any] = {}
    names = []
    for shard, copy in zip(table["shard"].to_pylist(), turn.tolist(), strict=True):
        name = f"shard-{copy // per_shard[shard] * len(number_of) + number_of[shard]:06d}.tar"
        shards.setdefault(name, manifest.shards[number_of[shard]])
        names.append(name)
    keys = pc.binary_join_element_wise(table["key"].cast(pa.string()), ending, "")
    changed = {
        "key": keys,
        "path": pc.binary_join_element_wise(keys, ".avi", ""),
        "shard": pa.array(names),
        "source_sha256": pa.array([hashlib.sha256(key.encode()).hexdigest() for key in keys.to_pylist()]),
    }
    for name, column in changed.items():
        table = table.set_column(table.column_names.index(name), table.schema.field(name), column)
    folder.mkdir(parents=True)
    for name, shard in shards.items():
        (folder / name).symlink_to(data.resolve() / shard.name)
    shard_rows = [dataclasses.replace(shard, name=name) for name, shard in sorted(shards.items())]
    header = dataclasses.replace(manifest.header, num_written=len(table), num_failed=0, num_skipped=0)
    write_manifest(folder, header, VideoTable(table), shard_rows)
    write_split(folder, make_split(read_manifest(folder), SplitSettings(percent=20)))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--before", type=Path, help="another checkout, to compare with")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", default="0,2", help="numbers of loader processes")
    parser.add_argument("--store", type=Path, help="where the long list is kept (default: made and removed)")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/first_batch.json"))
    arguments = parser.parse_args()
    store = arguments.store or Path(tempfile.mkdtemp(prefix="first-batch-"))
    try:
        places = {"few": arguments.data.resolve(), "many": many_videos(arguments.data, store / "many").resolve()}
        result = compare(arguments, places)
    finally:
        if arguments.store is None:
            shutil.rmtree(store)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["starts"], indent=1))


def compare(arguments: argparse.Namespace, places: dict[str, Path]) -> dict[str, Any]:
    """All starts in turns, `--repeats` times, and the contents of the results file."""
    codes = {"now": Path(__file__).resolve().parents[1]}
    if arguments.before:
        codes["before"] = arguments.before.resolve()
    runs: dict[str, dict[str, list[dict[str, float]]]] = {}
    for _ in range(arguments.repeats):
        for name, (place, step) in STARTS.items():
            for workers in map(int, arguments.workers.split(",")):
                for code, root in codes.items():
                    found = measure(root, places[place], workers, step)
                    runs.setdefault(f"{name}, {workers} loader processes", {}).setdefault(code, []).append(found)
                    print(name, workers, code, {key: round(value, 2) for key, value in found.items()}, file=sys.stderr)
    starts: dict[str, Any] = {}
    for name, of_code in runs.items():
        starts[name] = {
            code: {key: round(statistics.median(each[key] for each in found), 3) for key in found[0]}
            for code, found in of_code.items()
        }
        if "before" in of_code:
            starts[name]["now / before"] = {
                key: round(statistics.median(n[key] / b[key] for n, b in zip(*of_code.values(), strict=True)), 3)
                for key in of_code["now"][0]
            }
    return {
        "what": f"the first batch of {LISTED_VIDEOS} videos, and that of step {RESUMED_STEP} of {places['few'].name}",
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"cpu": processor_name(), "cores": len(os.sched_getaffinity(0)), "load at the end": os.getloadavg()},
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "numpy", "pyarrow")},
        "settings": {"repeats": arguments.repeats, "before": str(arguments.before and commit_of(arguments.before))},
        "starts": starts,
    }


def commit_of(checkout: Path) -> str:
    """The commit of a checkout."""
    return subprocess.check_output(["git", "-C", checkout, "rev-parse", "--short", "HEAD"], text=True).strip()


if __name__ == "__main__":
    main()
