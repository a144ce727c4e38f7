"""What is measured of a network while it trains: precise BatchNorm, then one centre view of the validation (else test) videos."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from manifests.console import plural
from tgtrain.data.setup import Setup
from tgtrain.evaluate.batch_norm import recompute_batch_norm
from tgtrain.evaluate.evaluate import EvalSettings, StoppedError, evaluate
from tgtrain.evaluate.results import EvalProtocol, Result
from tgtrain.evaluate.score import Modality
from tgtrain.method.networks.model import Model
from tgtrain.ranks.distributed import Ranks
from tgtrain.train.health import left_out, require_finite
from tgtrain.train.observer import Observer


@dataclass(frozen=True, slots=True)
class Measurement:
    """How a network did."""

    precise: bool  # its BatchNorm statistics were recomputed
    result: Result | None  # None if no video could be scored


def measure(
    model: Model,
    setup: Setup,
    ranks: Ranks,
    step: int,
    *,
    workers: int,
    should_stop: Callable[[], bool],
    observer: Observer,
) -> Measurement:
    """Recompute the BatchNorm statistics of a network after `step` steps, and evaluate it. All ranks must call this.

    StoppedError if a stop is requested before the end: the statistics may be incomplete then.
    """
    observer.doing("recomputing BatchNorm")
    batch_norm = recompute_batch_norm(model, setup, ranks, should_stop, workers)
    if ranks.any(should_stop()):
        raise StoppedError
    if batch_norm.bad:
        observer.warn(left_out("precise BatchNorm", batch_norm.bad))
    require_finite(model, step)
    precise, part = bool(batch_norm.num_batches), setup.evaluated_part
    videos = setup.videos(part)
    if not videos:
        return Measurement(precise, None)
    modality: Modality = "tg" if setup.config.model.streams == "tg" else "rgb"
    settings = EvalSettings(EvalProtocol(1, 1), modality)
    what = f"evaluating {part} videos"
    observer.doing(what, 0, len(videos))
    result = evaluate(
        model, setup, videos, settings, ranks, workers=workers, should_stop=should_stop,
        on_progress=lambda done, total: observer.doing(what, done, total),
    )  # fmt: skip
    if result.bad:
        observer.warn(left_out(f"the evaluation of {plural(len(videos), f'{part} video')}", result.bad))
    return Measurement(precise, result if result.keys else None)
