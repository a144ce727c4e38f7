"""Who follows a run: lines of a log, or a display that takes their place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from manifests.console import plural
from tgtrain.run.lines import coverage_line, figures_line, step_line

if TYPE_CHECKING:
    from tgtrain.evaluate.results import Result


@dataclass(frozen=True, slots=True)
class Accuracy:
    """What an evaluation has measured of one network."""

    epoch: int
    """Epochs done."""
    network: str
    """"" or `teacher`."""
    part: str
    num_videos: int
    num_classes: int
    metrics: Mapping[str, float]
    """Fractions by the names of `Result.named`."""

    @classmethod
    def of(cls, result: Result, epoch: int, network: str, part: str) -> Self:
        """The figures of a result."""
        return cls(epoch, network, part, len(result.keys), len(result.classes), result.named())


class Observer:
    """Follows a run on its first process. This one prints lines; a display overrides what it shows in another way.

    news, warn: print a line of the log, of which some ask for attention.
    """

    def __init__(self, news: Callable[[str], None], warn: Callable[[str], None] | None = None) -> None:
        self.news, self.warn = news, warn or news

    def doing(self, what: str, done: int = 0, total: int = 0) -> None:
        """The run does something besides training, which may take long. total: 0 if it is not known."""

    def began(self, run: Path, step: int, stop_at: int, num_steps: tuple[int, int], workers: int) -> None:
        """Training goes on at this step. num_steps: of the run, and of an epoch. workers: loader processes, which have yet to start."""

    def stepped(self, step: int) -> None:
        """A step is done. Called after each: it must take no time."""

    def logged(self, step: int, num_steps: int, epoch: int, values: dict[str, float]) -> None:
        """A line of the log is due. epoch: from 0. values: of the record `train` in metrics.jsonl."""
        self.news(step_line(step, num_steps, epoch, values))

    def covered(self, epoch: int, coverage: dict[str, int]) -> None:
        """Which videos were seen so far; before an evaluation. epoch: from 0. coverage: of the record `epoch` in metrics.jsonl."""
        self.news(f"epoch {epoch + 1}: {coverage_line(coverage)}")

    def evaluated(self, accuracy: Accuracy) -> None:
        """The accuracy of a network was measured."""
        figures = figures_line(dict(accuracy.metrics), accuracy.num_classes)
        network = f"{accuracy.network} " if accuracy.network else ""
        videos = f"({plural(accuracy.num_videos, f'{accuracy.part} video')})"
        self.news(f"epoch {accuracy.epoch}: {network}{figures}  {videos}")
