"""An SslBatch as read -> the Views that a step takes, on the device: copied there as uint8, augmented and normalised there."""

from __future__ import annotations

from dataclasses import replace

import torch

from tgtrain.augment import apply_strong, network_input
from tgtrain.batch import ClipBatch, SslBatch
from tgtrain.step import Clips, Views
from tgtrain.strong_plan import StrongPlan


def views_of(batch: SslBatch, device: torch.device, slow: bool) -> Views:
    """Labelled, weak and strong views of a batch; slow: its TG clips are the raw frames of slow TG. Waits for nothing."""
    batch = on_device(batch, device)
    labelled = batch.labelled
    weak = strong = None
    true_labels = None
    if batch.unlabelled is not None:
        clips = batch.unlabelled
        weak = Clips(network_input(clips.rgb), network_input(clips.tg, slow))
        strong = _strong(clips, batch.strong_rgb, batch.strong_tg, slow)
        true_labels = clips.labels
    return Views(
        labelled=_strong(labelled, batch.labelled_rgb, batch.labelled_tg, slow)
        if batch.labelled_rgb
        else Clips(network_input(labelled.rgb), network_input(labelled.tg, slow)),
        labels_B=labelled.labels,
        weak=weak,
        strong=strong,
        true_labels_U=true_labels,
    )


def _strong(clips: ClipBatch, rgb: tuple[StrongPlan, ...], tg: tuple[StrongPlan, ...], slow: bool) -> Clips:
    return Clips(
        None if clips.rgb is None else network_input(apply_strong(clips.rgb, rgb)),
        None if clips.tg is None else network_input(apply_strong(clips.tg, tg), slow),
    )


def on_device(batch: SslBatch, device: torch.device) -> SslBatch:
    """The batch with its tensors on the device; copies from pinned memory are not waited for."""
    unlabelled = None if batch.unlabelled is None else _clips_on_device(batch.unlabelled, device)
    return replace(batch, labelled=_clips_on_device(batch.labelled, device), unlabelled=unlabelled)


def _clips_on_device(clips: ClipBatch, device: torch.device) -> ClipBatch:
    rgb, tg = (None if view is None else view.to(device, non_blocking=True) for view in (clips.rgb, clips.tg))
    return replace(clips, rgb=rgb, tg=tg, labels=clips.labels.to(device, non_blocking=True))
