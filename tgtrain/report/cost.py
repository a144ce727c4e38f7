"""What a run cost: time of its devices, memory, and energy where the device reports it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tgtrain.report.run_data import RunData


@dataclass(frozen=True, slots=True)
class Cost:
    """None: not logged. Device hours are those of all processes together."""

    step_hours: float | None  # device hours in training steps
    peak_gb: float | None  # of the first process, GiB
    loader_gb: float | None  # of its largest loader process, GiB
    energy_kwh: float | None  # of all GPUs in training steps
    num_devices: int


def cost_of(run: RunData) -> Cost:
    """Add up the log of a run. Steps that were lost to a kill and trained again are in no log."""
    steps = _sum_over_steps(run, "seconds_per_step")
    joules = _sum_over_steps(run, "seconds_per_step", "gpu_watts")
    devices = run.facts.world_size
    return Cost(
        step_hours=None if steps is None else devices * steps / 3600,
        peak_gb=_highest(run, "memory_mb"),
        loader_gb=_highest(run, "loader_memory_mb") or None,
        energy_kwh=None if joules is None else devices * joules / 3.6e6,
        num_devices=devices,
    )


def _sum_over_steps(run: RunData, name: str, factor: str = "") -> float | None:
    """The sum over all steps of a quantity that is logged as its mean since the last line, times that of another one."""
    if name not in run.train or (factor and factor not in run.train):
        return None
    curve = run.train[name]
    value = curve.value * np.diff(curve.step, prepend=0)
    if factor:
        other = run.train[factor]
        value = value * np.interp(curve.step, other.step, np.nan_to_num(other.value))
    total = float(np.nansum(np.where(np.isfinite(value), value, np.nan)))
    return total if total > 0 else None


def _highest(run: RunData, name: str) -> float | None:
    values = run.train[name].finite().value if name in run.train else np.empty(0)
    return float(values.max()) / 1024 if len(values) else None
