"""The machine: cores, memory, what only some systems can do, and the checks that `tgprep doctor` and `tgtrain doctor` share."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import math
import os
import platform
import resource
import shutil
import signal
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
SIGNAL_REASONS: dict[int, str] = {  # why a process may have been ended by a signal
    signal.SIGKILL: "Was the machine out of memory? ",
    signal.SIGSEGV: "A library crashed: `tgtrain doctor` tries them. ",
    signal.SIGBUS: "Is /dev/shm full? `tgtrain doctor` measures it. ",
}


def resident_mb(pid: int) -> float:
    """Memory that a process holds; 0.0 if this system does not say (only Linux does)."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024**2


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


def check_processor(least_bytes: float, memory_advice: str) -> Iterator[Finding]:
    """Report the usable cores, and check the memory."""
    quota = core_quota()
    text = f"{usable_cores()} of {os.cpu_count() or 1} cores usable"
    yield Finding("processor", "ok", text if math.isinf(quota) else f"{text}, a quota of {quota:g}")
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


def reads_names_as_utf8() -> bool:
    """Whether this process takes the bytes of file names for UTF-8, which Python leaves to the locale."""
    return sys.getfilesystemencoding() == "utf-8"


def require_utf8_names() -> None:
    """Start the program of this process again in Python's UTF-8 mode if the locale has another encoding.

    So the same files have the same names, and give the same data set, in every locale, in child processes too.
    """
    if not reads_names_as_utf8():
        os.environ["PYTHONUTF8"] = "1"
        try:  # the words as bytes: some locales decode them to text that they cannot encode again
            words = Path("/proc/self/cmdline").read_bytes().split(b"\0")[1:-1]
        except OSError:
            words = [os.fsencode(word) for word in sys.orig_argv[1:]]
        os.execv(sys.executable, [os.fsencode(sys.executable), b"-X", b"utf8", *words])


def processor_name() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def usable_cores() -> int:
    """Number of cores that this process may use: fewer than the machine has under taskset, a batch system or a container's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # not on macOS
    return max(1, round(min(allowed, core_quota())))


def advise(file: int, advice: Literal["RANDOM", "WILLNEED", "DONTNEED"], offset: int = 0, size: int = 0) -> None:
    """Announce to the kernel how a range of an open file will be read, on systems where it takes such advice (not macOS)."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, offset, size, getattr(os, f"POSIX_FADV_{advice}"))


def process_started(process: int) -> str:
    """When a process started, in the kernel's ticks, or `running` if only that is known; "" if there is no such process."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        if Path("/proc/self/stat").exists() or process <= 0:
            return ""
    try:  # not Linux
        os.kill(process, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "running"


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
    limits = (_numbers(folder, "memory.max", "memory.limit_in_bytes") for folder in _control_groups("memory"))
    return min([physical, *(limit[0] for limit in limits if limit)])


def core_quota() -> float:
    """Cores that the control groups of this process grant it together: the least quota of all of them; inf if there is none."""
    quotas = [math.inf]
    for folder in _control_groups("cpu"):
        numbers = _numbers(folder, "cpu.max")  # version 2: quota and period
        numbers = numbers or _numbers(folder, "cpu.cfs_quota_us") + _numbers(folder, "cpu.cfs_period_us")  # version 1
        if len(numbers) == 2 and min(numbers) > 0:  # version 1 says -1 if there is none
            quotas.append(numbers[0] / numbers[1])
    return min(quotas)


def _control_groups(controller: str) -> Iterator[Path]:
    """Folders of the control groups of this process that may limit it, of both versions, up to the root.

    Inside a container the root that is mounted is its own group, whatever /proc/self/cgroup calls it.
    """
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []  # not Linux
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mounts = ("", "unified") if not controllers else (controllers, controller)
        for mount in dict.fromkeys(mounts):
            root = Path("/sys/fs/cgroup", mount)
            inside = root / group.strip("/")
            yield from (folder for folder in (inside, *inside.parents) if folder.is_relative_to(root))


def _numbers(folder: Path, *names: str) -> list[float]:
    """The numbers of the first of these files that exists; none if it says `max`."""
    for name in names:
        with contextlib.suppress(OSError, ValueError):
            return [float(word) for word in (folder / name).read_text().split()]
    return []


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
            advise(file.fileno(), "DONTNEED")
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
    """Peak memory of this process so far, in MiB. On Linux it does not include the peak of the process that started it."""
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)
