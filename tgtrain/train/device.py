"""Batches as read -> on the device -> the views that a step takes: copied as uint8, augmented and normalised there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from tgtrain.data.batch import ClipBatch, SslBatch
from tgtrain.method.augment.apply import apply_strong, network_input
from tgtrain.method.augment.plan import StrongPlan
from tgtrain.method.step import Clips, StepInputs


def batches_on(device: torch.device, batches: Iterable[SslBatch]) -> Iterator[SslBatch]:
    """The batches on the device, one by one as they are requested; none is read ahead, which is the loader's part.

    On a GPU a batch in pinned memory is copied in a separate CUDA stream, beside the queued work of earlier steps; only work
    that is queued afterwards waits for the copy.
    """
    if device.type != "cuda":
        for batch in batches:
            yield on_device(batch, device)
        return
    copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    for batch in batches:
        with torch.cuda.stream(copies):
            copied = on_device(batch, device)
        work = torch.cuda.current_stream(device)
        work.wait_stream(copies)
        # Without this the memory would be free for the next copy while the queued work still reads it.
        for tensor in tensors_of(copied):
            tensor.record_stream(work)
        yield copied


def on_device(batch: SslBatch, device: torch.device) -> SslBatch:
    """The batch with its tensors on the device; does not wait for copies from pinned memory."""

    def moved(clips: ClipBatch) -> ClipBatch:
        rgb, tg = (None if view is None else view.to(device, non_blocking=True) for view in (clips.rgb, clips.tg))
        return replace(clips, rgb=rgb, tg=tg, labels=clips.labels.to(device, non_blocking=True))

    return replace(
        batch, labelled=moved(batch.labelled), unlabelled=None if batch.unlabelled is None else moved(batch.unlabelled)
    )


def tensors_of(batch: SslBatch) -> list[Tensor]:
    """All tensors of a batch."""
    streams = [clips for clips in (batch.labelled, batch.unlabelled) if clips is not None]
    return [tensor for clips in streams for tensor in (clips.rgb, clips.tg, clips.labels) if tensor is not None]


def views_of(batch: SslBatch, slow: bool) -> StepInputs:
    """Labelled, weak and strong views of a batch, on its device. slow: its TG clips are the raw frames of slow TG."""
    labelled, unlabelled = batch.labelled, batch.unlabelled
    weak = strong = None
    if unlabelled is not None:
        weak = _weak(unlabelled, slow)
        strong = _strong(unlabelled, batch.strong_rgb, batch.strong_tg, slow)
    return StepInputs(
        labelled=_strong(labelled, batch.labelled_rgb, batch.labelled_tg, slow)
        if batch.labelled_rgb
        else _weak(labelled, slow),
        labels_B=labelled.labels,
        weak=weak,
        strong=strong,
        true_labels_U=None if unlabelled is None else unlabelled.labels,
    )


def _weak(clips: ClipBatch, slow: bool) -> Clips:
    return Clips(network_input(clips.rgb), network_input(clips.tg, slow))


def _strong(clips: ClipBatch, rgb: tuple[StrongPlan, ...], tg: tuple[StrongPlan, ...], slow: bool) -> Clips:
    return Clips(
        None if clips.rgb is None else network_input(apply_strong(clips.rgb, rgb)),
        None if clips.tg is None else network_input(apply_strong(clips.tg, tg), slow),
    )
