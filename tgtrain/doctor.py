"""Checks of `tgtrain doctor`: everything that training needs is tried on this machine."""

from __future__ import annotations

import importlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from manifests import machine
from manifests.machine import Finding, judge

PACKAGES = {name: name for name in ("torch", "numpy", "pyarrow", "cv2", "simplejpeg", "pydantic")}
PACKAGES["cv2"] = "opencv-python-headless"
OPTIONAL = {
    "tensorboard": "TensorBoard files; metrics.jsonl holds the same",
    "matplotlib": "tgtrain report",
    "jinja2": "tgtrain report",
    "onnx": "tgtrain export --format onnx",
    "onnxruntime": "checking what tgtrain export wrote",
    "av": "tgtrain predict",
    "transformers": "model.backbone=videomae",
}
SHARED_MEMORY_BYTES = 2 * 10**9  # three batches of 40 + 40 clips for each of three loader processes
OPEN_FILES = 4096
VIDEO_CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mpeg2video")
SLOW_JPEG_PER_SECOND = 300.0


def examine(folder: Path) -> Iterator[Finding]:
    """Yield all findings as they come. folder: where runs and data will be."""

    yield from machine.run_checks(
        {
            "versions": lambda: machine.check_packages(PACKAGES, OPTIONAL),
            "processor": lambda: machine.check_processor(
                6e9, "The published recipes want more; `--recipe demo` does not."
            ),
            "devices": _devices,
            "collectives": _collectives,
            "jpeg": lambda: machine.check_jpeg("decodes", SLOW_JPEG_PER_SECOND),
            "videos": _videos,
            "shared memory": _shared_memory,
            "limits": lambda: machine.check_open_files(OPEN_FILES, "Every shard and every batch on its way is one"),
            "disk": lambda: machine.check_disk(
                folder,
                5e9,
                "A checkpoint of the published model takes 0.55 GB, and a run keeps up to five.",
                "tgtrain doctor FOLDER",
            ),
        }
    )


def _devices() -> Iterator[Finding]:
    import torch

    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(number)
        half = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16, use float16"
        text = f"{properties.name}, {properties.total_memory / 1e9:.0f} GB, {half}"
        ones = torch.ones(256, 256, device=f"cuda:{number}")
        correct = bool((ones @ ones)[0, 0].item() == 256)
        advice = "A product of two matrices comes out wrong: the driver or the device is broken."
        yield judge(f"cuda:{number}", correct, text, advice, "error")
    if torch.cuda.is_available():
        return
    if not Path("/dev/nvidia0").exists() and shutil.which("nvidia-smi") is None:
        yield Finding("gpu", "note", "none: the demo recipes train on a CPU, the published ones want GPUs")
        return
    # There is a GPU: why does torch not use it?
    text = f"there is one, but torch (CUDA {torch.version.cuda}) cannot use it"
    advice = "`nvidia-smi` shows the driver's CUDA version: it must be at least that of torch. In a container, start it with --gpus all."
    if torch.version.cuda is None:
        text = f"there is one, but torch {torch.__version__} is built without CUDA"
        advice = "Install a CUDA build of torch (https://pytorch.org, `pip install torch` with its index)."
    yield Finding("gpu", "error", text, advice)


def _collectives() -> Iterator[Finding]:
    import torch
    import torch.distributed as dist

    if not dist.is_available():
        yield Finding("several processes", "error", "torch.distributed is missing", "Install another build of torch.")
        return
    backends = [("gloo", torch.device("cpu"), dist.is_gloo_available())]
    if torch.cuda.is_available():
        backends.append(("nccl", torch.device("cuda", 0), dist.is_nccl_available()))
    # Every backend is tried, not only looked for: most faults are in the driver or the network.
    for backend, device, available in backends:
        if not available:
            yield Finding(backend, "error", "not in this build of torch", "Several GPUs need a build with it.")
            continue
        if dist.is_initialized():
            yield Finding(backend, "note", "not tried inside a process group")
            continue
        # A group of one process computes a sum.
        with tempfile.TemporaryDirectory() as folder:
            dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=0, world_size=1)
            try:
                value = torch.ones(8, device=device)
                dist.all_reduce(value)
                correct = bool(value.sum().item() == 8)
            finally:
                dist.destroy_process_group()
        numbers = torch.cuda.nccl.version() if backend == "nccl" else ()  # type: ignore[no-untyped-call]
        text = " ".join(["works", ".".join(map(str, numbers))]).rstrip() if correct else "a sum comes out wrong"
        yield judge(backend, correct, text, "NCCL_DEBUG=INFO or GLOO_SOCKET_IFNAME shows more.", "error")


def _videos() -> Iterator[Finding]:
    """Check the decoders of `tgtrain predict`."""
    available: set[str] = importlib.import_module("av").codecs_available
    missing = [codec for codec in VIDEO_CODECS if codec not in available]
    text = f"decodes {', '.join(codec for codec in VIDEO_CODECS if codec in available)}"
    advice = f"tgtrain predict cannot read {', '.join(missing)}: pip install --force-reinstall av"
    yield judge("video", not missing, text, advice, "note")


def _shared_memory() -> Iterator[Finding]:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        yield Finding("shared memory", "note", "no /dev/shm: loader processes pass batches through files")
        return
    free = shutil.disk_usage(folder).free
    advice = (
        "Batches travel through it; with too little, they go through pipes, slower. docker run --shm-size 16g or --ipc host, "
        "or fewer processes: --set runtime.workers=2"
    )
    yield judge("shared memory", free >= SHARED_MEMORY_BYTES, f"{free / 1e9:.2f} GB free in /dev/shm", advice)
