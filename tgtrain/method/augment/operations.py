"""The strong operations on batches of uint8 clips, on CPU or GPU.

Shapes: B clips, T frames, H x W pixels, 3 channels RGB; clips_BT3HW is uint8[B, T, 3, H, W], contiguous (planes are
faster than interleaved colours on a CPU). Every operation returns a new uint8 tensor of that
shape; parameters are one number (or row) a clip, shared by its T frames, on the clips' device.
Statistics that an operation takes from the image (mean, extremes, histogram) are those of each single frame.

Colour operations give the same bytes as Pillow (and imgaug's `pillike`, which the reference uses): they use integers and
truncate as Pillow does. Geometric ones interpolate bilinearly in float32.
The result of a clip does not depend on the rest of the batch, and nothing waits for the device.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

GREY_WEIGHTS = (19595, 38470, 7471)  # ITU-R 601 luma in 1/65536, as Pillow converts RGB to L
Affine = tuple[float, float, float, float, float, float]  # (a, b, c, d, e, f): source x = ax + by + c, y = dx + ey + f


def shear_x_affine(degrees: float) -> Affine:
    """Move a pixel to x - tan(angle) * y: for a positive angle the lower half goes left."""
    return (1.0, math.tan(math.radians(degrees)), 0.0, 0.0, 1.0, 0.0)


def shear_y_affine(degrees: float) -> Affine:
    """Move a pixel to y + tan(angle) * x: for a positive angle the right half goes down."""
    return (1.0, 0.0, 0.0, -math.tan(math.radians(degrees)), 1.0, 0.0)


def translate_affine(right: float, down: float) -> Affine:
    """Move the image by a number of pixels, fractions included."""
    return (1.0, 0.0, -right, 0.0, 1.0, -down)


def rotate_affine(degrees: float) -> Affine:
    """Turn the image about its centre, clockwise for a positive angle."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (cosine, sine, 0.0, -sine, cosine, 0.0)


def affine(clips_BT3HW: Tensor, matrices_B6: Tensor, fill: int = 0) -> Tensor:
    """Transform each clip with its own matrix (float32[B, 6], see `Affine`), rounded to the nearest grey level.

    Pixels from outside the image have the grey level `fill`, and blend with the image along its edge.
    """
    b, t, channels, h, w = clips_BT3HW.shape
    centre_x, centre_y = (w - 1) / 2, (h - 1) / 2
    x_W = torch.arange(w, device=clips_BT3HW.device, dtype=torch.float32) - centre_x
    y_H1 = torch.arange(h, device=clips_BT3HW.device, dtype=torch.float32)[:, None] - centre_y
    m = matrices_B6[:, :, None, None].unbind(1)
    # No matrix product: it may choose another algorithm, with other last bits, for another batch size.
    source_x = m[0] * x_W + m[1] * y_H1 + (m[2] + centre_x)
    source_y = m[3] * x_W + m[4] * y_H1 + (m[5] + centre_y)
    grid_BHW2 = torch.stack([(2 * source_x + 1) / w - 1, (2 * source_y + 1) / h - 1], dim=-1)
    # One grid a clip: its frames and colours are the channels of one image. grid_sample pads with zeros, so subtract `fill`.
    image = clips_BT3HW.view(b, t * channels, h, w).float().sub_(fill)
    moved = F.grid_sample(image, grid_BHW2, align_corners=False)
    return moved.add_(fill + 0.5).to(torch.uint8).view(clips_BT3HW.shape)


def posterize(clips_BT3HW: Tensor, bits_B: Tensor) -> Tensor:
    """Keep the highest bits (0 to 8) of every value."""
    dropped_B = (8 - bits_B).to(torch.int32)
    masks_B = (255 >> dropped_B << dropped_B).to(torch.uint8)
    return clips_BT3HW & _per_clip(masks_B)


def solarize(clips_BT3HW: Tensor, thresholds_B: Tensor) -> Tensor:
    """Invert values >= threshold (0 to 256)."""
    # Compared as uint8 (256, which inverts nothing, does not fit): value >= threshold is value > threshold - 1.
    reached = clips_BT3HW > _per_clip((thresholds_B - 1).clamp(0, 255).to(torch.uint8))
    reached |= _per_clip(thresholds_B <= 0)
    return clips_BT3HW ^ reached.to(torch.uint8).mul_(255)


def invert(clips_BT3HW: Tensor) -> Tensor:
    """Compute 255 - value."""
    return 255 - clips_BT3HW


def color(clips_BT3HW: Tensor, factors_B: Tensor) -> Tensor:
    """Blend away from (factor > 1) or towards (factor < 1) the frame in grey."""
    return _blend(grey_levels(clips_BT3HW)[:, :, None], clips_BT3HW, factors_B)


def contrast(clips_BT3HW: Tensor, factors_B: Tensor) -> Tensor:
    """Blend away from (factor > 1) or towards (factor < 1) the rounded mean grey level of the frame."""
    grey_BTHW = grey_levels(clips_BT3HW)
    num_pixels = grey_BTHW.shape[-2] * grey_BTHW.shape[-1]
    sums_BT11 = grey_BTHW.sum(dim=(-2, -1), keepdim=True, dtype=torch.int64)
    means_BT11 = (2 * sums_BT11 + num_pixels).div(2 * num_pixels, rounding_mode="floor")
    return _blend(means_BT11[:, :, None], clips_BT3HW, factors_B)


def brightness(clips_BT3HW: Tensor, factors_B: Tensor) -> Tensor:
    """Multiply every value by the factor."""
    return (clips_BT3HW.to(torch.float32) * _per_clip(factors_B)).clamp_(0, 255).to(torch.uint8)


def sharpness(clips_BT3HW: Tensor, factors_B: Tensor) -> Tensor:
    """Blend away from (factor > 1) or towards (factor < 1) the smoothed frame; the outermost pixels do not change.

    Smoothing is the rounded 3 x 3 mean with weight 5 in the middle.
    """
    if min(clips_BT3HW.shape[-2:]) < 3:
        return clips_BT3HW.clone()
    values = clips_BT3HW.to(torch.int16)
    inner = values[..., 1:-1, 1:-1]
    rows = values[..., :-2, :] + values[..., 1:-1, :]
    rows += values[..., 2:, :]
    sums = rows[..., :-2] + rows[..., 1:-1]
    sums += rows[..., 2:]
    sums.add_(inner, alpha=4)
    # sum / 13 is never a half, so adding 6 and truncating rounds it; a float32 quotient cannot cross an integer.
    smooth = sums.add_(6).float().div_(13).floor_()
    out = clips_BT3HW.clone()
    out[..., 1:-1, 1:-1] = _blend(smooth, inner, factors_B)
    return out


def autocontrast(clips_BT3HW: Tensor) -> Tensor:
    """Stretch each channel of each frame to 0..255; a channel of one value stays."""
    values_N3P = clips_BT3HW.flatten(0, 1).flatten(2)
    low_N31 = values_N3P.amin(-1, keepdim=True).to(torch.float64)
    high_N31 = values_N3P.amax(-1, keepdim=True).to(torch.float64)
    levels_256 = torch.arange(256, device=clips_BT3HW.device, dtype=torch.float64)
    # Pillow truncates, so compute its doubles exactly: `255 / x` on a tensor would multiply by 1 / x instead.
    range_N31 = (high_N31 - low_N31).clamp_min(1)
    scale_N31 = torch.full_like(range_N31, 255).div_(range_N31)
    stretched = (levels_256 * scale_N31 - low_N31 * scale_N31).clamp_(0, 255)
    tables_N3L = torch.where(high_N31 > low_N31, stretched, levels_256).to(torch.uint8)
    return _look_up(clips_BT3HW, tables_N3L)


def equalize(clips_BT3HW: Tensor) -> Tensor:
    """Flatten the histogram of each channel of each frame (Pillow's rule); a channel of one value stays."""
    counts_N3L = _histograms(clips_BT3HW)
    levels_256 = torch.arange(256, device=clips_BT3HW.device)
    present_N3L = counts_N3L > 0
    # Pillow leaves the pixels of the highest level out when it divides the rest into 255 steps.
    highest_N31 = torch.where(present_N3L, levels_256, 0).amax(-1, keepdim=True)
    below_highest_N31 = counts_N3L.sum(-1, keepdim=True) - counts_N3L.gather(-1, highest_N31)
    step_N31 = below_highest_N31.div(255, rounding_mode="floor")
    safe_step_N31 = step_N31.clamp_min(1)
    before_N3L = counts_N3L.cumsum(-1) - counts_N3L
    half_N31 = safe_step_N31.div(2, rounding_mode="floor")
    flattened = (before_N3L + half_N31).div(safe_step_N31, rounding_mode="floor").clamp_(0, 255)
    return _look_up(clips_BT3HW, torch.where(step_N31 > 0, flattened, levels_256).to(torch.uint8))


def cutout(clips_BT3HW: Tensor, boxes_B4: Tensor, fill: int) -> Tensor:
    """Fill one box a clip with one grey level; boxes are top, left, bottom, right in pixels, half-open, and may reach over the border."""
    h, w = clips_BT3HW.shape[-2:]
    top, left, bottom, right = boxes_B4[:, :, None, None].unbind(1)
    y_H1 = torch.arange(h, device=clips_BT3HW.device)[:, None]
    x_W = torch.arange(w, device=clips_BT3HW.device)
    inside_BHW = (y_H1 >= top) & (y_H1 < bottom) & (x_W >= left) & (x_W < right)
    return clips_BT3HW.masked_fill(inside_BHW[:, None, None], fill)


def grey_levels(clips_BT3HW: Tensor) -> Tensor:
    """Luma of every pixel, int32[B, T, H, W] in 0..255, rounded as Pillow rounds it."""
    red, green, blue = clips_BT3HW.to(torch.int32).unbind(2)
    weighted = red * GREY_WEIGHTS[0] + green * GREY_WEIGHTS[1] + blue * GREY_WEIGHTS[2]
    return (weighted + 0x8000) >> 16


def _per_clip(numbers_B: Tensor) -> Tensor:
    return numbers_B[:, None, None, None, None]


def _blend(base: Tensor, clips_BT3HW: Tensor, factors_B: Tensor) -> Tensor:
    """Compute base + factor * (clip - base) in float32, clamped to 0..255 and truncated (Pillow's Image.blend)."""
    base = base.to(torch.float32)
    return clips_BT3HW.sub(base).mul_(_per_clip(factors_B)).add_(base).clamp_(0, 255).to(torch.uint8)


def _look_up(clips_BT3HW: Tensor, tables_N3L: Tensor) -> Tensor:
    """Replace every value by its entry in the table (uint8[B * T, 3, 256]) of its frame and channel."""
    return torch.take(tables_N3L, _table_indices(clips_BT3HW))


def _table_indices(clips_BT3HW: Tensor) -> Tensor:
    """Index of each value in the concatenated 256-entry tables of all planes: int64, shaped as the clips."""
    starts = torch.arange(0, clips_BT3HW.shape[:3].numel() * 256, 256, device=clips_BT3HW.device)
    return clips_BT3HW.to(torch.int64).add_(starts.view(*clips_BT3HW.shape[:3], 1, 1))


def _histograms(clips_BT3HW: Tensor) -> Tensor:
    """Count each value in each plane: int64[B * T, 3, 256]."""
    b, t, channels = clips_BT3HW.shape[:3]
    indices = _table_indices(clips_BT3HW).flatten()
    num_counts = b * t * channels * 256
    if indices.device.type == "cpu":
        counts = torch.bincount(indices, minlength=num_counts)
    else:  # bincount would wait for the device; sums of integers are exact in any order
        counts = torch.zeros(num_counts, dtype=torch.int64, device=indices.device)
        counts.scatter_add_(0, indices, torch.ones_like(indices))
    return counts.view(b * t, channels, 256)
