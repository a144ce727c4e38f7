"""Read what `torch.save` or safetensors wrote: tensors and plain values, from a file that a stranger may have made.

torch.load runs no code with weights_only=True. Here the file is also bounded by itself: nothing in it is compressed, only the
classes of a checkpoint are named, and no tensor is larger than what the file holds.
"""

from __future__ import annotations

import os
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from manifests.records import InputError

_CLASSES = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2"}
_CLASSES |= {f"torch {kind}Storage" for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Bool", "Byte")}
_OPCODES = {"STACK_GLOBAL", "NEWOBJ", "NEWOBJ_EX", "INST", "OBJ", "EXT1", "EXT2", "EXT4"}  # name or make other classes
_MOST_VALUES = 1_000_000
_MOST_TENSORS = 100_000  # by name
_MOST_CHARACTERS = 500  # of the name of a tensor or a class
_OLD_PICKLES = 5  # of a file from before torch 1.6: magic number, version, machine, the dict, keys of its storages
_ERRORS = (
    pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, ArithmeticError, LookupError, AttributeError, AssertionError,
    TypeError, ValueError, EOFError, NotImplementedError, MemoryError, struct.error,
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


def load_tensors(file: BinaryIO) -> dict[str, Tensor]:
    """The tensors in a file of weights by name, those in nested dicts as `outer.inner`; ValueError with the reason if it has none.

    The file is a dict that `torch.save` wrote, now or before version 1.6, or one of safetensors. What is no tensor is left out.
    """
    num_bytes = os.fstat(file.fileno()).st_size
    start = file.read(16)
    file.seek(0)
    try:
        if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= num_bytes:
            return _of_safetensors(file)
        if start[:2] == b"PK":
            _check_archive(file, own=False)
            file.seek(0)
        elif start[:1] != b"\x80":
            raise ValueError(f"it begins with {start!r}, as no file of torch.save or safetensors does")
        else:
            for _ in range(_OLD_PICKLES):
                _check_names(file)
            file.seek(0)
        with torch.serialization.safe_globals(_IGNORED), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about what it then refuses
            content = torch.load(file, map_location="cpu", weights_only=True)
        return _named_tensors(content, num_bytes)
    except (*_ERRORS, OSError) as error:  # torch seeks to where the content says
        raise ValueError(_reason(str(error)) or type(error).__name__) from None


def _check_names(content: BinaryIO | bytes) -> None:
    """ValueError if a pickle names a class at such length that torch would search its own message about it for hours."""
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name == "GLOBAL" and argument is not None and len(argument) > _MOST_CHARACTERS:
            raise ValueError(f"it names a class in {len(argument)} characters")


def _reason(message: str) -> str:
    """What torch says of a file, in one line; the class if it is one that it does not read."""
    if named := re.search(r"GLOBAL ([\w.]+)", message):
        return f"it holds {named[1]:.100}, and nothing but tensors and plain values is read: no code in it is run"
    return message.rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0][:120]


def _of_safetensors(file: BinaryIO) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load
    except ModuleNotFoundError:
        raise InputError("To read safetensors, install it: pip install 'tgprep[train]'.") from None
    try:
        return load(file.read())
    except SafetensorError as error:
        raise ValueError(str(error)) from None


class _Ignored:
    """Stands for an object beside the tensors of a file: takes any arguments and state, and keeps none."""

    def __new__(cls, *args: object, **options: object) -> _Ignored:
        return super().__new__(cls)

    def __init__(self, *args: object) -> None:
        """Take nothing."""

    def __setstate__(self, state: object) -> None:
        """Take nothing."""


# What trainers save beside their tensors, by name (the scaler of TCLR, settings, figures): never imported, see `_Ignored`.
_IGNORED: list[Any] = [
    (_Ignored, name)
    for name in (
        "argparse.Namespace", "collections.defaultdict", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar",
        "numpy.dtype", "torch.amp.grad_scaler.GradScaler", "torch.amp.grad_scaler._refresh_per_optimizer_state",
        "torch.cuda.amp.grad_scaler.GradScaler", "torch.cuda.amp.grad_scaler._refresh_per_optimizer_state",
    )
]  # fmt: skip


def _named_tensors(content: object, num_bytes: int) -> dict[str, Tensor]:
    """The tensors of nested dicts; ValueError unless there are some, and all of them fit into so many bytes."""
    tensors = dict[str, Tensor]()
    open_values: list[tuple[str, Any]] = [("", content)]
    num_values = 0
    while open_values:
        name, value = open_values.pop()
        num_values += 1
        if num_values > _MOST_VALUES or len(tensors) > _MOST_TENSORS or len(name) > _MOST_CHARACTERS:
            raise ValueError("it holds too many values, or names that are too long")
        if isinstance(value, Tensor):
            if value.layout is not torch.strided or value.device.type != "cpu" or value.is_quantized:
                raise ValueError(f"its tensor {name} is sparse, quantised or empty of values")
            tensors[name] = value.detach()
        elif isinstance(value, dict):
            inner = [(key, part) for key, part in value.items() if isinstance(key, str)]
            open_values += [(f"{name}.{key}" if name else key, part) for key, part in reversed(inner)]
    if not tensors:
        raise ValueError(f"it is a {type(content).__name__} that holds no tensor by name")
    _check_values(tensors, num_bytes)
    return tensors


def _check_archive(path: Path | BinaryIO, own: bool = True) -> None:
    """ValueError unless a zip file holds one pickle and takes no more memory than its size. own: it is a checkpoint of ours."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        num_bytes = path.stat().st_size if isinstance(path, Path) else os.fstat(path.fileno()).st_size
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it is compressed")
        if sum(entry.file_size for entry in entries) > num_bytes:
            raise ValueError("its entries overlap")
        pickles = [entry for entry in entries if entry.filename.endswith(".pkl")]
        if len(pickles) != 1:
            raise ValueError(f"it holds {len(pickles)} pickles, expected 1")
        content = archive.read(pickles[0])
        if not own:
            _check_names(content)
            return
        for opcode, argument, _ in pickletools.genops(content):
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
