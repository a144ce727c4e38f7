"""Soft targets of a data set: for each of some videos the probabilities of all classes, stored as Parquet with their history."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from manifests.disk import path_inside
from manifests.files import atomic_write, is_url, parse_json, read_bytes
from manifests.manifest_io import join
from manifests.parquet import seal_holds, sealed_table_bytes
from manifests.records import InputError
from manifests.splits.label_split import keyed_table, list_tables
from manifests.splits.settings import NAME_RULE, is_split_name

TARGETS_FOLDER = "targets"
TARGET_SCHEMA = pa.schema([("key", pa.string()), ("probabilities", pa.list_(pa.float32()))])
SUM_TOLERANCE = 1e-3  # of the probabilities of a video: those of float16 or of four digits stay within it
_PROVENANCE, _CLASSES = b"tgprep.provenance", b"tgprep.classes"
_SUFFIX = ".parquet"

Probabilities = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """Targets of N videos, sorted by key, for the K classes of their data set."""

    name: str
    key: tuple[str, ...]
    probabilities: Probabilities  # [N, K]; each row sums to 1
    classes: tuple[str, ...]
    provenance: dict[str, str]  # the files that the targets were made from, and how

    def __post_init__(self) -> None:
        if self.probabilities.shape != (len(self.key), len(self.classes)):
            raise ValueError(
                f"{len(self.key)} keys and {len(self.classes)} classes do not fit probabilities {self.probabilities.shape}"
            )
        if any(not before < after for before, after in zip(self.key, self.key[1:], strict=False)):
            raise ValueError("keys of targets must be unique and sorted")
        if (problem := first_problem(self.probabilities)) is not None:
            raise ValueError(f"the row of {self.key[problem[0]]} {problem[1]}")

    def __len__(self) -> int:
        return len(self.key)


def first_problem(probabilities_NK: npt.NDArray[np.floating]) -> tuple[int, str] | None:
    """The first row that holds no probabilities, and what is wrong with it; None if all are sound."""
    sums_N = probabilities_NK.sum(axis=1, dtype=np.float64)
    # A comparison with NaN is false, so a row with one is not sound.
    sound_N = (np.abs(sums_N - 1) <= SUM_TOLERANCE) & (probabilities_NK.min(axis=1, initial=0) >= 0)
    wrong = np.flatnonzero(~sound_N)
    if not len(wrong):
        return None
    row = int(wrong[0])
    values_K = probabilities_NK[row]
    if not np.isfinite(values_K).all():
        return row, "holds NaN or an infinite number"
    if (values_K < 0).any():
        return row, f"holds {values_K.min():g}, which is negative"
    return row, f"sums to {sums_N[row]:.6g}, expected 1"


def targets_digest(targets: Targets) -> str:
    """Compute the identity of the content: sha256 of classes, keys and probabilities, without name and provenance."""
    digest = hashlib.sha256(json.dumps([targets.classes, targets.key]).encode())
    digest.update(np.ascontiguousarray(targets.probabilities, "<f4").tobytes())
    return digest.hexdigest()


def target_table(targets: Targets) -> pa.Table:
    """Convert targets to Arrow; classes and provenance are in the schema's metadata."""
    num_videos, num_classes = targets.probabilities.shape
    ends = np.arange(num_videos + 1, dtype=np.int32) * num_classes
    values = pa.array(np.ascontiguousarray(targets.probabilities).ravel())
    metadata = {
        _CLASSES: json.dumps(targets.classes, ensure_ascii=False).encode(),
        _PROVENANCE: json.dumps(targets.provenance, sort_keys=True, ensure_ascii=False).encode(),
    }
    columns = [pa.array(targets.key, pa.string()), pa.ListArray.from_arrays(pa.array(ends), values)]
    return pa.table(columns, schema=TARGET_SCHEMA.with_metadata(metadata))


def targets_place(root: str | Path, name: str) -> str:
    """The location of a file of targets."""
    if not is_split_name(name):
        raise InputError(f"Name of targets {name!r}: {NAME_RULE}.")
    return join(root, TARGETS_FOLDER, name + _SUFFIX)


def write_targets(root: str | Path, targets: Targets, *, overwrite: bool = False) -> bool:
    """Write targets/NAME.parquet; False if the same targets exist already.

    InputError if others have that name, unless `overwrite`.
    """
    place, content = targets_place(root, targets.name), sealed_table_bytes(target_table(targets))
    with contextlib.suppress(FileNotFoundError):
        if (before := read_bytes(place)) == content:
            return False
        if not overwrite and seal_holds(before):
            raise InputError(
                f"{place} holds other targets of that name. Give another --name, or replace them with --overwrite: "
                "runs that were trained with them will not resume."
            )
    if not is_url(root):
        inside = path_inside(Path(root), f"{TARGETS_FOLDER}/{targets.name}{_SUFFIX}", "--name")
        inside.parent.mkdir(exist_ok=True)
    with atomic_write(place) as file:
        file.write(content)
    return True


def list_targets(root: str | Path) -> tuple[str, ...]:
    """List the names of the targets, newest first."""
    return list_tables(join(root, TARGETS_FOLDER))


def read_targets(root: str | Path, name: str, classes: Sequence[str]) -> Targets:
    """Read targets. classes: of the data set. InputError if there are none, the file is damaged or of other classes."""
    place = targets_place(root, name)
    try:
        table = keyed_table(read_bytes(place), TARGET_SCHEMA)
        metadata = table.schema.metadata or {}
        own = parse_json(metadata.get(_CLASSES, b"[]"))
        provenance = parse_json(metadata.get(_PROVENANCE, b"{}"))
        if not isinstance(provenance, dict) or not all(isinstance(value, str) for value in provenance.values()):
            raise ValueError("its provenance is no object of texts")
        if not isinstance(own, list) or not all(isinstance(value, str) for value in own):
            raise ValueError("its classes are no list of texts")
        if tuple(own) != tuple(classes):
            raise InputError(
                f"{place} holds targets for other classes ({len(own)}: {', '.join(own)[:80]}...) than the {len(classes)} of "
                f"{root}. Import them again."
            )
        lengths = pc.list_value_length(table["probabilities"])
        if len(lengths) and pc.min_max(lengths).as_py() != {"min": len(own), "max": len(own)}:
            raise ValueError(f"its rows do not all hold {len(own)} probabilities")
        values = table["probabilities"].combine_chunks().flatten().to_numpy()
        return Targets(name, tuple(table["key"].to_pylist()), values.reshape(-1, len(own)), tuple(own), provenance)
    except FileNotFoundError:
        names = list_targets(root)
        existing = f"there are: {', '.join(names[:10])}" if names else "there are none"
        raise InputError(
            f"No targets {name} in {root}; {existing}. `tgprep targets {root} --import FILE --name {name}` makes them."
        ) from None
    except ValueError as error:
        raise InputError(
            f"{place} is damaged ({str(error)[:300]}). Import the targets again with --overwrite."
        ) from None
