"""What `tgtrain run` shows of itself: a panel on a terminal, lines in a log, warnings alone with --quiet. Needs no torch."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.common import human_seconds, plural, say
from cli.terminal import Panel, bar, folded, is_terminal
from tgtrain.run.lines import flowed, loss_terms
from tgtrain.train.observer import Accuracy, Observer

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

_DRAW_SECONDS = 0.5  # between two pictures, which take some milliseconds each
_METRICS = {"top1": "top-1", "top5": "top-5", "mean_class": "class mean"}
_TERMS = {"sup": "supervised"}  # others are shown by their short names


@contextmanager
def following(*, quiet: bool, is_main: bool = True, stops: Sequence[int] = ()) -> Iterator[Observer]:
    """Who follows a run in this process. quiet: warnings alone. stops: the signals that came so far."""
    if quiet or not is_main:
        yield Observer(lambda text: None, _log if is_main else None)
    elif is_terminal(sys.stderr):
        display = Display(stops)
        try:
            yield display
        finally:
            display.close()
    else:
        yield Observer(_log)


def _log(text: str) -> None:
    """Print a line of the log, prose in lines of the width of logs."""
    say(text if "\n" in text else folded(text))


@dataclass(frozen=True, slots=True)
class _Row:
    """An evaluation of one network. metrics: fractions, by the names of `_METRICS`."""

    step: int
    epoch: int
    network: str
    metrics: Mapping[str, float]


def _evaluations(records: Sequence[Mapping[str, Any]]) -> Iterator[_Row]:
    """The evaluations that metrics.jsonl holds, which a resumed run has made before."""
    for record in records:
        for network in ("", "teacher") if record["kind"] == "evaluate" else ():
            start = f"{network}_" if network else ""
            named = {name: record.get(f"{start}{name}@1x1") for name in _METRICS}
            metrics = {name: value for name, value in named.items() if isinstance(value, int | float)}
            if "top1" in metrics:
                yield _Row(record["step"], int(record.get("epoch", 0)) + 1, network, metrics)


class Display(Observer):
    """Draws a panel below the log: bar, time left, figures of the last interval, a row for each evaluation, what is going on.

    It is drawn by the thread that trains, at most twice a second.
    """

    def __init__(self, stops: Sequence[int] = ()) -> None:
        super().__init__(self._print, lambda text: self._print(text, "yellow"))
        self.stops = stops
        self.what, self.done, self.total = "", 0, 0
        self.step = self.stop_at = self.num_steps = self.per_epoch = 0
        self.began_at = self.drawn_at = time.monotonic()
        self.first: tuple[int, float] | None = None  # step and time at which the first step of this process was done
        self.values: Mapping[str, float] = {}
        self.evaluations: list[_Row] = []
        self.num_classes = 0
        self.ended = False
        self.panel = Panel(self.rows)

    def close(self) -> None:
        """Leave the panel as the last lines of the log, unless no step was made."""
        self.ended = True
        self.panel.close(keep=self.first is not None)

    def doing(self, what: str, done: int = 0, total: int = 0) -> None:
        is_new = what != self.what
        self.what, self.done, self.total = what, done, total
        self._draw(now=is_new)

    def began(self, run: Path, step: int, stop_at: int, num_steps: tuple[int, int], workers: int) -> None:
        from tgtrain.run.journal import read_metrics

        self.step, self.stop_at, (self.num_steps, self.per_epoch) = step, stop_at, num_steps
        self.evaluations = list(_evaluations(read_metrics(run).records))
        self.began_at = time.monotonic()
        processes = f"{plural(workers, 'loader process', 'loader processes')}, " if workers else ""
        self.doing(f"starting: {processes}the first batch")

    def stepped(self, step: int) -> None:
        self.step, self.what, self.total = step, "", 0
        self.first = self.first or (step, time.monotonic())
        self._draw()

    def logged(self, step: int, num_steps: int, epoch: int, values: dict[str, float]) -> None:
        self.values = values

    def covered(self, epoch: int, coverage: dict[str, int]) -> None:
        pass  # metrics.jsonl has it

    def evaluated(self, accuracy: Accuracy) -> None:
        metrics = {name.partition("@")[0]: value for name, value in accuracy.metrics.items()}
        self.num_classes = accuracy.num_classes
        self.evaluations.append(_Row(self.step, accuracy.epoch, accuracy.network, metrics))
        self._draw(now=True)

    def _print(self, text: str, style: str = "") -> None:
        self.panel.print(folded(text, self.panel.width), style)

    def _draw(self, *, now: bool = False) -> None:
        if now or time.monotonic() - self.drawn_at >= _DRAW_SECONDS:
            self.panel.draw()
            self.drawn_at = time.monotonic()

    def rows(self, width: int, height: int) -> list[RenderableType]:
        """The lines of the panel. Figures have places of their own, so that little moves when they change."""
        from rich.text import Text

        state = Text(self._state(), style="cyan", no_wrap=True, overflow="ellipsis")
        if not self.num_steps:
            return [state] if self.what and not self.ended else []
        lines = [
            *flowed(self._progress(), width),
            *flowed(self._losses(), width),
            *flowed(self._load(), width),
        ]
        texts = [Text(line, no_wrap=True, overflow="ellipsis") for line in lines]
        texts[0].stylize("bold")
        table = self._table(height - len(texts) - 4)
        return [bar(self.step, self.stop_at, width), *texts, *table, *([] if self.ended else [state])]

    def _state(self) -> str:
        if self.stops:
            return "stopping: the state is saved first"
        return f"{self.what}: {self.done} of {self.total}" if self.total else self.what or "training"

    def _progress(self) -> list[str]:
        epoch, num_epochs = max(0, self.step - 1) // self.per_epoch + 1, self.num_steps // self.per_epoch
        whole = f" ({self.num_steps} in all)" if self.stop_at < self.num_steps else ""
        pieces = [
            f"step {self.step} of {self.stop_at}{whole}",
            f"epoch {epoch} of {num_epochs}",
        ]
        if self.values:
            pieces.append(f"lr {self.values['learning_rate']:.4g}")
        now = time.monotonic()
        pieces.append(human_seconds(now - self.began_at))
        if self.first is not None and self.first[0] < self.step < self.stop_at and not self.ended:
            per_step = (now - self.first[1]) / (self.step - self.first[0])  # evaluations between them included
            pieces[-1] += f", {human_seconds(per_step * (self.stop_at - self.step))} left"
        return pieces

    def _losses(self) -> list[str]:
        if not self.values:
            return ["loss: after the first interval"]
        terms = [f"{_TERMS.get(name, name)} {value:.3f}" for name, value in loss_terms(self.values).items()]
        return [f"loss {self.values['loss/total']:.3f} ", *terms]

    def _load(self) -> list[str]:
        values, pieces = self.values, []
        if not values:
            return [" "]
        if "train/mask_fraction" in values:
            right = values.get("train/pseudo_precision")
            correct = "" if right is None else f", {100 * right:.0f} % right"
            pieces.append(f"pseudo-labels {100 * values['train/mask_fraction']:.0f} % kept{correct}")
        pieces += [f"data wait {100 * values['waiting_share']:.0f} %", f"{values['clips_per_second']:.1f} clips/s"]
        return [*pieces, f"memory {values['memory_mb'] / 1024:.1f} GiB"]

    def _table(self, most: int) -> list[Text]:
        """The newest evaluations and the best one, in so many lines with their head."""
        from rich.text import Text

        if not self.evaluations or most < 2:
            return []
        judged = [row for row in self.evaluations if row.network == self.evaluations[-1].network]
        best = max(judged, key=lambda row: (row.metrics["top1"], row.step))
        shown = self.evaluations[-(most - 1) :]
        if best not in shown:
            shown = [best, *shown[1:]]
        names = [name for name in _METRICS if name != "top5" or self.num_classes > 5]
        has_teacher = any(row.network for row in self.evaluations)
        head = "epoch    step" + "".join(f"{_METRICS[name]:>12}" for name in names)
        lines = [Text(head, style="dim", no_wrap=True)]
        for row in shown:
            figures = "".join(f"{100 * row.metrics[name]:>10.2f} %" for name in names if name in row.metrics)
            mark = "  best" if row is best else ""
            which = f"  {row.network or 'student'}" if has_teacher else ""
            text = f"{row.epoch:>5}{row.step:>8}{figures}{which}{mark}"
            lines.append(Text(text, style="green" if mark else "", no_wrap=True))
        return lines
