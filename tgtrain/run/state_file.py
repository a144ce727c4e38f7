"""Read what `torch.save` wrote: tensors and plain values, from a file that a stranger may have made.

torch.load runs no code with weights_only=True. Here the file is also bounded by itself: nothing in it is compressed, only the
classes of a checkpoint are named, and no tensor is larger than what the file holds.
"""

from __future__ import annotations

import pickle
import pickletools
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_CLASSES = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2"}
_CLASSES |= {f"torch {kind}Storage" for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Bool", "Byte")}
_OPCODES = {"STACK_GLOBAL", "NEWOBJ", "NEWOBJ_EX", "INST", "OBJ", "EXT1", "EXT2", "EXT4"}  # name or make other classes
_MOST_VALUES = 1_000_000
_ERRORS = (
    pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, ArithmeticError, LookupError, AttributeError, AssertionError,
    TypeError, ValueError, EOFError, NotImplementedError, MemoryError,
)  # fmt: skip  # that torch and pickle raise about content


def load_state(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The dict that a file holds; ValueError with the reason if it is no such file."""
    try:
        _check_archive(path)
        state = torch.load(path, map_location=device, weights_only=True)
        if not isinstance(state, dict):
            raise ValueError(f"it holds a {type(state).__name__}")
        _check_values(state, path.stat().st_size)
    except _ERRORS as error:
        raise ValueError(str(error).strip().partition("\n")[0][:120] or type(error).__name__) from None
    return state


def _check_archive(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it is compressed")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("its entries overlap")
        pickles = [entry for entry in entries if entry.filename.endswith(".pkl")]
        if len(pickles) != 1:
            raise ValueError(f"it holds {len(pickles)} pickles, expected 1")
        for opcode, argument, _ in pickletools.genops(archive.read(pickles[0])):
            if opcode.name in _OPCODES or (opcode.name == "GLOBAL" and argument not in _CLASSES):
                raise ValueError(f"it names {argument or opcode.name}, which no checkpoint does")


def _check_values(state: dict[str, Any], num_bytes: int) -> None:
    """ValueError unless all are plain values and tensors that fit into so many bytes."""
    open_values: list[Any] = [state]
    num_values, storages = 0, dict[int, int]()
    while open_values:
        value = open_values.pop()
        num_values += 1
        if num_values > _MOST_VALUES:  # one that holds itself has no end
            raise ValueError("it holds too many values")
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
            if value.numel() * value.element_size() > storage.nbytes() or sum(storages.values()) > num_bytes:
                raise ValueError("it holds a tensor that is larger than the file")
        elif isinstance(value, dict):
            open_values += [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple)):
            open_values += value
        elif value is not None and not isinstance(value, (str, int, float, bool)):
            raise ValueError(f"it holds a {type(value).__name__}")
