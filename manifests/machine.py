"""What a machine offers, tried rather than looked up: what `tgprep doctor` and `tgtrain doctor` have in common."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Level = Literal["ok", "note", "warning", "error"]
SLOW_DISK_BYTES_PER_SECOND = 50e6


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. level: `error` stops the work. advice: what to do, "" where nothing is wrong."""

    name: str
    level: Level
    text: str
    advice: str = ""


def run_checks(checks: Sequence[Callable[[], Iterator[Finding]]]) -> Iterator[Finding]:
    """All findings, one by one as they come; a check that breaks is a finding."""
    for check in checks:
        try:
            yield from check()
        except Exception as error:  # a doctor reports what breaks instead of breaking
            name = getattr(check, "__name__", "disk").strip("_<>").replace("lambda", "disk").replace("_", " ")
            yield Finding(name, "error", f"the check itself failed: {type(error).__name__}: {error}")


def python() -> Finding:
    """The version of Python."""
    good = sys.version_info >= (3, 11)
    text = f"{platform.python_version()} on {platform.platform(terse=True)}"
    return Finding("python", "ok" if good else "error", text, "" if good else "Python 3.11 or newer is needed.")


def package(module: str, distribution: str, what: str, missing: Level) -> Finding:
    """Whether a module can be imported. what: the part of the work that needs it; missing: the level where it cannot."""
    try:
        importlib.import_module(module)
        return Finding(module, "ok", importlib.metadata.version(distribution))
    except ImportError as error:
        advice = "pip install 'tgprep[all]'" + (f" (needed for: {what})" if what else "")
        return Finding(module, missing, f"cannot be imported ({error})", advice)
    except importlib.metadata.PackageNotFoundError:
        return Finding(module, "ok", str(getattr(importlib.import_module(module), "__version__", "version unknown")))


def processor_name() -> str:
    """The processor, as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores that this process may run on: those of the machine, or what taskset or a batch system leaves of them."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cores() -> tuple[int, float, str]:
    """Cores that this process may run on, the quota of its container in cores (0.0: none), and both in words."""
    usable, all_cores = usable_cores(), os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        allowed = 0.0 if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        allowed = 0.0
    return usable, allowed, f"{usable} of {all_cores} cores usable" + (f", a quota of {allowed:g}" if allowed else "")


def memory_bytes() -> float:
    """Memory that this process may use: the machine's, or the container's limit."""
    whole = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        return whole if limit == "max" else min(whole, float(limit))
    except (OSError, ValueError):
        return whole


def open_files(wanted: int, why: str) -> Finding:
    """The limit of open files, against what is wanted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"{soft} allowed (at most {hard})"
    if soft >= wanted or soft == resource.RLIM_INFINITY:
        return Finding("open files", "ok", text)
    raise_to = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    how = f"ulimit -n {raise_to}" if raise_to > soft else "ask for a higher limit (limits.conf, docker --ulimit nofile)"
    return Finding("open files", "warning", text, f"{why}: {how}")


def disk(folder: Path, wanted_bytes: float, why: str, command: str) -> Iterator[Finding]:
    """Room in a folder (or the nearest one above it that exists), and how fast it is: writes and reads 64 MB, past the cache
    where the system allows. command: what names another folder.
    """
    place = folder
    while not place.is_dir():
        place = place.parent
    free = shutil.disk_usage(place).free
    good = free > wanted_bytes
    yield Finding("space", "ok" if good else "warning", f"{free / 1e9:.1f} GB free in {place}", "" if good else why)
    content = os.urandom(2**20)
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".tmp-doctor-") as file:
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
        yield Finding("disk", "error", f"cannot write to {place}: {error.strerror}", f"Name another folder: {command}.")
        return
    slow = min(written, read) < SLOW_DISK_BYTES_PER_SECOND
    yield Finding(
        "disk",
        "warning" if slow else "ok",
        f"writes {written / 1e6:.0f} MB/s, reads {read / 1e6:.0f} MB/s in {place}",
        "Keep the data set on a local disk." if slow else "",
    )


def peak_memory_mb() -> float:
    """Peak memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)
