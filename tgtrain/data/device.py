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
        yield from (on_device(batch, device) for batch in batches)
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
        parts = (clips.rgb, clips.tg, clips.videos)
        rgb, tg, videos = (None if part is None else part.to(device, non_blocking=True) for part in parts)
        return replace(clips, rgb=rgb, tg=tg, labels=clips.labels.to(device, non_blocking=True), videos=videos)

    return replace(
        batch, labelled=moved(batch.labelled), unlabelled=None if batch.unlabelled is None else moved(batch.unlabelled)
    )


def tensors_of(batch: SslBatch) -> list[Tensor]:
    """All tensors of a batch."""
    streams = [clips for clips in (batch.labelled, batch.unlabelled) if clips is not None]
    every = [tensor for clips in streams for tensor in (clips.rgb, clips.tg, clips.labels, clips.videos)]
    return [tensor for tensor in every if tensor is not None]


def views_of(batch: SslBatch, slow: bool) -> StepInputs:
    """Labelled, weak and strong views of a batch, on its device. slow: its TG clips are the raw frames of slow TG."""

    def view(clips: ClipBatch, rgb: tuple[StrongPlan, ...] = (), tg: tuple[StrongPlan, ...] = ()) -> Clips:
        """The strong view by these plans, or the weak one without."""
        frames = ((clips.rgb, rgb), (clips.tg, tg))
        rgb_clips, tg_clips = (
            clip if clip is None or not plans else apply_strong(clip, plans) for clip, plans in frames
        )
        return Clips(network_input(rgb_clips), network_input(tg_clips, slow))

    labelled, unlabelled = batch.labelled, batch.unlabelled
    return StepInputs(
        labelled=view(labelled, batch.labelled_rgb, batch.labelled_tg),
        labels_B=labelled.labels,
        weak=None if unlabelled is None else view(unlabelled),
        strong=None if unlabelled is None else view(unlabelled, batch.strong_rgb, batch.strong_tg),
        true_labels_U=None if unlabelled is None else unlabelled.labels,
        videos_U=None if unlabelled is None else unlabelled.videos,
    )
