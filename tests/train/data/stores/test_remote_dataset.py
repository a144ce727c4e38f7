"""`open_dataset` on a data set in an object store."""

from __future__ import annotations

from pathlib import Path

from torch.utils.data import DataLoader

from tests.train.data.support import CLIPS, equal, read_in_processes
from tgtrain import open_dataset


def test_a_data_set_in_an_object_store(url: str, tmp_path: Path, local: Path) -> None:
    here, there = open_dataset(local, **CLIPS), open_dataset(url, cache=str(tmp_path), **CLIPS)
    assert all(map(equal, here, there))
    read_in_processes(url, "fork", cache=str(tmp_path))
    batches = DataLoader(there, batch_size=4)
    assert [key for batch in batches for key in batch["key"]] == [here.key(index) for index in range(len(here))]
