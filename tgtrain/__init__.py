"""Shards and a label split in; checkpoints, scores and a report out.

As a library: `open_dataset` and `open_streams` give the clips to a trainer of your own (docs/python.md).
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # not that of typing, which `python -m` would take from the user's folder
if TYPE_CHECKING:
    from typing import Any

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


def _own(name: str) -> None:
    """Import the package `name` that lies beside this one, whatever lies in the working folder or on PYTHONPATH.

    Of two packages of one name a process can hold only one: where the program has imported another one before, it ends with
    one message and exit code 2. (tgprep and tgtrain have a copy each: neither imports the other.)
    """
    root = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    sys.path.insert(0, root)
    try:
        found = os.path.realpath([*getattr(__import__(name), "__path__", ()), sys.modules[name].__file__ or ""][0])
    finally:
        sys.path.remove(root)
    if found != os.path.join(root, name):
        text = f"{__name__} needs its own package `{name}`, but this program has imported another one before: {found}."
        print(
            f"Error: {text} Rename that one, or use {__name__} in a program that does not import it.", file=sys.stderr
        )
        sys.exit(2)


_own("manifests")


def __getattr__(name: str) -> Any:
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)  # torch is loaded by the first use, not by the commands
