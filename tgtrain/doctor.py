"""What this machine offers to training, what is wrong with it, and what to do about it. Every check is tried, not looked up."""

from __future__ import annotations

import importlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from manifests import machine
from manifests.machine import Finding
from tgtrain.data.loader import default_workers

PACKAGES = {  # what training imports; the second ones are for a part of it
    "torch": "", "numpy": "", "pyarrow": "", "cv2": "opencv-python-headless", "simplejpeg": "", "pydantic": "",
}  # fmt: skip
OPTIONAL = {
    "tensorboard": "TensorBoard files; metrics.jsonl holds the same",
    "matplotlib": "tgtrain report",
    "jinja2": "tgtrain report",
    "onnx": "tgtrain export --format onnx",
    "onnxruntime": "checking what tgtrain export wrote",
    "av": "tgtrain predict",
}
SHARED_MEMORY_BYTES = 2 * 10**9  # two batches ahead of 40 + 40 clips for each of a few loader processes
OPEN_FILES = 4096
VIDEO_CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mpeg2video")
SLOW_JPEG_PER_SECOND = 300.0


def examine(folder: Path) -> Iterator[Finding]:
    """All findings, one by one as they come; folder: where runs and data are to lie, for disk and space."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _versions,
        _processor,
        _devices,
        _collectives,
        _pictures,
        _videos,
        _shared_memory,
        _limits,
        lambda: _disk(folder),
    )
    yield from machine.run_checks(checks)


def _versions() -> Iterator[Finding]:
    yield machine.python()
    for package, distribution in PACKAGES.items():
        yield machine.package(package, distribution or package, "", "error")
    for package, what in OPTIONAL.items():
        yield machine.package(package, package, what, "note")


def _processor() -> Iterator[Finding]:
    usable, quota, text = machine.cores()
    if quota and quota < usable - 0.5:
        yield Finding(
            "processor", "warning", text,
            f"This container may use {quota:g} cores, and the loader starts {default_workers()} processes: "
            f"--set runtime.workers={max(1, int(quota) - 1)}",
        )  # fmt: skip
    else:
        yield Finding("processor", "ok", text)
    memory = machine.memory_bytes()
    yield Finding(
        "memory", "ok" if memory > 6e9 else "warning", f"{memory / 1e9:.1f} GB",
        "" if memory > 6e9 else "The published recipes want more; `--recipe demo` does not.",
    )  # fmt: skip


def _devices() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(number)
            half = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16, use float16"
            text = f"{facts.name}, {facts.total_memory / 1e9:.0f} GB, {half}"
            probe = torch.ones(256, 256, device=f"cuda:{number}")
            works = bool((probe @ probe)[0, 0].item() == 256)
            yield Finding(
                f"cuda:{number}", "ok" if works else "error", text,
                "" if works else "A product of two matrices comes out wrong: the driver or the device is broken.",
            )  # fmt: skip
        return
    there = Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi") is not None
    if not there:
        yield Finding("gpu", "note", "none: the demo recipes train on a CPU, the published ones want GPUs")
    elif torch.version.cuda is None:
        yield Finding(
            "gpu", "error", f"there is one, but torch {torch.__version__} is built without CUDA",
            "Install a CUDA build of torch (https://pytorch.org, `pip install torch` with its index).",
        )  # fmt: skip
    else:
        yield Finding(
            "gpu", "error", f"there is one, but torch (CUDA {torch.version.cuda}) cannot use it",
            "`nvidia-smi` shows the driver's CUDA version: it must be at least that of torch. In a container, start it with --gpus all.",
        )  # fmt: skip


def _collectives() -> Iterator[Finding]:
    import torch
    import torch.distributed as dist

    if not dist.is_available():
        yield Finding("several processes", "error", "torch.distributed is missing", "Install another build of torch.")
        return
    backends = [("gloo", torch.device("cpu"), dist.is_gloo_available())]
    if torch.cuda.is_available():
        backends.append(("nccl", torch.device("cuda", 0), dist.is_nccl_available()))
    for backend, device, available in backends:
        if not available:
            yield Finding(backend, "error", "not in this build of torch", "Several GPUs need a build with it.")
            continue
        if dist.is_initialized():
            yield Finding(backend, "note", "not tried inside a process group")
            continue
        with tempfile.TemporaryDirectory() as folder:
            dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=0, world_size=1)
            try:
                value = torch.ones(8, device=device)
                dist.all_reduce(value)
                works = bool(value.sum().item() == 8)
            finally:
                dist.destroy_process_group()
        version = ""
        if backend == "nccl":
            found: tuple[int, ...] = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]
            version = " " + ".".join(map(str, found))
        yield Finding(
            backend, "ok" if works else "error", f"works{version}" if works else "a sum comes out wrong",
            "" if works else "NCCL_DEBUG=INFO or GLOO_SOCKET_IFNAME tells more.",
        )  # fmt: skip


def _pictures() -> Iterator[Finding]:
    """JPEG decoding, the work of the loader: tried, and timed."""
    import numpy as np
    import simplejpeg

    rows, columns = np.mgrid[0:240, 0:320]
    picture = np.stack([rows % 256, columns % 256, (rows + columns) % 256], axis=-1).astype(np.uint8)
    jpeg = simplejpeg.encode_jpeg(picture, quality=95, colorspace="RGB")
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < 0.2:
        decoded = simplejpeg.decode_jpeg(jpeg, colorspace="RGB")
        count += 1
    rate = count / (time.perf_counter() - began)
    wrong = float(np.abs(decoded.astype(int) - picture).mean())
    if wrong > 8:
        yield Finding(
            "jpeg", "error", f"decodes wrongly (by {wrong:.0f} levels)", "pip install --force-reinstall simplejpeg"
        )
    elif rate < SLOW_JPEG_PER_SECOND:
        yield Finding(
            "jpeg", "warning", f"{rate:.0f} pictures of 320x240 a second and core", "The machine is busy or throttled."
        )
    else:
        yield Finding("jpeg", "ok", f"{rate:.0f} pictures of 320x240 a second and core")


def _videos() -> Iterator[Finding]:
    """Decoders of `tgtrain predict`."""
    available: set[str] = importlib.import_module("av").codecs_available
    missing = [codec for codec in VIDEO_CODECS if codec not in available]
    yield Finding(
        "video", "note" if missing else "ok", f"decodes {', '.join(codec for codec in VIDEO_CODECS if codec in available)}",
        f"tgtrain predict cannot read {', '.join(missing)}: pip install --force-reinstall av" if missing else "",
    )  # fmt: skip


def _shared_memory() -> Iterator[Finding]:
    place = Path("/dev/shm")
    if not place.is_dir():
        yield Finding("shared memory", "note", "no /dev/shm: loader processes hand batches over through files")
        return
    free = shutil.disk_usage(place).free
    good = free >= SHARED_MEMORY_BYTES
    yield Finding(
        "shared memory", "ok" if good else "warning", f"{free / 1e9:.2f} GB free in /dev/shm",
        "" if good else "Batches travel through it; with too little, loader processes die (`Bus error`). docker run --shm-size 8g "
        "or --ipc host, or fewer processes: --set runtime.workers=2",
    )  # fmt: skip


def _limits() -> Iterator[Finding]:
    yield machine.open_files(OPEN_FILES, "Every shard and every batch on its way is one")


def _disk(folder: Path) -> Iterator[Finding]:
    yield from machine.disk(
        folder,
        5e9,
        "A checkpoint of the published model takes 0.55 GB, and a run keeps up to five.",
        "tgtrain doctor FOLDER",
    )
