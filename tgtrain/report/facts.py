"""The words and figures of a report about one run: accuracies, how it was measured and trained, data, notes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tgtrain.data.clip import REFERENCE_SHORT_SIDE
from tgtrain.data.crop import reference_pixels
from tgtrain.evaluate.results import TestResult
from tgtrain.report.classes import interval95, majority_share
from tgtrain.report.plot import number
from tgtrain.report.run_data import RunData
from tgtrain.run.folder import MAX_SIZES, OTHER_SIZES

_MODALITY_TEXT = {"rgb": "RGB network", "tg": "TG network", "both": "RGB and TG networks"}
_SLOW_LOADER_SHARE = 0.2

Rows = tuple[tuple[str, str], ...]  # label, text


@dataclass(frozen=True, slots=True)
class Accuracy:
    """One measured accuracy."""

    name: str  # with protocol, as in the files
    value: float  # 0..1
    interval: tuple[float, float] | None  # 95 %, None if unknown


@dataclass(frozen=True, slots=True)
class Measurement:
    """A row of the table of results."""

    protocol: str
    part: str
    source: str  # a test, or an evaluation while training (last, best)
    step: int
    num_videos: int
    accuracies: tuple[Accuracy, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the page says of one run, besides charts and tables of classes. Texts are "" if nothing is known."""

    run: RunData
    measurements: tuple[Measurement, ...]  # the first one is the headline
    headline_text: str
    status: str
    time_per_step: str
    speed_text: str
    pictures: tuple[tuple[str, int, float], ...]  # size as stored, number of videos, share
    measured: Rows
    trained: Rows
    data: Rows
    place: Rows
    split: Rows
    notes: tuple[str, ...]
    pseudo_kept: float | None  # of the last line of the log, as pseudo_right
    pseudo_right: float | None

    @property
    def headline(self) -> Accuracy | None:
        """The accuracy that is shown first."""
        return self.measurements[0].accuracies[0] if self.measurements else None


def facts_of(run: RunData) -> Facts:
    """Everything the page says of a run in words."""
    measurements = _measurements(run)
    seconds, rate = run.median("seconds_per_step"), run.median("clips_per_second")
    time_per_step = "" if seconds is None else f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.3g} s"
    pictures = _pictures(run)
    data, split, facts = run.facts.data, run.facts.split, run.facts
    return Facts(
        run=run,
        measurements=measurements,
        headline_text=_headline_text(run, measurements),
        status=_status(run),
        time_per_step=time_per_step,
        speed_text=f"{number(rate)} clips/s" if rate is not None else "",
        pictures=pictures,
        measured=_measured(run, measurements, pictures),
        trained=_trained(run, seconds, time_per_step),
        data=(
            ("Name", f"{data.dataset}, {len(data.classes)} classes"),
            ("Videos", f"{data.num_videos:,} with {data.num_frames:,} frames"),
            ("Location", data.root),
            ("Digest", data.digest),
        ),
        place=(
            ("Folder", str(run.folder)),
            *((("Started", facts.started),) if facts.started else ()),
            *((name.capitalize(), str(value)) for name, value in facts.machine.items() if str(value)),
            *facts.versions.items(),
        ),
        split=(
            *(
                (part.capitalize(), f"{getattr(split, part):,}")
                for part in ("labelled", "unlabelled", "validation", "test")
            ),
            *((("Without label", f"{split.without_label:,} of the unlabelled"),) if split.without_label else ()),
            # The facts of the data set are beside it on the page.
            *((k, v or "–") for k, v in split.provenance.items() if v not in (data.digest, data.dataset)),
            ("Digest", split.digest),
        ),
        notes=_notes(run, measurements),
        pseudo_kept=run.last("train/mask_fraction"),
        pseudo_right=run.last("train/pseudo_precision"),
    )


def _pictures(run: RunData) -> tuple[tuple[str, int, float], ...]:
    """Each size as stored with its videos, and their share of all videos."""
    counts = dict(run.facts.data.pictures)
    # A run of an older version names the most frequent sizes alone.
    if len(counts) == MAX_SIZES and (rest := run.facts.data.num_videos - sum(counts.values())) > 0:
        counts[OTHER_SIZES] = rest
    total = sum(counts.values())
    return tuple((size, count, count / total) for size, count in counts.items() if total)


def _network_text(result: TestResult) -> str:
    return _MODALITY_TEXT.get(result.modality, result.modality) + " of the teacher" * result.is_teacher


def _measurements(run: RunData) -> tuple[Measurement, ...]:
    rows = []
    for result in run.results:
        notes = []
        if result.step < run.steps_done:
            notes.append(f"{_steps(run.steps_done - result.step)} before the last one")
        if result.num_bad:
            notes.append(f"{result.num_bad:,} more videos could not be read")
        rows.append(
            Measurement(
                result.protocol,
                result.part,
                f"tgtrain test, {_network_text(result)}",
                result.step,
                result.num_videos,
                tuple(_accuracy(name, value, result.num_videos) for name, value in result.metrics.items()),
                "; ".join(notes),
            )
        )
    for part in run.evaluate:
        rows += evaluations(run, part)
    return tuple(rows)


def evaluations(run: RunData, part: str) -> list[Measurement]:
    """The last evaluation of a part while training, and the best one if it is another."""
    num_videos = {"test": run.facts.split.test, "validation": run.facts.split.validation}.get(part, 0)
    curves = {name: curve.finite() for name, curve in run.evaluate[part].items() if "@" in name}
    names = sorted(curves, key=lambda name: not name.startswith("top1@"))
    if not names or not names[0].startswith("top1@") or not len(curves[names[0]].step):
        return []
    top1 = curves[names[0]]
    best = int(top1.value.argmax())
    shown = [(len(top1.step) - 1, "last while training", "")]
    if top1.value[best] > top1.value[-1]:
        shown.append((best, "best while training", f"chosen among {len(top1.step)} by the same videos: optimistic"))
    rows = []
    for index, source, note in shown:
        step = int(top1.step[index])
        accuracies = tuple(
            _accuracy(name, float(curves[name].value[curves[name].step == step][0]), num_videos)
            for name in names
            if np.isin(step, curves[name].step)
        )
        rows.append(Measurement(names[0].partition("@")[2], part, source, step, num_videos, accuracies, note))
    return rows


def _accuracy(name: str, value: float, num_videos: int) -> Accuracy:
    counted = num_videos > 0 and name.startswith("top")  # a mean over classes has no such interval
    return Accuracy(name, value, interval95(value, num_videos) if counted else None)


def _headline_text(run: RunData, measurements: tuple[Measurement, ...]) -> str:
    if not measurements:
        return "No accuracy has been measured yet."
    first = measurements[0]
    videos = f"{first.part} videos"
    if first.num_videos:
        right = round(first.accuracies[0].value * first.num_videos)
        videos = f"{right:,} of {first.num_videos:,} {first.part} videos right"
    if not run.results:
        return f"{videos}; {first.source}, step {first.step:,}"
    result = run.results[0]
    return f"{videos}; {_network_text(result)}, checkpoint {result.checkpoint or f'of step {result.step}'}"


def _measured(
    run: RunData, measurements: tuple[Measurement, ...], pictures: tuple[tuple[str, int, float], ...]
) -> Rows:
    result = run.results[0] if run.results else None
    rows, data = {}, run.facts.config.data
    protocol = measurements[0].protocol if measurements else ""
    clips, _, crops = protocol.partition("x")
    if clips.isdigit() and crops.isdigit():
        # As `plan_eval` cuts the views of a test.
        short_side, cut = reference_pixels(REFERENCE_SHORT_SIDE, data.size), f"the centre crop of {data.size} pixels"
        if crops == "3":
            short_side = data.test_size or short_side
            cut = f"3 crops of {short_side} pixels (both ends and middle)"
        which = "the clip in the middle" if clips == "1" else f"{clips} clips spread evenly"
        views, average = int(clips) * int(crops), (result.average if result else "") or "scores"
        averaged = f"; the {average} of the {views} views are averaged" if views > 1 else ""
        rows["Protocol"] = (
            f"{protocol}: {which} of every video, {data.clip_frames} frames {data.interval} apart, "
            f"short side {short_side} pixels, {cut}{averaged}."
        )
    sizes = ", ".join(f"{size} ({100 * share:.1f} %)" for size, _, share in pictures[:4]) or "not recorded"
    rows["Pictures"] = f"{sizes} as stored"
    share = majority_share(result) if result else None
    if share:
        rows["Baseline"] = f"Always naming the most frequent class would score {100 * share:.1f} %."
    if run.facts.config.published:
        rows["Published"] = (
            f"{run.facts.config.published}, for the recipe {run.facts.config.name} on its own data and split"
        )
    if measurements and measurements[0].accuracies[0].interval:
        rows["Interval"] = (
            "Wilson’s, as if the videos were independent; videos of one group are not, so the true interval is wider."
        )
    return tuple(rows.items())


def _trained(run: RunData, seconds: float | None, time_per_step: str) -> Rows:
    facts, waiting = run.facts, run.median("waiting_share")
    rows = {"Steps": f"{_status(run)}; {facts.steps_per_epoch:,} an epoch"}
    if seconds is not None:
        left = facts.num_steps if run.finished else facts.num_steps - run.steps_done
        what = f"all {_steps(left)}" if run.finished else "the steps left"
        rows["Time"] = (
            f"{time_per_step} a step (median), about {_duration(seconds * left)} for {what}, without evaluation"
        )
    if waiting is not None:
        verdict = (
            "reading clips slows this run down: give it more loader workers (runtime.workers) or faster storage"
            if waiting > _SLOW_LOADER_SHARE
            else "reading clips keeps up"
        )
        rows["Reading"] = f"{100 * waiting:.0f} % of the time spent waiting for data: {verdict}"
    split = run.facts.split
    rows["Labels"] = f"{split.labelled:,} labelled videos, {split.unlabelled:,} unlabelled"
    rows["Labels"] += f", {split.without_label:,} of these without a label" if split.without_label else ""
    for row in facts.weights:
        rows[f"Weights of {row.network}"] = (
            f"{row.num_matched} of {row.num_tensors} tensors from {row.path} (sha256 {row.sha256}), classifier {row.classifier}"
        )
    processes = "1 process" if facts.world_size == 1 else f"{facts.world_size} processes"
    rows["Machine"] = f"{processes} on {run.device}" if run.device else processes
    return tuple(rows.items())


def _status(run: RunData) -> str:
    done, planned = run.steps_done, run.facts.num_steps
    if run.finished:
        return f"Finished: {_steps(planned)}"
    return (
        f"{done:,} of {_steps(planned)} ({100 * done / planned:.0f} %)"
        if done
        else f"No step logged yet of {planned:,}"
    )


def _notes(run: RunData, measurements: tuple[Measurement, ...]) -> tuple[str, ...]:
    notes = list(run.problems)
    if not run.train:
        notes.append("This run has logged no training step yet, so there are no curves.")
    replaced = run.train["num_bad"].finite().value.tolist() if "num_bad" in run.train else []
    if replaced and replaced[-1]:
        notes.append(
            f"{replaced[-1]:,.0f} damaged clips were replaced while training; `tgprep check` names their videos."
        )
    if not run.results and run.steps_done:
        notes.append(f"No test result yet: `tgtrain test {run.folder}` measures one, with predictions for every video.")
    elif measurements and measurements[0].step < run.steps_done:
        notes.append(
            f"The accuracy shown first was measured at step {measurements[0].step:,}; the run has gone on to {run.steps_done:,}."
        )
    return tuple(notes)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 48 * 60 else f"{minutes / 1440:.1f} days"


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count:,} steps"
