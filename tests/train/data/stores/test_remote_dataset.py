"""`open_dataset` on a data set in an object store."""

from __future__ import annotations

from pathlib import Path

from torch.utils.data import DataLoader

from tests.train.data.support import CLIPS, equal
from tgtrain import open_dataset


def test_a_data_set_in_an_object_store(url: str, tmp_path: Path, local: Path) -> None:
    here, there = open_dataset(local, **CLIPS), open_dataset(url, cache=str(tmp_path), **CLIPS)
    assert all(map(equal, here, there))
    batches = DataLoader(there, batch_size=4)
    assert [key for batch in batches for key in batch["key"]] == [here.key(index) for index in range(len(here))]


def test_loader_processes_have_connections_of_their_own(url: str, tmp_path: Path, local: Path) -> None:
    here, there = open_dataset(local, **CLIPS), open_dataset(url, cache=str(tmp_path), **CLIPS)
    assert equal(here[0], there[0])  # this process has connections and threads, which a fork does not take along
    loader = DataLoader(there, batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60)
    assert all(map(equal, here, loader))
