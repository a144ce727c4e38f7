"""How extraction and loader scale with processes: measured for the counts that are asked for, predicted beyond them.

    python benchmarks/scaling.py VIDEOS DATA [--workers 1,2,4,8,16] [--repeats 2] [--seconds 8]

VIDEOS: class folders of videos, repeated by links until there are eight shards for each worker. DATA: a data set with a split.

Extraction: `tgprep extract --threads N` of each count in turns. What one process does alone is timed in it, part by part: start, scan, plan,
journal, joining of the tables. The sha256 of shards and videos are computed by the workers; their rate is measured, too. Predicted is
T(N) = S + P / N (Amdahl), S the processor seconds of the main process, P those of all workers.
Loader: clips per second by N loader processes; predicted is min(N / w, 1 / m), w and m the processor seconds that a loader process and
the training process spend on a clip. Both predictions take a core for each process, and no disk or memory that is shared.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.extract import copy_corpus
from manifests.machine import processor_name

SHARDS_A_WORKER = 8
PREDICTED = (1, 2, 4, 8, 16, 64, 256)
SERIAL = {
    "scan": ("tgprep.scan.scan", "scan"),
    "plan": ("tgprep.extract.pipeline", "resume_or_begin"),
    "journal": ("tgprep.extract.work_folder", "save_done"),
    "join": ("tgprep.extract.pipeline", "join"),
}


def extract_here(words: list[str]) -> None:
    """The command in this process, with its parts timed; figures as JSON on the last line."""
    from cli import start

    start()
    began = time.perf_counter()
    cpu: dict[str, float] = dict.fromkeys(SERIAL, 0.0)

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            before = time.thread_time()
            try:
                return function(*arguments, **options)
            finally:
                cpu[name] += time.thread_time() - before

        return call

    for name, (module, function) in SERIAL.items():
        place = importlib.import_module(module)
        setattr(place, function, timed(name, getattr(place, function)))
    imported = time.process_time()
    from cli.prep import main as tgprep_main

    try:
        tgprep_main([*words, "--quiet", "--json"], standalone_mode=False)
    except SystemExit as end:
        if end.code:
            raise
    own = time.process_time()
    parts = {"start": imported, **cpu, "events of the workers, and the rest": own - imported - sum(cpu.values())}
    workers = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = {"wall": time.perf_counter() - began, "workers_cpu": workers.ru_utime + workers.ru_stime, "parts": parts}
    print("\n" + json.dumps(found))


def load_here(data: str, workers: int, seconds: float) -> None:
    """Batches of the trainer's loader for some seconds; figures as JSON on the last line."""
    import torch

    from benchmarks.loader import used
    from benchmarks.loader_way import BATCH, our_setup
    from tgtrain.data.build import step_dataset
    from tgtrain.data.loader import step_loader
    from tgtrain.ranks.distributed import Ranks

    dataset = step_dataset(our_setup(data), Ranks(0, 1, torch.device("cpu")))
    batches = step_loader(dataset, range(10**9), workers, pin=False, num_in_use=1)
    for _ in range(4 * workers):
        next(batches)
    clips, before, own, began = 0, used()[0], time.process_time(), time.perf_counter()
    while time.perf_counter() - began < seconds or clips < 8 * BATCH * workers:
        next(batches)
        clips += BATCH
    main, wall = time.process_time() - own, time.perf_counter() - began
    of_workers = used()[0] - before - main
    found = {"clips_per_second": clips / wall, "main_cpu": main / clips, "worker_cpu": of_workers / clips}
    print(json.dumps(found), flush=True)
    os._exit(0)


def child(*words: object) -> dict[str, Any]:
    """A process of its own, and the figures it prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    done = subprocess.run(
        [sys.executable, __file__, *map(str, words)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        start_new_session=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def middle(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The median of every figure."""
    return {
        key: middle([run[key] for run in runs])
        if isinstance(value, dict)
        else float(f"{statistics.median(run[key] for run in runs):.4g}")
        for key, value in runs[0].items()
    }


def extraction(videos: Path, counts: list[int], repeats: int, shard_videos: int) -> dict[str, Any]:
    """Measured walls and parts by number of workers, and the prediction from them."""
    files = sum(path.is_file() for path in videos.rglob("*"))
    assert files, f"{videos} holds no files"
    copies = -(-shard_videos * SHARDS_A_WORKER * max(counts) // files)
    runs: dict[int, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder, "videos")
        corpus.mkdir()
        copy_corpus(videos.resolve(), corpus, copies)
        for turn in range(repeats):
            for count in counts if turn % 2 == 0 else counts[::-1]:
                with tempfile.TemporaryDirectory() as out:
                    how = ("--dataset", "folder", "--threads", count, "--videos-per-shard", shard_videos)
                    runs.setdefault(count, []).append(child("--extract", "extract", corpus, f"{out}/out", *how))
                print("extract", count, runs[count][-1], file=sys.stderr, flush=True)
    found = {count: middle(of_count) for count, of_count in runs.items()}
    serial = statistics.median(sum(each["parts"].values()) for each in found.values())
    parallel = statistics.median(each["workers_cpu"] for each in found.values())
    content, began = bytes(1 << 26), time.process_time()
    hashlib.sha256(content).hexdigest()
    return {
        "videos": files * copies,
        "shards": -(-files * copies // shard_videos),
        "measured": {f"{count} workers": each for count, each in found.items()},
        "sha256 in a worker, MB per core-second": round(len(content) / 1e6 / (time.process_time() - began)),
        "S, processor seconds of the main process": round(serial, 2),
        "P, processor seconds of all workers": round(parallel, 2),
        "predicted times as fast as one worker": {
            f"{count} workers": round((serial + parallel) / (serial + parallel / count), 1) for count in PREDICTED
        },
    }


def loading(data: Path, counts: list[int], repeats: int, seconds: float) -> dict[str, Any]:
    """Measured clips per second by number of loader processes, and the prediction."""
    runs: dict[int, list[dict[str, Any]]] = {}
    for turn in range(repeats):
        for count in counts if turn % 2 == 0 else counts[::-1]:
            runs.setdefault(count, []).append(child("--load", data, count, seconds))
            print("load", count, runs[count][-1], file=sys.stderr, flush=True)
    found = {count: middle(of_count) for count, of_count in runs.items()}
    main, worker = (statistics.median(each[name] for each in found.values()) for name in ("main_cpu", "worker_cpu"))
    return {
        "measured": {f"{count} loader processes": each for count, each in found.items()},
        "m, microseconds of the training process a clip": round(main * 1e6, 1),
        "w, microseconds of a loader process a clip": round(worker * 1e6, 1),
        "predicted clips per second": {
            f"{count} loader processes": round(min(count / worker, 1 / main)) for count in PREDICTED
        },
    }


def main() -> None:
    if sys.argv[1:2] == ["--extract"]:
        extract_here(sys.argv[2:])
        return
    if sys.argv[1:2] == ["--load"]:
        load_here(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("videos", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--workers", default="1,2,4,8,16", help="the counts to measure")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--shard-videos", type=int, default=8, help="videos in a shard")
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/scaling.json"))
    arguments = parser.parse_args()
    counts = list(map(int, arguments.workers.split(",")))
    result = {
        "what": "extraction and loader by number of processes",
        "date": time.strftime("%Y-%m-%d"),
        "extraction": extraction(arguments.videos, counts, arguments.repeats, arguments.shard_videos),
        "loader": loading(arguments.data.resolve(), counts, arguments.repeats, arguments.seconds),
        "machine": {"cpu": processor_name(), "cores": os.cpu_count(), "load at the end": os.getloadavg()},
        "versions": {"python": platform.python_version()} | {name: version(name) for name in ("torch", "numpy", "av")},
        "settings": {"workers": counts, "repeats": arguments.repeats, "seconds": arguments.seconds},
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    main()
