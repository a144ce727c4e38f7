"""Strong views and normalisation: from uint8 clips to the inputs of the networks, on the device.

Crop, resize and flip are done when a clip is read; its weak and its strong view share them.
clips_BTHW3 is uint8[B, T, H, W, 3]: B clips, T frames, H x W pixels, RGB (or TG of RGB).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import floor

import torch
from torch import Tensor

from tgtrain.method.augment import operations
from tgtrain.method.augment.plan import SIGNED_OPS, StrongOp, StrongPlan, StrongStep

MEAN = (123.675, 116.28, 103.53)  # of ImageNet in RGB, grey levels; the method uses them for TG too
STD = (58.395, 57.12, 57.375)
CACHED_BYTES = 1 << 20  # clips that a CPU works on together: 1 of 8 x 224 x 224, 10 of 8 x 64 x 64

_WITHOUT_NUMBER = (StrongOp.AUTOCONTRAST, StrongOp.EQUALIZE, StrongOp.INVERT)


def normalise(clips_BTHW3: Tensor, channels_last: bool = False) -> Tensor:
    """Compute (value - mean) / std per colour: float32[B, 3, T, H, W].

    clips: uint8, or float on the same 0..255 scale (slow TG). channels_last: return memory format channels_last_3d, which
    needs no copy and suits half-precision convolutions on a GPU; otherwise contiguous.
    """
    b, t, h, w, channels = clips_BTHW3.shape
    mean_row, scale_row = _normalising_rows(w, clips_BTHW3.device)
    # By rows of interleaved colours: broadcasting 3 numbers at a time is six times slower on a CPU.
    rows = clips_BTHW3.reshape(b, t, h, w * channels).to(torch.float32).sub(mean_row).mul_(scale_row)
    normalised = rows.view(b, t, h, w, channels).permute(0, 4, 1, 2, 3)
    return normalised if channels_last else normalised.contiguous()


def network_input(clips_BTHW3: Tensor | None, slow: bool = False) -> Tensor | None:
    """Turn clips as read into network input: normalised, channels last; slow: the clips are the raw frames of slow TG."""
    if clips_BTHW3 is None:
        return None
    return normalise(slow_gradient(clips_BTHW3) if slow else clips_BTHW3, channels_last=True)


def slow_gradient(frames_BFHW3: Tensor) -> Tensor:
    """Compute slow TG of F = T + 1 frames: (following - previous + 255) / 2, float32[B, T, H, W, 3], for `normalise`.

    As in the reference's ablation, the sign is opposite to that of stored TG and nothing is truncated. Strong operations
    come before: they work on the frames.
    """
    values = frames_BFHW3.to(torch.float32)
    return (values[:, 1:] - values[:, :-1] + 255) / 2


def apply_strong(clips_BTHW3: Tensor, plans: Sequence[StrongPlan]) -> Tensor:
    """Compute the strong view of each clip by its own plan: uint8[B, T, H, W, 3].

    The result of a clip does not depend on the rest of the batch. On a GPU nothing waits for the device.
    """
    if clips_BTHW3.dtype != torch.uint8 or clips_BTHW3.ndim != 5 or len(clips_BTHW3) != len(plans):
        raise ValueError(
            f"strong views need uint8 [B, T, H, W, 3] and B plans, got {clips_BTHW3.dtype} "
            f"{list(clips_BTHW3.shape)} and {len(plans)} plans"
        )
    planes = clips_BTHW3.permute(0, 1, 4, 2, 3).clone(memory_format=torch.contiguous_format)
    # A CPU is fastest on as many clips as fit its cache, a GPU with few large launches.
    on_cpu = planes.device.type == "cpu"
    num_together = max(1, CACHED_BYTES // max(1, planes[:1].numel())) if on_cpu else max(1, len(plans))
    for first in range(0, len(plans), num_together):
        _run_plans(planes[first : first + num_together], plans[first : first + num_together])
    return planes.permute(0, 1, 3, 4, 2).contiguous()


def _run_plans(planes_BT3HW: Tensor, plans: Sequence[StrongPlan]) -> None:
    """Run all steps of all plans in place: first the first step of every plan; clips with the same operation together."""
    for position in range(max(len(plan.steps) for plan in plans)):
        groups: dict[tuple[StrongOp, int], list[int]] = {}
        for clip, plan in enumerate(plans):
            for step in plan.steps[position : position + 1]:
                kernel = StrongOp.ROTATE if step.op in SIGNED_OPS else step.op  # one affine kernel does all five
                groups.setdefault((kernel, step.fill), []).append(clip)
        for clips in groups.values():
            steps = [plans[clip].steps[position] for clip in clips]
            rows = _on_device(clips, torch.int64, planes_BT3HW.device)
            planes_BT3HW.index_copy_(0, rows, _run_step(planes_BT3HW.index_select(0, rows), steps))


def _run_step(clips_BT3HW: Tensor, steps: Sequence[StrongStep]) -> Tensor:
    """Run one kind of operation, with one step a clip."""
    op, fill = steps[0].op, steps[0].fill
    height, width = clips_BT3HW.shape[-2:]
    device = clips_BT3HW.device
    if op in SIGNED_OPS:
        matrices = [_matrix(step, height, width) for step in steps]
        return operations.affine(clips_BT3HW, _on_device(matrices, torch.float32, device), fill)
    if op is StrongOp.CUTOUT:
        boxes = [_cutout_box(step, height, width) for step in steps]
        return operations.cutout(clips_BT3HW, _on_device(boxes, torch.int64, device), fill)
    # The other operations bear the names of their functions.
    kernel: Callable[..., Tensor] = getattr(operations, op.name.lower())
    if op in _WITHOUT_NUMBER:
        return kernel(clips_BT3HW)
    return kernel(clips_BT3HW, _on_device([step.amount for step in steps], torch.float32, device))


def _matrix(step: StrongStep, height: int, width: int) -> operations.Affine:
    """The matrix that maps output to source pixels, about the step's centre (see `operations`)."""
    if step.op is StrongOp.TRANSLATE_X:
        return operations.translate_affine(step.amount * width, 0.0)
    if step.op is StrongOp.TRANSLATE_Y:
        return operations.translate_affine(0.0, step.amount * height)
    about_middle: Callable[[float], operations.Affine] = getattr(operations, f"{step.op.name.lower()}_affine")
    a, b, _, d, e, _ = about_middle(step.amount)
    x, y = (step.centre_x - 0.5) * width, (step.centre_y - 0.5) * height
    return (a, b, x - a * x - b * y, d, e, y - d * x - e * y)


def _cutout_box(step: StrongStep, height: int, width: int) -> tuple[int, int, int, int]:
    """Top, left, bottom, right of a square about the step's centre; it may reach over the border."""
    side = round(step.amount * min(height, width))
    top, left = floor(step.centre_y * height - side / 2 + 0.5), floor(step.centre_x * width - side / 2 + 0.5)
    return top, left, top + side, left + side


def _on_device(numbers: Sequence[object], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Copy numbers from the host; to a GPU through pinned memory, because a plain copy would wait for the device."""
    tensor = torch.tensor(numbers, dtype=dtype)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


@lru_cache(maxsize=16)
def _normalising_rows(width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and 1 / std of one row of interleaved colours, cached on the device."""
    rows = (MEAN, [1 / deviation for deviation in STD])
    mean_row, scale_row = (torch.tensor(row, dtype=torch.float32).repeat(width).to(device) for row in rows)
    return mean_row, scale_row
