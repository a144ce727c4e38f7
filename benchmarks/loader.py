"""The loader of `tgtrain` against loose files, webdataset, MosaicML MDS, LitData, decord and the bare decoder, on the same JPEG files.

    python benchmarks/loader.py DATA [--videos VIDEOS] [--store FOLDER] [--seconds 8] [--repeats 3] [--only NAME ...] [--speed-only] [--soak CLIPS]

DATA: a data set of `tgprep extract` with a split (UCF101 shape: 320x240). VIDEOS: the videos it was made from. Peers that are not
installed are left out and named; without imgaug the reference's strong view is made by a cheaper stand-in. One clip is 8 RGB + 8 TG frames at 224; ways take turns, each in a process of its own, medians are
reported, ratios are within a round. Clips per core-second count the processor time of all processes of the way, which a busy machine disturbs less than wall
time. All ways run with the same malloc settings, without which those that take new memory for every frame lose up to half. Ours decodes the part of a
frame that a crop needs; "bare" and the others decode complete pictures, as any decoder of JPEG files does.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from manifests.machine import processor_name

STARTED = time.time()
TICKS = os.sysconf("SC_CLK_TCK")
GOALS = {"LitData": 1.5, "MosaicML MDS": 2, "webdataset": 2.5}
PACKAGES = ("torch", "numpy", "simplejpeg", "opencv-python-headless", "Pillow", "webdataset", "mosaicml-streaming", "litdata", "decord", "imgaug")  # fmt: skip
SKIPPED = 400  # clips that a resumed run has behind it
Runs = dict[tuple[str, int], list[dict[str, Any]]]  # figures of each repeat, by way and number of workers


def processes(session: int) -> list[Path]:
    """The processes of a session (a way and its workers)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if int((entry / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                found.append(entry)
        except (OSError, IndexError):
            continue
    return found


def used() -> tuple[float, int, int]:
    """Processor seconds, bytes of read calls and bytes from disk of all processes of this session, ended ones included."""
    seconds, requested, disk = 0.0, 0, 0
    for entry in processes(os.getsid(0)):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            io = dict(line.split(": ") for line in (entry / "io").read_text().splitlines())
        except OSError:
            continue
        seconds += sum(map(int, fields[11:15])) / TICKS  # its own and its ended children's
        requested += int(io["rchar"])
        disk += int(io["read_bytes"])
    return seconds, requested, disk


def memory_mb(session: int) -> float:
    """Memory of all processes of a session, what they share counted once."""
    total = 0.0
    for entry in processes(session):
        try:
            total += int((entry / "smaps_rollup").read_text().split("Pss:")[1].split()[0]) / 1024
        except (OSError, IndexError):
            continue
    return total


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one way in this process: first batch, then batches for some seconds."""
    import torch

    from benchmarks.loader_way import BATCH
    from benchmarks.loader_ways import WAYS
    from tgtrain.data.loader import start_worker

    start_worker(0)
    torch.manual_seed(0)
    kind, store = WAYS[arguments.way]
    way = kind(arguments.data, arguments.store / store, arguments.videos)
    imported = time.time()
    batches = way.open(arguments.workers, arguments.skip)
    next(batches)
    first = time.time()
    result: dict[str, Any] = {"first_batch_seconds": first - imported, "with_imports_seconds": first - STARTED}
    if not arguments.seconds:
        return result
    for _ in range(4 * max(1, arguments.workers)):
        next(batches)
    clips, before, began = 0, used(), time.perf_counter()
    while time.perf_counter() - began < arguments.seconds or clips < 8 * BATCH:
        next(batches)
        clips += BATCH
    wall, after = time.perf_counter() - began, used()
    seconds = after[0] - before[0]
    return {
        **result,
        "clips": clips,
        "clips_per_core_second": clips / seconds,
        "clips_per_second": clips / wall,
        "kb_read_per_clip": (after[1] - before[1]) / clips / 1000,
    }


def cold(arguments: argparse.Namespace) -> dict[str, Any]:
    """Bytes from disk for 64 clips, with the store dropped from the page cache."""
    from benchmarks.loader_way import BATCH
    from benchmarks.loader_ways import WAYS

    kind, store = WAYS[arguments.way]
    folders = [arguments.store / store if store else Path(arguments.data)]
    if arguments.way.startswith("decord"):
        folders = [Path(arguments.videos)]
    os.sync()  # pages not yet written cannot be dropped
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        file = os.open(path, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)
    batches = kind(arguments.data, arguments.store / store, arguments.videos).open(0, 0)
    before = used()
    for _ in range(64 // BATCH):
        next(batches)
    return {"kb_from_disk_per_clip": (used()[2] - before[2]) / 64 / 1000}


def soak(arguments: argparse.Namespace) -> dict[str, Any]:
    """Memory of all processes over many clips of our loader with two workers, at twenty points."""
    from benchmarks.loader_way import BATCH
    from benchmarks.loader_ways import WAYS
    from tgtrain.data.loader import start_worker

    start_worker(0)
    batches = WAYS["ours"][0](arguments.data, arguments.store, arguments.videos).open(2, 0)
    points = []
    for number in range(arguments.soak // BATCH):
        next(batches)
        if number % max(1, arguments.soak // BATCH // 20) == 0:
            points.append(round(memory_mb(os.getsid(0)), 1))
    third = len(points) // 3
    growth = statistics.median(points[-third:]) / statistics.median(points[third : 2 * third])
    return {"clips": arguments.soak, "memory_mb": points, "last third / middle third": round(growth, 3)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--videos", default="")
    parser.add_argument("--store", type=Path, help="where the other ways' stores are kept (default: made and removed)")
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--speed-only", action="store_true", help="clips a second, without resume and cold reads")
    parser.add_argument("--soak", type=int, default=0, help="also read so many clips and note the memory")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/loader.json"))
    for name, kind in (("way", str), ("workers", int), ("skip", int), ("cold", int)):
        parser.add_argument(f"--{name}", type=kind, default=kind(), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        job = cold if arguments.cold else soak if arguments.soak else measure
        print(json.dumps(job(arguments)))
        return
    store = arguments.store or Path(tempfile.mkdtemp(prefix="loader-"))
    try:
        result = compare(arguments, store)
    finally:
        if arguments.store is None:
            shutil.rmtree(store)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(
        json.dumps(
            {name: result[name] for name in ("left_out", "ratios", "ratios with two loader processes each", "goals")},
            indent=1,
        )
    )


def compare(arguments: argparse.Namespace, store: Path) -> dict[str, Any]:
    """Build the stores, run all ways in turns, put their figures together."""
    from benchmarks.loader_ways import WAYS

    left_out = build_stores(arguments, store)
    names = [name for name in WAYS if name not in left_out]
    runs = repeated_runs(arguments, store, names)
    rows: dict[str, dict[str, Any]] = {}
    for (name, workers), found_runs in runs.items():
        rows.setdefault(name, {})[f"{workers} workers"] = middle(found_runs)
    for name in [] if arguments.speed_only else names:
        if name != "bare":
            rows[name].update(run_process(arguments, store, name, "--cold", 1))
        if name in ("MosaicML MDS", "LitData", "webdataset"):  # ours: benchmarks/first_batch.py
            rows[name]["resume_seconds"] = resume_seconds(arguments, store, name)
    if arguments.soak:
        rows["ours"]["soak"] = run_process(arguments, store, "ours", "--soak", arguments.soak)
    return report(arguments, left_out, names, runs, rows)


def build_stores(arguments: argparse.Namespace, store: Path) -> dict[str, str]:
    """Write the stores that are missing; the ways that are left out, with the reason."""
    from benchmarks.loader_ways import WAYS

    left_out: dict[str, str] = {}
    for name, (kind, folder) in WAYS.items():
        if kind.needs and importlib.util.find_spec(kind.needs) is None:
            left_out[name] = f"module {kind.needs} is not installed"
        elif name.startswith("decord") and not arguments.videos:
            left_out[name] = "no --videos"
        elif arguments.only and name not in (*arguments.only, "bare", "ours"):
            left_out[name] = "not requested"
        elif folder and not (store / folder / ".built").exists():
            shutil.rmtree(store / folder, ignore_errors=True)
            kind(arguments.data, store / folder, arguments.videos).build()
            (store / folder / ".built").touch()
    return left_out


def run_process(arguments: argparse.Namespace, store: Path, name: str, *words: object) -> dict[str, Any]:
    """The figures of one way, measured in a process of its own."""
    command = [sys.executable, __file__, arguments.data, "--way", name, "--store", store, "--videos", arguments.videos]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, sys.path))}
    with subprocess.Popen(
        [str(word) for word in (*command, *words)],
        env=environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        # Watched from outside, so that it costs the way nothing.
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, memory_mb(process.pid))
            time.sleep(0.2)
        assert process.stdout is not None
        lines = process.stdout.read().splitlines()
    if process.returncode:
        raise RuntimeError(f"{name} {words} ended with {process.returncode}")
    found: dict[str, Any] = json.loads(lines[-1])
    return {**found, "peak_memory_mb": round(peak, 1)} if "clips_per_second" in found else found


def repeated_runs(arguments: argparse.Namespace, store: Path, names: list[str]) -> Runs:
    """All ways one after the other, `--repeats` times, so that a slow minute of the machine meets all of them."""
    from benchmarks.loader_ways import WAYS

    runs: Runs = {}
    for _ in range(arguments.repeats):
        for name in names:
            for workers in WAYS[name][0].worker_counts:
                found = run_process(arguments, store, name, "--workers", workers, "--seconds", arguments.seconds)
                runs.setdefault((name, workers), []).append(found)
                print(name, workers, {key: round(value, 1) for key, value in found.items()}, file=sys.stderr)
    return runs


def resume_seconds(arguments: argparse.Namespace, store: Path, name: str) -> float | str:
    """Seconds to the first batch after SKIPPED clips, in one process."""
    words = ("--seconds", 0, "--skip", SKIPPED)
    try:
        found = middle([run_process(arguments, store, name, *words) for _ in range(arguments.repeats)])
    except RuntimeError as error:
        return f"failed: {error}"
    return found["first_batch_seconds"]


def report(
    arguments: argparse.Namespace, left_out: dict[str, str], names: list[str], runs: Runs, rows: dict[str, Any]
) -> dict[str, Any]:
    """The contents of the results file."""
    from benchmarks.loader_strong_views import imgaug_version, strong_milliseconds
    from benchmarks.loader_ways import jpeg_kb

    def ratio(other: str, workers: int, figure: str = "clips_per_core_second") -> float:
        pairs = zip(runs["ours", workers], runs[other, workers if other != "bare" else 0], strict=True)
        return round(statistics.median(one[figure] / two[figure] for one, two in pairs), 3)

    ratios = {f"ours / {other}": ratio(other, 0) for other in names if other != "ours"}
    with_two = {f"ours / {other}": ratio(other, 2) for other in names if other != "ours" and (other, 2) in runs}
    used_kb = jpeg_kb(arguments.data, SKIPPED)
    return {
        "what": "training clips (8 RGB + 8 TG at 224) from the same JPEG files",
        "date": datetime.date.today().isoformat(),
        "machine": {"cpu": processor_name(), "cores": len(os.sched_getaffinity(0)), "load at the end": os.getloadavg()[0]},
        "versions": {"python": platform.python_version(), **versions()},
        "settings": {"data": Path(arguments.data).name, "seconds": arguments.seconds, "repeats": arguments.repeats, "skipped clips of a resume": SKIPPED},
        "left_out": left_out,
        "ways": rows,
        "ratios": ratios,
        "ratios with two loader processes each": with_two,
        "one loader process / bare, clips a second": ratio("bare", 1, "clips_per_second"),
        "goals": {
            "times the bare loop over complete pictures (goal 1.2)": ratios["ours / bare"],
            "times the reference's weak + strong pairs (goal 5)": ratios.get("ours / reference, weak + strong"),
            **{
                f"times {name} (goal {goal})": [found.get(f"ours / {name}") for found in (ratios, with_two)]
                for name, goal in GOALS.items()
            },
            "bytes read / bytes of the JPEG files used (goal at most 1.2)": round(rows["ours"]["0 workers"]["kb_read_per_clip"] / used_kb, 3),
            **({"memory at the end of the soak / in its middle (goal at most 1.05)": rows["ours"]["soak"]["last third / middle third"]} if arguments.soak else {}),
        },
        "strong view of the reference": {
            "with": f"imgaug {imgaug_version()}" if imgaug_version() else "stand-in of Pillow and OpenCV, cheaper than imgaug",
            "milliseconds a clip": round(strong_milliseconds(), 2),
        },
        "kb_of_the_jpeg_files_a_clip_needs": round(used_kb, 1),
    }  # fmt: skip


def middle(found_runs: list[dict[str, Any]]) -> dict[str, float]:
    """The median of every figure."""
    return {key: round(statistics.median(each[key] for each in found_runs), 3) for key in found_runs[0]}


def versions() -> dict[str, str]:
    """Of the packages that take part."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    main()
