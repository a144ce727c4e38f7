"""The energy that the GPU of this process has used, where its driver reports it."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch


def gpu_joules() -> float | None:
    """The counter of the GPU that this process computes on, which rises from the start of its driver.

    None without a GPU, without the package nvidia-ml-py, or if the GPU has no such counter (before the Volta generation, or a part
    of a GPU).
    """
    if not torch.cuda.is_available():
        return None
    opened = _gpu(torch.cuda.current_device())
    if opened is None:
        return None
    nvml, handle = opened
    try:
        return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
    except nvml.NVMLError:
        return None


@cache
def _gpu(index: int) -> tuple[Any, Any] | None:
    """The module and its handle of a GPU of torch, found by its UUID: CUDA_VISIBLE_DEVICES renumbers them."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        return pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(index).uuid}")
    except (pynvml.NVMLError, AttributeError):
        return None
