"""Batches onto the device: copied beside the computation, in a stream of their own where the device has streams."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from tgtrain.batch import SslBatch
from tgtrain.views import on_device


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
