"""The log of a run: metrics.jsonl (written and read here), which trackers get, too."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manifests.console import lost_log, plural
from manifests.files import atomic_write, parse_json, read_bytes
from manifests.machine import peak_memory_mb
from tgtrain.log_settings import LogSettings
from tgtrain.method.class_counts import ClassCount
from tgtrain.method.thresholds import ClassTrust
from tgtrain.run.energy import gpu_joules
from tgtrain.run.folder import METRICS_NAME
from tgtrain.run.trackers import open_trackers

_MAX_BYTES = 2**29  # of metrics.jsonl: a line of 1 kB for each of 500,000 intervals
_MAX_LINE = 2**16
_LARGEST = 1e300


class Interval:
    """Sums of the values since the last line of the log, kept on the device: nothing waits for it until the line is due.

    finite_only: leave values that are not finite out of their mean (float16 tries steps whose gradients overflow); otherwise
    they make the mean not finite either, so that they are noticed.
    """

    def __init__(self, finite_only: bool = False) -> None:
        self.finite_only = finite_only
        self.first_began = 0.0
        self.all_steps = 0
        self.reset()

    def reset(self) -> None:
        """Begin a new interval."""
        self.names: list[str] = []
        self.sums: Tensor | None = None  # [2, values]: sums, and of how many steps each
        self.num_steps = 0
        self.num_clips = 0
        self.waited_seconds = 0.0
        self.joules = gpu_joules()
        self.began = time.perf_counter()

    def add(self, values: list[tuple[str, Tensor]], num_clips: int, waited_seconds: float) -> None:
        """Add the values of one step."""
        if not self.all_steps:
            self.first_began = self.began
        self.all_steps += 1
        self.names = [name for name, _ in values]
        stacked = torch.stack([value.float() for _, value in values])
        counted = stacked.isfinite() if self.finite_only else torch.ones_like(stacked, dtype=torch.bool)
        step = torch.stack([torch.where(counted, stacked, 0.0), counted.float()])
        self.sums = step if self.sums is None else self.sums + step
        self.num_steps += 1
        self.num_clips += num_clips
        self.waited_seconds += waited_seconds

    def means(self) -> dict[str, float]:
        """Mean of every value over the interval (NaN of no step), and how long the interval took. Waits for the device."""
        assert self.sums is not None
        sums, counts = self.sums
        means = dict(zip(self.names, (sums / counts).tolist(), strict=True))
        seconds = max(1e-9, time.perf_counter() - self.began)
        means["clips_per_second"] = self.num_clips / seconds
        means["seconds_per_step"] = seconds / self.num_steps
        means["waiting_share"] = self.waited_seconds / seconds
        if torch.cuda.is_available():  # NaN where the GPU does not report it: all ranks have the same names
            joules = gpu_joules()
            known = joules is not None and self.joules is not None
            means["gpu_watts"] = (joules - self.joules) / seconds if known else math.nan  # type: ignore[operator]
        # With the evaluations and checkpoints between steps, for the estimate of the time left.
        means["overall_seconds_per_step"] = (time.perf_counter() - self.first_began) / self.all_steps
        return means


def with_precision(values: dict[str, float]) -> dict[str, float]:
    """The values (means over all ranks) with the precision of trusted pseudo-labels, if the class of any is known."""
    checked = values.get("train/num_checked", values.get("train/num_selected"))
    if checked and "train/num_correct" in values:
        values["train/pseudo_precision"] = values["train/num_correct"] / checked
    return values


def class_record(count: ClassCount, trust: ClassTrust, epoch: int, classes: Sequence[str]) -> dict[str, Any]:
    """The values of a record of kind `class`: the pseudo-labels of one class over the epoch that ends."""
    values = asdict(trust) | asdict(count)
    return {"epoch": epoch, "class": classes[values.pop("label")], **values}


def memory_mb() -> float:
    """Peak memory: of the GPU if one is used, else of this process."""
    return torch.cuda.max_memory_allocated() / 1024**2 if torch.cuda.is_available() else peak_memory_mb()


@dataclass(frozen=True, slots=True)
class Metrics:
    """The records of metrics.jsonl, each with its `kind` (str) and `step` (int)."""

    records: tuple[dict[str, Any], ...]
    num_damaged: int  # lines that hold no record
    cut_short: bool  # the last line was still being written: it is left out, and not counted as damaged


class Journal:
    """Writes metrics.jsonl of a run, and what log.to names besides. Records after the step that it resumes from are dropped.

    evaluation_due: the evaluation of that step, too, because it is repeated. log: called with a note if lines are damaged, and left out.
    """

    def __init__(
        self,
        run: Path,
        resumed_step: int,
        evaluation_due: bool = False,
        log: Callable[[str], None] = lambda text: None,
        settings: LogSettings | None = None,
    ) -> None:
        before = read_metrics(run)
        if damaged := before.num_damaged + before.cut_short:
            log(
                f"{plural(damaged, 'damaged line')} of {run / METRICS_NAME} {'is' if damaged == 1 else 'are'} left out; no step is lost"
            )
        kept = [
            record
            for record in before.records
            if record["step"] <= resumed_step
            and not (evaluation_due and (record["kind"], record["step"]) == ("evaluate", resumed_step))
        ]
        path = run / METRICS_NAME
        with atomic_write(path) as file:
            file.write("".join(json.dumps(record) + "\n" for record in kept).encode())
        self.file = path.open("a", encoding="utf-8")
        self.has_noted = False
        history = [(record["step"], _scalars(record)) for record in kept]
        self.trackers = open_trackers(run, settings or LogSettings(), history, resumed_step, log)

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Add one record. A value that is not finite is null there, and absent from the trackers.

        A record of kind `note` comes first, once, if lines of the log on stderr were lost: the run goes on without them.
        """
        if not self.has_noted and (reason := lost_log()):
            self.has_noted = True
            self.write("note", step, {"text": f"lines of the log on stderr are lost: {reason}"})
        values = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }
        record = {"kind": kind, "step": step, **values}
        self.file.write(json.dumps(record, allow_nan=False) + "\n")
        self.file.flush()
        if scalars := _scalars(record):
            for tracker in self.trackers:
                tracker.write(step, scalars)

    def close(self, complete: bool = False) -> None:
        """Close the files; trackers get what is left. complete: the run has done all its steps."""
        self.file.close()
        for tracker in self.trackers:
            tracker.close(complete)


def send_missed(run: Path, step: int, num_steps: int, settings: LogSettings, log: Callable[[str], None]) -> None:
    """Send what trackers on a server have missed of a run that has nothing left to do, after these of all its steps."""
    if trackers := [name for name in settings.to if name != "tensorboard"]:
        Journal(run, step, False, log, replace(settings, to=tuple(trackers))).close(step == num_steps)


def _scalars(record: dict[str, Any]) -> dict[str, float]:
    """The finite numbers of a record, under the names that trackers show: `loss/total`, `evaluate/top1@1x1`, `class/NAME/kept`."""
    kind = record["kind"]
    group = "/".join([kind, *(str(record[name]) for name in ("class", "view") if kind == "class" and record.get(name))])
    return {
        name if "/" in name else f"{group}/{name}": value
        for name, value in record.items()
        if name not in ("kind", "step") and isinstance(value, float | int) and math.isfinite(value)
    }


def read_metrics(run: Path) -> Metrics:
    """Read what `Journal` wrote, as far as it can be read."""
    path = run / METRICS_NAME
    try:
        text = read_bytes(path, _MAX_BYTES).decode("utf-8", "replace")
    except FileNotFoundError:
        text = ""
    *lines, last = text.split("\n")  # a complete file ends with a line break
    records, final = [_record(line) for line in lines if line.strip()], _record(last)
    valid = tuple(record for record in (*records, final) if record is not None)
    return Metrics(valid, records.count(None), cut_short=bool(last.strip()) and final is None)


def _record(line: str) -> dict[str, Any] | None:
    """One line of metrics.jsonl; None if it is damaged: all its values are texts, or numbers that a float holds."""
    try:
        record = parse_json(line) if len(line) <= _MAX_LINE else None
        values = record.values()  # type: ignore[union-attr]
        numbers = [value for value in values if value is not None and not isinstance(value, str)]
        if any(math.isfinite(number) and abs(number) >= _LARGEST for number in numbers):
            return None
        return {**record, "kind": str(record["kind"]), "step": int(record["step"])}  # type: ignore[dict-item,index]
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return None
