"""The words and figures of a report about one run: headline, every accuracy, how it was measured and trained, notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tgtrain.data.crop import reference_pixels
from tgtrain.evaluate.results import TestResult
from tgtrain.report.classes import interval95, majority_share
from tgtrain.report.plot import number
from tgtrain.report.run_data import Curve, RunData

_MODALITY_TEXT = {"rgb": "RGB network", "tg": "TG network", "both": "RGB and TG networks"}
_REFERENCE_SHORT_SIDE = 256
_SLOW_LOADER_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Accuracy:
    """One measured accuracy. name: with protocol, as in the files; value 0..1; interval: 95 %, None where not known."""

    name: str
    value: float
    interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Measurement:
    """A row of the table of results. source: test, or while training (last, best). note: what to keep in mind."""

    protocol: str
    part: str
    source: str
    step: int
    num_videos: int
    accuracies: tuple[Accuracy, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the page says of one run, besides charts and tables of classes."""

    run: RunData
    headline: Accuracy | None
    headline_text: str
    others: tuple[Accuracy, ...]
    measurements: tuple[Measurement, ...]
    protocol_text: str
    baseline_text: str
    published: str
    finished: bool
    status: str
    time_per_step: str
    time_text: str
    speed_text: str
    waiting_text: str
    pictures: tuple[tuple[str, int, float], ...]
    provenance: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def facts_of(run: RunData) -> Facts:
    """Everything the page says of a run in words."""
    measurements = _measurements(run)
    first = measurements[0] if measurements else None
    result = run.results[0] if run.results else None
    seconds = run.median("seconds_per_step")
    rate, waiting = run.median("clips_per_second"), run.median("waiting_share")
    total = sum(run.data.pictures.values())
    return Facts(
        run=run,
        headline=first.accuracies[0] if first else None,
        headline_text=_headline_text(run, first, result),
        others=first.accuracies[1:] if first else (),
        measurements=measurements,
        protocol_text=_protocol_text(run, first.protocol, result.average if result else "") if first else "",
        baseline_text=_baseline_text(result),
        published=str(run.settings.get("published", "")),
        finished=run.steps_done >= run.num_steps,
        status=_status(run),
        time_per_step=_seconds(seconds) if seconds is not None else "",
        time_text=_time_text(run, seconds),
        speed_text=f"{number(rate)} clips/s" if rate is not None else "",
        waiting_text=_waiting_text(waiting),
        pictures=tuple((size, count, count / total) for size, count in run.data.pictures.items()) if total else (),
        # What the data set's own card says is not said again.
        provenance=tuple(
            (k, v) for k, v in run.split.provenance.items() if v not in (run.data.digest, run.data.dataset)
        ),
        notes=_notes(run, measurements),
    )


def _measurements(run: RunData) -> tuple[Measurement, ...]:
    rows = []
    for result in run.results:
        accuracies = tuple(
            Accuracy(name, value, interval95(value, result.num_videos) if name.startswith("top") else None)
            for name, value in result.metrics.items()
        )
        notes = [f"{_steps(run.steps_done - result.step)} before the last one"] * (result.step < run.steps_done)
        notes += [f"{result.num_bad:,} more videos could not be read"] * (result.num_bad > 0)
        source = f"tgtrain test, {_MODALITY_TEXT.get(result.modality, result.modality)}"
        rows.append(
            Measurement(
                result.protocol, result.part, source, result.step, result.num_videos, accuracies, "; ".join(notes)
            )
        )
    for part in run.evaluate:
        num_videos = {"test": run.split.test, "validation": run.split.validation}.get(part, 0)
        rows += evaluations(run, part, num_videos)
    return tuple(rows)


def evaluations(run: RunData, part: str, num_videos: int) -> list[Measurement]:
    """The last evaluation of a part while training, and the best one where that is another; num_videos: 0 unknown."""
    curves = {name: curve for name, curve in run.evaluate[part].items() if "@" in name}
    curves = dict(sorted(curves.items(), key=lambda item: not item[0].startswith("top1@")))
    top1 = next(iter(curves), "")
    if not top1.startswith("top1@") or not np.isfinite(curves[top1].value).any():
        return []
    finite = np.isfinite(curves[top1].value)
    curve = Curve(curves[top1].step[finite], curves[top1].value[finite])
    best = int(curve.value.argmax())
    places = [(len(curve.step) - 1, "last while training", "")]
    if curve.value[best] > curve.value[-1]:
        optimistic = f"chosen among {len(curve.step)} by the same videos: optimistic"
        places.append((best, "best while training", optimistic))
    rows = []
    for place, source, note in places:
        step = int(curve.step[place])
        accuracies = []
        for name, other in curves.items():
            value = other.value[other.step == step]
            if len(value) and np.isfinite(value[0]):
                interval = interval95(float(value[0]), num_videos) if num_videos and name.startswith("top") else None
                accuracies.append(Accuracy(name, float(value[0]), interval))
        rows.append(Measurement(top1.partition("@")[2], part, source, step, num_videos, tuple(accuracies), note))
    return rows


def _headline_text(run: RunData, first: Measurement | None, result: TestResult | None) -> str:
    if first is None:
        return "No accuracy has been measured yet."
    if not first.num_videos:
        return f"{first.part} videos; {first.source}, step {first.step:,}"
    right = f"{round(first.accuracies[0].value * first.num_videos):,} of {first.num_videos:,} {first.part} videos right"
    if result is None:
        return f"{right}; {first.source}, step {first.step:,}"
    network = _MODALITY_TEXT.get(result.modality, result.modality)
    return f"{right}; {network}, checkpoint {result.checkpoint or f'of step {result.step}'}"


def _protocol_text(run: RunData, protocol: str, average: str) -> str:
    clips, _, crops = protocol.partition("x")
    if not (clips.isdigit() and crops.isdigit()):
        return ""
    size = int(run.settings.get("data.size", 224))
    short_side = reference_pixels(_REFERENCE_SHORT_SIDE, size)
    if crops == "3":
        short_side = int(run.settings.get("data.test_size", 0)) or short_side
    cut = (
        f"the centre crop of {size} pixels"
        if crops == "1"
        else f"{crops} crops of {short_side} pixels (both ends and middle)"
    )
    when = "the clip in the middle" if clips == "1" else f"{clips} clips spread evenly"
    frames, interval = run.settings.get("data.clip_frames", 8), run.settings.get("data.interval", 8)
    views = int(clips) * int(crops)
    return (
        f"{protocol}: {when} of every video, {frames} frames {interval} apart, short side {short_side} pixels, {cut}"
        + (f"; the {average or 'scores'} of the {views} views are averaged." if views > 1 else ".")
    )


def _baseline_text(result: TestResult | None) -> str:
    share = majority_share(result) if result else None
    return f"Always naming the most frequent class would score {100 * share:.1f} %." if share else ""


def _status(run: RunData) -> str:
    done, planned = min(run.steps_done, run.num_steps), run.num_steps
    if done >= planned:
        return f"Finished: {_steps(planned)}"
    if not done:
        return f"No step logged yet of {planned:,}"
    return f"{done:,} of {_steps(planned)} ({100 * done / planned:.0f} %)"


def _time_text(run: RunData, seconds: float | None) -> str:
    if seconds is None:
        return ""
    if run.steps_done >= run.num_steps:
        return f"about {_duration(seconds * run.num_steps)} for all {_steps(run.num_steps)}, evaluation apart"
    return f"about {_duration(seconds * (run.num_steps - run.steps_done))} for the steps left, evaluation apart"


def _waiting_text(share: float | None) -> str:
    if share is None:
        return ""
    verdict = (
        "reading clips slows this run down: give it more loader workers (runtime.workers) or faster storage"
        if share > _SLOW_LOADER_SHARE
        else "reading clips keeps up"
    )
    return f"{100 * share:.0f} % of the time spent waiting for data: {verdict}"


def _notes(run: RunData, measurements: Sequence[Measurement]) -> tuple[str, ...]:
    notes = list(run.problems)
    if not run.train:
        notes.append("This run has logged no training step yet, so there are no curves.")
    bad = run.last("num_bad")
    if bad:
        notes.append(
            f"{bad:,.0f} damaged clips were met and replaced while training; `tgprep check` names their videos."
        )
    if not run.results and run.steps_done:
        notes.append(f"No test result yet: `tgtrain test {run.folder}` measures one, with predictions for every video.")
    elif measurements and measurements[0].step < run.steps_done:
        notes.append(
            f"The accuracy shown first was measured at step {measurements[0].step:,}; the run has gone on to {run.steps_done:,}."
        )
    return tuple(notes)


def _seconds(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.3g} s"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 48 * 60 else f"{minutes / 1440:.1f} days"


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count:,} steps"
