"""The machine: cores, memory, and the checks that `tgprep doctor` and `tgtrain doctor` share."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import resource
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
Level = Literal["ok", "note", "warning", "error"]
SLOW_DISK_BYTES_PER_SECOND = 50e6


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check."""

    name: str
    level: Level  # `error` stops the work
    text: str
    advice: str = ""  # what to do


def judge(name: str, good: bool, text: str, advice: str, level: Level = "warning") -> Finding:
    """A finding that is `ok` without advice if `good`, else of this level."""
    return Finding(name, "ok", text) if good else Finding(name, level, text, advice)


def run_checks(checks: Mapping[str, Callable[[], Iterator[Finding]]]) -> Iterator[Finding]:
    """Yield all findings as they come; a check that fails itself is an error of its name."""
    for name, check in checks.items():
        try:
            yield from check()
        except Exception as error:
            yield Finding(name, "error", f"the check itself failed: {type(error).__name__}: {error}")


def check_packages(required: Mapping[str, str], optional: Mapping[str, str]) -> Iterator[Finding]:
    """Check Python and import every package. required: module to distribution. optional: module to what needs it."""
    text = f"{platform.python_version()} on {platform.platform(terse=True)}"
    yield judge("python", sys.version_info >= (3, 11), text, "Python 3.11 or newer is needed.", "error")
    for module in (*required, *optional):
        try:
            imported = importlib.import_module(module)
        except ImportError as error:
            advice = "pip install 'tgprep[all]'" + (f" (needed for: {optional[module]})" if module in optional else "")
            yield Finding(module, "note" if module in optional else "error", f"cannot be imported ({error})", advice)
            continue
        try:
            version = importlib.metadata.version(required.get(module, module))
        except importlib.metadata.PackageNotFoundError:
            version = str(getattr(imported, "__version__", "version unknown"))
        yield Finding(module, "ok", version)


def check_processor(quota_advice: Callable[[float], str], least_bytes: float, memory_advice: str) -> Iterator[Finding]:
    """Check that the container's quota covers the usable cores, and the memory."""
    usable, all_cores = usable_cores(), os.cpu_count() or 1
    limit, _, period = _container_limit("cpu.max").partition(" ")
    quota = 0.0 if limit == "max" else int(limit) / int(period)
    text = f"{usable} of {all_cores} cores usable" + (f", a quota of {quota:g}" if quota else "")
    advice = f"This container may use {quota:g} cores{quota_advice(quota)}"
    yield judge("processor", not quota or quota >= usable - 0.5, text, advice)
    memory = memory_bytes()
    yield judge("memory", memory >= least_bytes, f"{memory / 1e9:.1f} GB", memory_advice)


def check_jpeg(work: Literal["encodes", "decodes"], slow_per_second: float) -> Iterator[Finding]:
    """Encode or decode JPEG pictures for 0.2 s: correct, and fast enough."""
    import numpy as np

    simplejpeg = importlib.import_module("simplejpeg")  # by name, as every package that a doctor checks
    rows, columns = np.mgrid[0:240, 0:320]
    picture = np.stack([rows % 256, columns % 256, (rows + columns) % 256], axis=-1).astype(np.uint8)
    jpeg = simplejpeg.encode_jpeg(picture, 95, "RGB", "420")
    began, count = time.perf_counter(), 0
    while (seconds := time.perf_counter() - began) < 0.2:
        if work == "encodes":
            simplejpeg.encode_jpeg(picture, 95, "RGB", "420")
        else:
            simplejpeg.decode_jpeg(jpeg, "RGB")
        count += 1
    error = float(np.abs(simplejpeg.decode_jpeg(jpeg, "RGB").astype(int) - picture).mean())
    if error > 8:
        advice = "pip install --force-reinstall simplejpeg"
        yield Finding("jpeg", "error", f"{work} wrongly (by {error:.0f} levels)", advice)
    else:
        text = f"{work} {count / seconds:.0f} pictures of 320x240 a second and core"
        yield judge("jpeg", count / seconds >= slow_per_second, text, "The machine is busy or throttled.")


def processor_name() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def usable_cores() -> int:
    """Number of cores that this process may run on: fewer than the machine has under taskset or a batch system."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_threads(
    function: Callable[[_Item], _Result],
    items: Sequence[_Item],
    threads: int = 0,
    stop: threading.Event | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[_Result]:
    """Call `function` for every item in threads (0: one per core); the results are in the order of the items.

    on_progress: called with the number of items done and of all. Raises KeyboardInterrupt once `stop` is set.
    """
    stop = stop or threading.Event()

    def call(item: _Item) -> _Result:
        if stop.is_set():
            raise KeyboardInterrupt
        return function(item)

    results: list[_Result] = []
    with ThreadPoolExecutor(threads or usable_cores()) as pool:
        try:
            for result in pool.map(call, items):
                results.append(result)
                on_progress(len(results), len(items))
        except BaseException:
            stop.set()  # else the pool works through all items before it ends
            raise
    return results


def memory_bytes() -> float:
    """Memory that this process may use: the machine's, or the container's limit."""
    physical = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    limit = _container_limit("memory.max")
    return physical if limit == "max" else min(physical, float(limit))


def _container_limit(name: str) -> str:
    """The content of a file of the container's control group; `max` means no limit."""
    try:
        return Path("/sys/fs/cgroup", name).read_text().strip()
    except (OSError, ValueError):
        return "max"


def check_open_files(required: int, why: str) -> Iterator[Finding]:
    """Check the limit of open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    raise_to = required if hard == resource.RLIM_INFINITY else min(required, hard)
    how = f"ulimit -n {raise_to}" if raise_to > soft else "ask for a higher limit (limits.conf, docker --ulimit nofile)"
    good = soft >= required or soft == resource.RLIM_INFINITY
    yield judge("open files", good, f"{soft} allowed (at most {hard})", f"{why}: {how}")


def check_disk(folder: Path, least_bytes: float, why: str, command: str) -> Iterator[Finding]:
    """Check free space and speed in a folder, or the nearest one above it that exists.

    Writes and reads 64 MB, past the cache if the system allows. command: the command that names another folder.
    """
    while not folder.is_dir():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    yield judge("space", free > least_bytes, f"{free / 1e9:.1f} GB free in {folder}", why)
    content = os.urandom(2**20)
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".tmp-doctor-") as file:
            # Random bytes, which no file system compresses, and a sync, so that the disk and not the cache is timed.
            began = time.perf_counter()
            for _ in range(64):
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
            written = 64 * len(content) / (time.perf_counter() - began)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            began = time.perf_counter()
            file.seek(0)
            while file.read(2**20):
                pass
            read = 64 * len(content) / (time.perf_counter() - began)
    except OSError as error:
        text = f"cannot write to {folder}: {error.strerror}"
        yield Finding("disk", "error", text, f"Name another folder: {command}.")
        return
    text = f"writes {written / 1e6:.0f} MB/s, reads {read / 1e6:.0f} MB/s in {folder}"
    yield judge("disk", min(written, read) >= SLOW_DISK_BYTES_PER_SECOND, text, "Keep the data set on a local disk.")


def peak_memory_mb() -> float:
    """Peak memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)
