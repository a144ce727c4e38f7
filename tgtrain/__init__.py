"""Shards and a label split in; checkpoints, scores and a report out.

As a library: `open_dataset` and `open_streams` give the clips to a trainer of your own (docs/python.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manifests.records import InputError
    from tgtrain.data.dataset import ClipDataset, ClipItem, open_dataset
    from tgtrain.data.streams import TwoStreams, open_streams

__all__ = ["ClipDataset", "ClipItem", "InputError", "TwoStreams", "open_dataset", "open_streams"]
_HOMES = {
    "ClipDataset": "tgtrain.data.dataset",
    "ClipItem": "tgtrain.data.dataset",
    "InputError": "manifests.records",
    "TwoStreams": "tgtrain.data.streams",
    "open_dataset": "tgtrain.data.dataset",
    "open_streams": "tgtrain.data.streams",
}


def __getattr__(name: str) -> Any:
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)  # torch is loaded by the first use, not by the commands
