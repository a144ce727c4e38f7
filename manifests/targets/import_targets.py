"""Make targets from files of scores: every row is matched to a video, several files are averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from manifests.console import plural
from manifests.lists.text import shown
from manifests.records import WRITTEN, InputError
from manifests.splits.list_match import match_lists
from manifests.splits.lists import ListEntry, ListFile, Reading
from manifests.table import Manifest
from manifests.targets.origins import run_facts
from manifests.targets.score_file import Kind, ScoreFile, read_scores
from manifests.targets.target_file import Targets


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSettings:
    """How files of scores are read."""

    name: str
    scores: Kind | None = None  # None: as the file says, else probabilities
    temperature: float = 1.0  # of the softmax over logits
    skip_unknown: bool = False  # leave out rows of videos that the data set does not hold, in place of an error


def import_targets(manifest: Manifest, files: Sequence[Path], settings: TargetSettings) -> Targets:
    """Make targets from one file, or as the mean of several (of each video over the files that have it).

    InputError, which names file and line, for videos that the data set does not hold, videos that come twice in a file,
    classes that differ, and rows that are no probabilities.
    """
    classes = manifest.header.classes
    total = np.zeros((len(manifest.videos), len(classes)), np.float32)
    count = np.zeros(len(manifest.videos), np.int64)
    provenance = {"made": "imported", "dataset": manifest.header.dataset, "dataset_digest": manifest.digest}
    known: set[str] = set()
    for number, path in enumerate(files, 1):
        file = read_scores(path, classes, settings.scores, settings.temperature)
        if file.sha256 in known:
            raise InputError(f"{path} has the same content as an earlier file: a mean of them counts it twice.")
        known.add(file.sha256)
        rows = _match(manifest, file, settings.skip_unknown)
        is_known = rows >= 0
        total[rows[is_known]] += file.probabilities[is_known]
        count[rows[is_known]] += 1
        provenance[f"file_{number}"] = f"{path.name} sha256 {file.sha256}"
        facts = {"form": file.form, "num_rows": str(len(rows)), "num_unknown": str(int((~is_known).sum()))}
        facts |= {"temperature": f"{settings.temperature:g}"} if settings.temperature != 1 else {}
        facts |= {"run": text} if (text := run_facts(file.origin)) else {}
        provenance |= {f"file_{number}_{name}": value for name, value in facts.items()}
    given = np.flatnonzero(count)
    if not len(given):
        raise InputError(f"{', '.join(map(str, files))}: no row names a video of {manifest.root}.")
    if partial := int((count[given] < len(files)).sum()):
        provenance["num_in_some_files"] = str(partial)
    keys = manifest.videos.arrow["key"].take(pa.array(given))
    order = pc.sort_indices(keys).to_numpy()
    mean = total[given[order]] / count[given[order], None].astype(np.float32)
    sorted_keys = tuple(keys.take(pa.array(order)).to_pylist())
    return Targets(settings.name, sorted_keys, mean, tuple(classes), dict(sorted(provenance.items())))


def _match(manifest: Manifest, file: ScoreFile, skip_unknown: bool) -> npt.NDArray[np.int64]:
    """The manifest's row of each row of a file; -1 for a video that is not there, if these are left out."""
    written = pc.equal(manifest.videos.arrow["status"], WRITTEN).to_numpy(zero_copy_only=False)
    keys = manifest.videos.arrow["key"].combine_chunks()
    found = pc.fill_null(pc.index_in(pa.array(file.keys, pa.string()), value_set=keys), -1).to_numpy()
    rows: npt.NDArray[np.int64] = np.where((found >= 0) & written[found], found, -1).astype(np.int64)
    if len(missing := np.flatnonzero(rows < 0)):
        _match_names(manifest, file, rows, missing, skip_unknown)
    known = np.flatnonzero(rows >= 0)
    order = known[np.argsort(rows[known], kind="stable")]
    again = order[1:][rows[order[1:]] == rows[order[:-1]]]
    if len(again):
        row = int(again.min())
        first = next(other for other in known if rows[other] == rows[row])
        raise InputError(
            f"{file.where(row)}: {shown(file.keys[row])} was there before, at {file.where(int(first))}. Take one of them out."
        )
    return rows


def _match_names(
    manifest: Manifest, file: ScoreFile, rows: npt.NDArray[np.int64], missing: npt.NDArray[np.int64], skip_unknown: bool
) -> None:
    """Find videos by other names than their key, as for lists of splits: by path, class and file name, and so on."""
    entries = tuple(
        ListEntry(place, file.keys[row], (Reading(file.keys[row]),)) for place, row in enumerate(missing.tolist())
    )
    try:
        matched = match_lists(manifest, {"targets": ListFile(file.path.name, file.sha256, "", entries)})
    except InputError:
        if not skip_unknown:
            raise InputError(_unknown(manifest, file, missing, "no such video in the data set")) from None
        return
    for match in matched.of_part["targets"]:
        rows[missing[match.line]] = match.row
    lost = [entry for entry in matched.unmatched if not (skip_unknown and not entry.reason.startswith("listed before"))]
    if lost:
        first = lost[0]
        raise InputError(_unknown(manifest, file, missing[[entry.line for entry in lost]], first.reason))


def _unknown(manifest: Manifest, file: ScoreFile, rows: npt.NDArray[np.int64], reason: str) -> str:
    first = int(rows[0])
    return (
        f"{file.where(first)}: {shown(file.keys[first])}: {reason}; {len(rows)} of {plural(len(file.keys), 'row')} {'names' if len(rows) == 1 else 'name'} no video of "
        f"{manifest.root}. Keys look like {manifest.videos[0].key!r}. --skip-unknown leaves such rows out."
    )
