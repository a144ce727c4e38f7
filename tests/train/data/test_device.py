"""Batches on the device: in order, requested one by one; on a GPU the copy overlaps the computation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.train.support import assert_same_batch, dataset_of
from tgtrain.data.batch import SslBatch
from tgtrain.data.device import batches_on, on_device, tensors_of
from tgtrain.data.loader import step_loader

CPU = torch.device("cpu")


def test_batches_come_in_order_without_read_ahead(data_set: Path) -> None:
    dataset = dataset_of(data_set)
    asked: list[int] = []

    def batches() -> Iterator[SslBatch]:
        for step in range(3):
            asked.append(step)
            yield dataset[step]

    coming = batches_on(CPU, batches())
    for step in range(3):
        assert_same_batch(next(coming), dataset[step])
        assert asked == list(range(step + 1))
    with pytest.raises(StopIteration):
        next(coming)


def test_on_device_keeps_other_fields(data_set: Path) -> None:
    batch = dataset_of(data_set)[0]
    there = on_device(batch, CPU)
    assert_same_batch(there, batch)
    assert there.labelled.bad == batch.labelled.bad
    assert len(tensors_of(there)) == 8  # RGB, TG, labels and numbers of the videos, labelled and unlabelled


@pytest.mark.gpu
def test_copy_overlaps_computation_and_is_correct(data_set: Path) -> None:
    """While a long computation is queued the next batch arrives: its copy is done before the computation is."""
    device = torch.device("cuda")
    dataset = dataset_of(data_set)
    matrix = torch.randn(4096, 4096, device=device)
    for expected, got in zip(
        (dataset[step] for step in range(8)),
        batches_on(device, step_loader(dataset, range(8), 0, pin=True)),
        strict=True,
    ):
        sums = [tensor.sum() for tensor in tensors_of(got)]  # queued behind the copy
        for _ in range(20):  # memory of earlier batches is used again while this runs
            matrix = (matrix @ matrix).clamp(-1, 1)
        assert [int(value) for value in sums] == [int(tensor.sum()) for tensor in tensors_of(expected)]
        assert_same_batch(on_device(got, CPU), expected)


@pytest.mark.gpu
def test_copy_does_not_wait_for_queued_work() -> None:
    from tgtrain.data.batch import ClipBatch

    device = torch.device("cuda")
    clips = torch.randint(0, 256, (8, 8, 112, 112, 3), dtype=torch.uint8).pin_memory()
    batch = SslBatch(0, ClipBatch(clips, None, torch.zeros(8, dtype=torch.int64).pin_memory(), tuple("abcdefgh")), None)
    coming = batches_on(device, [batch, batch])
    next(coming)
    torch.cuda.synchronize()
    matrix = torch.randn(8192, 8192, device=device)
    for _ in range(30):
        matrix = (matrix @ matrix).clamp(-1, 1)
    busy = torch.cuda.Event()
    busy.record()
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = next(coming)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not busy.query(), "the batch was asked for and copied while the queued work was still running"
    assert got.labelled.rgb is not None
    assert torch.equal(got.labelled.rgb.cpu(), clips)
