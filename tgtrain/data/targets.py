"""The soft targets of a run: those of its unlabelled videos, and what is not used of the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from manifests.records import InputError
from manifests.splits.label_split import LabelSplit
from manifests.table import Manifest
from manifests.targets.origins import leaks
from manifests.targets.target_file import Probabilities, read_targets, targets_digest


@dataclass(frozen=True, slots=True, eq=False)
class RunTargets:
    """Targets of the U unlabelled videos of a split."""

    name: str
    digest: str  # of the file's content: a part of the run's identity
    rows: npt.NDArray[
        np.int64
    ]  # [U], the row of each unlabelled video in `probabilities`; -1 for a video without a target
    probabilities: Probabilities  # [N, K], K as many as the model has outputs
    num_held_out: int  # targets of validation and test videos, which are ignored
    num_other: int  # of videos in no part of the split, or in its labelled part alone; ignored, too
    provenance: dict[str, str]
    doubts: tuple[str, ...] = ()  # about the labels that the targets have seen

    @property
    def num_used(self) -> int:
        """Unlabelled videos with a target."""
        return len(self.probabilities)


def read_run_targets(root: str, name: str, manifest: Manifest, split: LabelSplit, num_outputs: int) -> RunTargets:
    """Read the targets that a run learns from. num_outputs: of the model; there may be more than classes.

    InputError if the file cannot be read, names none of the unlabelled videos, or comes from runs that learnt the labels of test
    or validation videos of this split. Targets of such videos are never used, whatever the file holds.
    """
    targets = read_targets(root, name, manifest.header.classes)
    errors, doubts = leaks(root, targets, split)
    if errors:
        raise InputError("; ".join(errors))
    held_out = split.test | split.validation
    if num_outputs < len(targets.classes):
        raise InputError(f"targets {name} are for {len(targets.classes)} classes, model.num_classes is {num_outputs}")
    keys = pa.array(targets.key, pa.string())
    of_split = pc.fill_null(pc.index_in(pa.array(split.key, pa.string()), value_set=keys), -1).to_numpy()
    of_unlabelled = np.where(held_out, -1, of_split)[split.unlabelled]
    has = of_unlabelled >= 0
    if not has.any():
        raise InputError(
            f"targets {name} name none of the {len(of_unlabelled)} unlabelled videos of split {split.name} "
            f"(`tgprep targets {root} --show {name}` counts them)"
        )
    num_held_out = int((of_split[held_out] >= 0).sum())
    probabilities = np.zeros((int(has.sum()), num_outputs), np.float32)
    probabilities[:, : len(targets.classes)] = targets.probabilities[of_unlabelled[has]]
    rows = np.where(has, np.cumsum(has) - 1, -1).astype(np.int64)
    num_other = len(targets) - int(has.sum()) - num_held_out
    digest = targets_digest(targets)
    return RunTargets(
        name, digest, rows, probabilities, num_held_out, num_other, dict(targets.provenance), tuple(doubts)
    )


class TargetTable:
    """Targets on the device of a rank, looked up by a video's number among the unlabelled ones: nothing waits for it."""

    def __init__(self, targets: RunTargets, temperature: float, device: torch.device) -> None:
        """temperature: each target becomes q^(1 / temperature), normalised: below 1 sharper, above 1 flatter."""
        q = torch.from_numpy(targets.probabilities)
        if temperature != 1:
            # From the highest on, so that no power of small numbers vanishes altogether.
            q = (q / q.amax(dim=1, keepdim=True)).pow(1 / temperature)
            q /= q.sum(dim=1, keepdim=True)
        # The last row, of zeros, is that of videos without a target.
        self.probabilities = torch.cat([q, q.new_zeros((1, q.shape[1]))]).to(device)
        rows = np.where(targets.rows < 0, len(targets.probabilities), targets.rows)
        self.rows = torch.from_numpy(rows).to(device)

    def of(self, videos_U: Tensor) -> Tensor:
        """Targets [U, K] of these videos; a row of zeros for one without."""
        return self.probabilities[self.rows[videos_U]]
