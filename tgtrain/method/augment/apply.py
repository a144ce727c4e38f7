"""From uint8 clips to what the networks see, on the device: strong views and normalisation.

Crop, resize and flip are done when a clip is read and shared by its weak and its strong view; what is left is here.
clips_BTHW3 is uint8[B, T, H, W, 3]: B clips, T frames, H x W pixels, RGB (or TG of RGB).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import floor

import torch
from torch import Tensor

from tgtrain.method.augment import operations as strong_ops
from tgtrain.method.augment.plan import SIGNED_OPS, StrongOp, StrongPlan, StrongStep

MEAN = (123.675, 116.28, 103.53)  # of ImageNet in RGB, grey levels; the method uses them for TG too
STD = (58.395, 57.12, 57.375)
CACHED_BYTES = 1 << 20  # clips that a CPU works on together: 1 of 8 x 224 x 224, 10 of 8 x 64 x 64


_WITH_NUMBER: dict[StrongOp, Callable[[Tensor, Tensor], Tensor]] = {
    StrongOp.POSTERIZE: strong_ops.posterize,
    StrongOp.SOLARIZE: strong_ops.solarize,
    StrongOp.COLOR: strong_ops.color,
    StrongOp.CONTRAST: strong_ops.contrast,
    StrongOp.BRIGHTNESS: strong_ops.brightness,
    StrongOp.SHARPNESS: strong_ops.sharpness,
}
_WITHOUT_NUMBER: dict[StrongOp, Callable[[Tensor], Tensor]] = {
    StrongOp.AUTOCONTRAST: strong_ops.autocontrast,
    StrongOp.EQUALIZE: strong_ops.equalize,
    StrongOp.INVERT: strong_ops.invert,
}


def normalise(clips_BTHW3: Tensor, channels_last: bool = False) -> Tensor:
    """(value - mean) / std per colour: float32[B, 3, T, H, W].

    clips: uint8, or float on the same 0..255 scale (slow TG). channels_last: give memory format channels_last_3d, which
    needs no rearranging and is what half-precision convolutions on a GPU want; otherwise contiguous.
    """
    b, t, h, w, channels = clips_BTHW3.shape
    mean_row, scale_row = _normalising_rows(w, clips_BTHW3.device)
    # By whole rows of interleaved colours: a broadcast over 3 numbers at a time is six times slower on a CPU.
    rows = clips_BTHW3.reshape(b, t, h, w * channels).to(torch.float32).sub(mean_row).mul_(scale_row)
    normalised = rows.view(b, t, h, w, channels).permute(0, 4, 1, 2, 3)
    return normalised if channels_last else normalised.contiguous()


def network_input(clips_BTHW3: Tensor | None, slow: bool = False) -> Tensor | None:
    """What a network takes of clips as read: normalised, channels last; slow: the clips are the raw frames of slow TG."""
    if clips_BTHW3 is None:
        return None
    return normalise(slow_gradient(clips_BTHW3) if slow else clips_BTHW3, channels_last=True)


def slow_gradient(frames_BFHW3: Tensor) -> Tensor:
    """Slow TG of F = T + 1 frames: (following - previous + 255) / 2, float32[B, T, H, W, 3], for `normalise`.

    The sign is the opposite of the stored TG's and nothing is cut off, as in the reference's ablation; it is taken
    after the strong operations, which see the frames themselves.
    """
    values = frames_BFHW3.to(torch.float32)
    return (values[:, 1:] - values[:, :-1] + 255) / 2


def apply_strong(clips_BTHW3: Tensor, plans: Sequence[StrongPlan]) -> Tensor:
    """The strong view of each clip by its own plan: uint8[B, T, H, W, 3].

    A clip's bytes do not depend on what else is in the batch. On a GPU nothing waits for the device.
    """
    if clips_BTHW3.dtype != torch.uint8 or clips_BTHW3.ndim != 5 or len(clips_BTHW3) != len(plans):
        raise ValueError(
            f"strong views need uint8 [B, T, H, W, 3] and B plans, got {clips_BTHW3.dtype} "
            f"{list(clips_BTHW3.shape)} and {len(plans)} plans"
        )
    planes = clips_BTHW3.permute(0, 1, 4, 2, 3).clone(memory_format=torch.contiguous_format)
    # A CPU is fastest while the clips are in its cache; a GPU wants few large launches.
    on_cpu = planes.device.type == "cpu"
    num_together = max(1, CACHED_BYTES // max(1, planes[:1].numel())) if on_cpu else max(1, len(plans))
    for first in range(0, len(plans), num_together):
        _run_plans(planes[first : first + num_together], plans[first : first + num_together])
    return planes.permute(0, 1, 3, 4, 2).contiguous()


def _run_plans(planes_BT3HW: Tensor, plans: Sequence[StrongPlan]) -> None:
    """All steps of all plans, in place: first steps first, clips with the same operation in one go."""
    for place in range(max(len(plan.steps) for plan in plans)):
        groups: dict[tuple[StrongOp, int], list[int]] = {}
        for number, plan in enumerate(plans):
            if place < len(plan.steps):
                step = plan.steps[place]
                kernel = StrongOp.ROTATE if step.op in SIGNED_OPS else step.op  # one affine kernel does all five
                groups.setdefault((kernel, step.fill), []).append(number)
        for members in groups.values():
            steps = [plans[number].steps[place] for number in members]
            chosen = _on_device(members, torch.int64, planes_BT3HW.device)
            planes_BT3HW.index_copy_(0, chosen, _run_step(planes_BT3HW.index_select(0, chosen), steps))


def _run_step(clips_BT3HW: Tensor, steps: Sequence[StrongStep]) -> Tensor:
    """One kind of operation, one step a clip."""
    op, fill = steps[0].op, steps[0].fill
    height, width = clips_BT3HW.shape[-2:]
    device = clips_BT3HW.device
    if op in SIGNED_OPS:
        matrices = [_matrix(step, height, width) for step in steps]
        return strong_ops.affine(clips_BT3HW, _on_device(matrices, torch.float32, device), fill)
    if op is StrongOp.CUTOUT:
        boxes = [_cutout_box(step, height, width) for step in steps]
        return strong_ops.cutout(clips_BT3HW, _on_device(boxes, torch.int64, device), fill)
    if op in _WITHOUT_NUMBER:
        return _WITHOUT_NUMBER[op](clips_BT3HW)
    return _WITH_NUMBER[op](clips_BT3HW, _on_device([step.amount for step in steps], torch.float32, device))


def _matrix(step: StrongStep, height: int, width: int) -> strong_ops.Affine:
    """Where output pixels come from, about the step's centre (see strong_ops)."""
    if step.op is StrongOp.TRANSLATE_X:
        return strong_ops.translate_affine(step.amount * width, 0.0)
    if step.op is StrongOp.TRANSLATE_Y:
        return strong_ops.translate_affine(0.0, step.amount * height)
    about_middle = {
        StrongOp.SHEAR_X: strong_ops.shear_x_affine,
        StrongOp.SHEAR_Y: strong_ops.shear_y_affine,
        StrongOp.ROTATE: strong_ops.rotate_affine,
    }[step.op]
    a, b, _, d, e, _ = about_middle(step.amount)
    x, y = (step.centre_x - 0.5) * width, (step.centre_y - 0.5) * height
    return (a, b, x - a * x - b * y, d, e, y - d * x - e * y)


def _cutout_box(step: StrongStep, height: int, width: int) -> tuple[int, int, int, int]:
    """Top, left, bottom, right of a square about the step's centre; it may reach over the border."""
    side = round(step.amount * min(height, width))
    top, left = floor(step.centre_y * height - side / 2 + 0.5), floor(step.centre_x * width - side / 2 + 0.5)
    return top, left, top + side, left + side


def _on_device(numbers: Sequence[object], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers of the host as a tensor; through pinned memory to a GPU, because a plain copy would wait for it."""
    tensor = torch.tensor(numbers, dtype=dtype)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


@lru_cache(maxsize=16)
def _normalising_rows(width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and 1 / std of one row of interleaved colours, kept on the device from step to step."""
    scale = [1 / deviation for deviation in STD]
    return (
        torch.tensor(MEAN, dtype=torch.float32).repeat(width).to(device),
        torch.tensor(scale, dtype=torch.float32).repeat(width).to(device),
    )
