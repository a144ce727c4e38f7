"""Compare extraction with the bare codecs and with the two-pass way to loose files, in one run on one corpus.

    python benchmarks/extract.py VIDEOS [--output benchmarks/results/extract.json] [--repeats 3] [--workers 2] [--copies 1]

VIDEOS: class folders of videos. Figures are frames per core-second: frames divided by the processor seconds (user and system) of all
processes of the command, which a busy machine disturbs less than wall time. --copies: repeat every video, so that the corpus
outweighs the start of a process. Ratios are within the run; the ways take turns, medians are reported. Everything is written below
TMPDIR: /dev/shm leaves out the cost of a disk and its file system, which is highest for loose files.

The plain loops keep frame-sized buffers by the malloc settings that the workers of tgprep have. The two-pass way runs without them,
as its users run it, and once more with them: its time without them depends on what else is on the heap of its process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from manifests.machine import processor_name

CODECS = """
import sys
from pathlib import Path
from tgprep.decode.open import open_video
from tgprep.encode.fused import picture_encoder
gradient = sys.argv[2] == "stored"
part, parts = int(sys.argv[4]), int(sys.argv[5])
with open(sys.argv[3] + f".{part}", "wb") as out:
    for path in sorted(p for p in Path(sys.argv[1]).rglob("*") if p.is_file())[part::parts]:
        video = open_video(path, decoder="pyav", space="ycbcr420", short_side=0, as_coded=True)
        encode = picture_encoder(95, gradients=gradient)
        for planes in video.frames:
            for jpeg in encode(planes):
                if jpeg is not None:
                    out.write(jpeg)
"""

LIBJPEG = """
import sys, cv2, simplejpeg
from pathlib import Path
from tgprep.decode.open import open_video
from tgprep.decode.planes import gradient_of
cv2.setNumThreads(1)
gradient = sys.argv[2] == "stored"
with open(sys.argv[3], "wb") as out:
    for path in sorted(p for p in Path(sys.argv[1]).rglob("*") if p.is_file()):
        video = open_video(path, decoder="pyav", space="ycbcr420", short_side=0)
        previous = None
        for p in video.frames:
            out.write(simplejpeg.encode_jpeg_yuv_planes(p.y, p.cb, p.cr, 95))
            if gradient and previous is not None:
                tg = gradient_of(previous, p)
                out.write(simplejpeg.encode_jpeg_yuv_planes(tg.y, tg.cb, tg.cr, 95))
            previous = p
"""

# One pass with the usual libraries: the obvious script without loose files.
ONE_PASS = """
import sys, cv2, numpy as np, simplejpeg
from pathlib import Path
cv2.setNumThreads(1)
with open(sys.argv[2], "wb") as out:
    for path in sorted(p for p in Path(sys.argv[1]).rglob("*") if p.is_file()):
        capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        previous = None
        while True:
            ok, frame = capture.read()
            if not ok:
                break
            out.write(simplejpeg.encode_jpeg(frame, 95, "BGR", "420"))
            if previous is not None:
                gradient = cv2.addWeighted(previous, 0.5, frame, -0.5, 127.25)
                out.write(simplejpeg.encode_jpeg(gradient, 95, "BGR", "420"))
            previous = frame
"""

# The two scripts of the reference, one command each: frames as JPEG files; then, read back one by one, the gradient of each and the one before.
FIRST_PASS = """
import sys, cv2
from pathlib import Path
cv2.setNumThreads(1)
source, out = Path(sys.argv[1]), Path(sys.argv[2])
for path in sorted(p for p in source.rglob("*") if p.is_file()):
    folder = out / path.relative_to(source).with_suffix("")
    folder.mkdir(parents=True)
    capture, number = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1]), 0
    while True:
        ok, frame = capture.read()
        if not ok:
            break
        number += 1
        cv2.imwrite(str(folder / f"img_{number:05d}.jpg"), frame)
"""

SECOND_PASS = """
import sys, cv2, numpy as np
from pathlib import Path
cv2.setNumThreads(1)
for folder in sorted(p for p in Path(sys.argv[1]).glob("*/*") if p.is_dir()):
    previous = None
    for number, path in enumerate(sorted(folder.glob("img_*.jpg"))):
        current = cv2.imread(str(path)).astype(np.float32)
        if previous is not None:
            difference = previous - current
            difference += 255
            difference /= 2
            cv2.imwrite(str(folder / f"tempgrad_{number:05d}.jpg"), difference.astype(np.uint8))
        previous = current
"""


# The settings of the workers of tgprep: frame-sized buffers are kept.
MALLOC = {"MALLOC_TRIM_THRESHOLD_": str(256 * 1024**2), "MALLOC_MMAP_THRESHOLD_": str(64 * 1024**2)}


def measure(command: list[str], keep_buffers: bool) -> tuple[float, float, float]:
    """Run a command: processor seconds of it and its children, wall seconds, peak resident MB of a tgprep worker."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(MALLOC if keep_buffers else {})}
    peak, stop = [0.0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.1):
            for entry in Path("/proc").glob("[0-9]*"):
                try:
                    if b"tgprep.extract.workers.worker" in (entry / "cmdline").read_bytes():
                        status = (entry / "status").read_text()
                        peak[0] = max(peak[0], int(status.split("VmHWM:")[1].split()[0]) / 1024)
                except (OSError, IndexError):
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    stop.set()
    watcher.join()
    if done.returncode != 0:
        raise SystemExit(f"{command}: exit {done.returncode}\n{done.stderr}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall, peak[0]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("videos", type=Path)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/extract.json"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--copies", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as corpus:
        copy_corpus(arguments.videos.resolve(), Path(corpus), arguments.copies)
        result = compare(corpus, arguments)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["ratios"], indent=2))


def copy_corpus(source: Path, target: Path, copies: int) -> None:
    """Class folders that hold every video `copies` times, by links."""
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        folder = target / path.parent.name
        folder.mkdir(exist_ok=True)
        for number in range(copies):
            (folder / f"{number}_{path.name}").symlink_to(path)


def file_system(folder: Path) -> str:
    """The type of file system of a folder."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    above = [(point, kind) for point, kind in mounts if folder.resolve().is_relative_to(point)]
    return max(above, key=lambda mount: len(mount[0]))[1]


def compare(videos: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run all ways in turns and collect their figures."""

    def tgprep(target: Path, *options: str, threads: int = 1) -> list[str]:
        words = ["-m", "tgprep", "extract", videos, str(target), "--dataset", "folder", "--threads", str(threads)]
        return [sys.executable, *words, *options]

    def bare(out: Path, gradient: str, part: int = 0, parts: int = 1) -> list[str]:
        return [sys.executable, "-c", CODECS, videos, gradient, str(out), str(part), str(parts)]

    def bare_together(out: Path) -> list[str]:
        commands = [shlex.join(bare(out, "stored", n, arguments.workers)) for n in range(arguments.workers)]
        waits = " && ".join(f"wait $p{n}" for n in range(len(commands)))
        return ["sh", "-c", " ".join(f"{command} & p{n}=$!;" for n, command in enumerate(commands)) + f" {waits}"]

    def two_passes(out: Path) -> list[str]:
        passes = ((FIRST_PASS, videos, str(out)), (SECOND_PASS, str(out)))
        return ["sh", "-c", " && ".join(shlex.join([sys.executable, "-c", *words]) for words in passes)]

    many = f"tgprep, {arguments.workers} workers"
    many_bare = f"bare codecs, {arguments.workers} processes"
    ways: dict[str, Callable[[Path], list[str]]] = {
        "bare codecs, RGB + TG": lambda out: bare(out, "stored"),
        many_bare: bare_together,
        "bare codecs, RGB only": lambda out: bare(out, "derived"),
        "libjpeg-turbo on planes, RGB + TG": lambda out: [sys.executable, "-c", LIBJPEG, videos, "stored", str(out)],
        "libjpeg-turbo on planes, RGB only": lambda out: [sys.executable, "-c", LIBJPEG, videos, "derived", str(out)],
        "tgprep, 1 worker": lambda out: tgprep(out),
        many: lambda out: tgprep(out, threads=arguments.workers),
        "tgprep, 1 worker, derived": lambda out: tgprep(out, "--gradient", "derived"),
        "tgprep, 1 worker, RGB path": lambda out: tgprep(out, "--space", "rgb"),
        "one pass, OpenCV and simplejpeg": lambda out: [sys.executable, "-c", ONE_PASS, videos, str(out)],
        "two passes, loose files": two_passes,
        "two passes, buffers kept": two_passes,
    }
    seconds: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
    sizes: dict[str, dict[str, int]] = {}
    num_frames = 0
    for number in range(arguments.repeats):
        # Another order each time: what one way leaves to be written burdens the next.
        first = number * len(ways) // arguments.repeats
        for name, way in [*ways.items()][first:] + [*ways.items()][:first]:
            os.sync()
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "out"
                seconds[name].append(measure(way(out), keep_buffers=name != "two passes, loose files"))
                files = [path for path in Path(folder).rglob("*") if path.is_file()]
                sizes[name] = {"files": len(files), "bytes": sum(path.stat().st_size for path in files)}
                if name == "tgprep, 1 worker":
                    num_frames = json.loads(
                        subprocess.run(
                            [sys.executable, "-m", "tgprep", "info", str(out), "--json"],
                            capture_output=True,
                            check=True,
                        ).stdout
                    )["num_frames"]
        print(
            {name: round(statistics.median(cpu for cpu, _, _ in runs), 2) for name, runs in seconds.items()}, flush=True
        )
    rows: dict[str, Any] = {}
    for name, runs in seconds.items():
        cpu, wall, peak = (statistics.median(values) for values in zip(*runs, strict=True))
        rows[name] = {
            "frames_per_core_second": round(num_frames / cpu, 1),
            "frames_per_second": round(num_frames / wall, 1),
            "cpu_seconds": [round(value, 2) for value, _, _ in runs],
            "wall_seconds": [round(value, 2) for _, value, _ in runs],
            "peak_worker_mb": round(peak, 1),
            **sizes[name],
        }

    def ratio(first: str, second: str, key: str = "frames_per_core_second") -> float:
        return round(rows[first][key] / rows[second][key], 3)

    return {
        "what": "extraction, frames per core-second",
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"cpu": processor_name(), "cores": os.cpu_count(), "load": os.getloadavg()},
        "versions": {name: version(name) for name in ("av", "simplejpeg", "opencv-python-headless", "numpy", "numba")}
        | {"python": platform.python_version()},
        "settings": {
            "quality": 95,
            "subsampling": "420",
            "repeats": arguments.repeats,
            "copies": arguments.copies,
            "frames": num_frames,
            "written to": file_system(Path(tempfile.gettempdir())),
        },
        "ways": rows,
        "ratios": {
            "tgprep / bare codecs": ratio("tgprep, 1 worker", "bare codecs, RGB + TG"),
            "tgprep derived / bare codecs RGB only": ratio("tgprep, 1 worker, derived", "bare codecs, RGB only"),
            "fused / libjpeg-turbo, RGB + TG": ratio("bare codecs, RGB + TG", "libjpeg-turbo on planes, RGB + TG"),
            "fused / libjpeg-turbo, RGB only": ratio("bare codecs, RGB only", "libjpeg-turbo on planes, RGB only"),
            f"{many} / 1 worker, wall": ratio(many, "tgprep, 1 worker", "frames_per_second"),
            f"{many_bare} / 1 process, wall": ratio(many_bare, "bare codecs, RGB + TG", "frames_per_second"),
            "tgprep / one pass, OpenCV and simplejpeg": ratio("tgprep, 1 worker", "one pass, OpenCV and simplejpeg"),
            "tgprep / two passes": ratio("tgprep, 1 worker", "two passes, loose files"),
            "tgprep derived / two passes": ratio("tgprep, 1 worker, derived", "two passes, loose files"),
            "tgprep / two passes, buffers kept": ratio("tgprep, 1 worker", "two passes, buffers kept"),
            "tgprep derived / two passes, buffers kept": ratio("tgprep, 1 worker, derived", "two passes, buffers kept"),
            "tgprep RGB path / two passes": ratio("tgprep, 1 worker, RGB path", "two passes, loose files"),
        },
    }


if __name__ == "__main__":
    main()
