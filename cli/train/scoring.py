"""Options that commands of a run share: how videos are scored, with which state of the run, and where its data is."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from cli.common import force_option

if TYPE_CHECKING:
    from tgtrain.config import Config
    from tgtrain.evaluate.evaluate import EvalSettings
    from tgtrain.evaluate.results import EvalProtocol
    from tgtrain.evaluate.score import Average, Modality
    from tgtrain.ranks.distributed import Ranks

_VIEWS = re.compile(r"(0*[1-9]\d{0,5})x(1|3)")
_EXPECTED = "expected CLIPSxCROPS with 1 or 3 crops, such as 10x3 or 1x1."


@dataclass(frozen=True, slots=True)
class Scoring:
    """The shared options as given; None for the recipe's choice."""

    views: str | None
    modality: str | None
    average: str | None
    checkpoint: str
    teacher: bool | None
    batch_views: int | None
    force: bool

    @property
    def rule(self) -> str:
        """How the checkpoint is chosen: last, best or named."""
        return self.checkpoint if self.checkpoint in ("last", "best") else "named"

    def settings(self, run: Path, config: Config) -> EvalSettings:
        """Fill in the recipe's choices. InputError for a view that the run trained no network for."""
        from manifests.records import InputError
        from tgtrain.evaluate.evaluate import EvalSettings
        from tgtrain.evaluate.results import EvalProtocol
        from tgtrain.evaluate.score import BATCH_VIEWS

        streams = config.model.streams
        modality = self.modality or ("tg" if streams == "tg" else "rgb")
        if streams in ("rgb", "tg") and modality != streams:
            raise InputError(f"--modality {modality}: {run} trained only a network for {streams}.")
        average = self.average or config.evaluate.average
        protocol = EvalProtocol(config.data.test_clips, config.data.test_crops)
        if self.views is not None:
            protocol = parse_views("--views", self.views)
        rows = self.batch_views or BATCH_VIEWS
        return EvalSettings(protocol, cast("Modality", modality), cast("Average", average), rows)

    def require_memory(
        self, what: str, config: Config, settings: EvalSettings, ranks: Ranks, workers: int, *, precise_bn: bool = False
    ) -> None:
        """InputError with figures if the work does not fit into memory. All ranks must call this."""
        from tgtrain.train.estimate import Estimate, cheaper_scoring, of_scoring, require_memory

        protocol = settings.protocol

        def estimate(rows: int, num_clips: int) -> Estimate:
            num_crops = protocol.num_crops if num_clips > 1 else 1
            return of_scoring(config, settings.modality, num_clips, num_crops, rows, precise_bn=precise_bn)

        require_memory(
            f"{what} with {protocol.protocol} views",
            ranks,
            workers,
            lambda: of_scoring(
                config,
                settings.modality,
                protocol.num_clips,
                protocol.num_crops,
                settings.batch_views,
                precise_bn=precise_bn,
            ),
            lambda fits: cheaper_scoring(estimate, protocol.num_clips, fits),
            force=self.force,
        )


def check_views(ctx: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
    """Refuse clips x crops that are none before anything is loaded."""
    if text is not None and not _VIEWS.fullmatch(text):
        raise click.BadParameter(f"{text}: {_EXPECTED}")
    return text


def parse_views(option: str, text: str) -> EvalProtocol:
    """The clips x crops of an option. InputError if it is something else."""
    from manifests.records import InputError
    from tgtrain.evaluate.results import EvalProtocol

    match = _VIEWS.fullmatch(text)
    if not match:
        raise InputError(f"{option} {text}: {_EXPECTED}")
    return EvalProtocol(int(match[1]), int(match[2]))


def check_output(path: Path | None) -> None:
    """InputError if a file cannot be written there."""
    from manifests.records import InputError

    if path is not None and (not path.absolute().parent.is_dir() or path.is_dir()):
        raise InputError(f"{path}: expected a file name in a folder that exists.")


def data_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--data and --shards."""
    data = click.option("--data", default="", help="where the data set is now  [default: where the run found it]")
    shards_help = "location of the shards, as data.shards of a recipe; a command must be named here"
    return data(click.option("--shards", default="", metavar="LOCATION", help=shards_help)(function))


def checkpoint_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """--checkpoint."""
    return click.option(
        "--checkpoint", default="last", show_default=True, metavar="last|best|PATH", help="which state of the run"
    )(function)


def teacher_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """--teacher and --student."""
    return click.option(
        "--teacher/--student",
        default=None,
        help="with method.teacher=ema: the averaged weights, or those that learnt  [default: the teacher, if there is one]",
    )(function)


def scoring_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options of how videos are scored, with which state, and in which memory, passed to the command as `scoring`."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        scoring = Scoring(*(kwargs.pop(field.name) for field in fields(Scoring)))
        return function(*args, scoring=scoring, **kwargs)

    options = (
        click.option(
            "--views",
            callback=check_views,
            help="clips x crops of every video, such as 10x3 or 1x1  [default: the recipe's]",
        ),
        click.option(
            "--modality",
            type=click.Choice(["rgb", "tg", "both"]),
            help="which network answers; both: the mean of the two  [default: rgb; `test` of two networks: all three]",
        ),
        click.option(
            "--average",
            type=click.Choice(["logits", "probabilities"]),
            help="what is averaged over views and networks  [default: the recipe's]",
        ),
        checkpoint_option,
        teacher_option,
        click.option(
            "--batch-views",
            type=click.IntRange(min=1),
            help="views that go through the network together; less memory with fewer  [default: 32]",
        ),
        force_option,
    )
    for option in reversed(options):
        wrapper = option(wrapper)
    return wrapper
