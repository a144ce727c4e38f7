"""An SslBatch as read -> the Views that a step takes, on the device: copied there as uint8, augmented and normalised there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from tgtrain.data.batch import ClipBatch, SslBatch
from tgtrain.method.augment.apply import apply_strong, network_input
from tgtrain.method.augment.plan import StrongPlan
from tgtrain.method.step import Clips, StepInputs


def views_of(batch: SslBatch, device: torch.device, slow: bool) -> StepInputs:
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
    return StepInputs(
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


def batches_on(device: torch.device, batches: Iterable[SslBatch]) -> Iterator[SslBatch]:
    """The batches, on the device, one by one as they are asked for.

    On a GPU the copy of a batch that lies in pinned memory runs in a stream of its own, while the work of the steps before, which this
    process has queued and not waited for, goes on; only the work that is queued afterwards waits for the copy. Nothing is
    asked of `batches` ahead: that is the loader's part, and a step never waits for the batch after its own.
    """
    if device.type != "cuda":
        for batch in batches:
            yield on_device(batch, device)
        return
    copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    for batch in batches:
        with torch.cuda.stream(copies):
            there = on_device(batch, device)
        work = torch.cuda.current_stream(device)
        work.wait_stream(copies)
        for tensor in tensors_of(there):
            tensor.record_stream(work)  # else its memory would be free for the next copy while the work still reads it
        yield there


def tensors_of(batch: SslBatch) -> list[Tensor]:
    """All tensors of a batch."""
    streams = [clips for clips in (batch.labelled, batch.unlabelled) if clips is not None]
    return [tensor for clips in streams for tensor in (clips.rgb, clips.tg, clips.labels) if tensor is not None]
