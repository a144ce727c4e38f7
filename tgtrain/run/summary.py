"""The settings, progress and cost of a run, from its folder alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from manifests.files import open_location
from manifests.locks import try_lock
from tgtrain.config import Config
from tgtrain.method.networks.model import count_macs, count_parameters, outline
from tgtrain.method.networks.settings import View
from tgtrain.run import checkpoint as checkpoints
from tgtrain.run.folder import read_facts
from tgtrain.run.journal import read_metrics


@dataclass(frozen=True, slots=True)
class Cost:
    """Size and cost of a model. A GMAC is 10^9 multiply-accumulates, at inference."""

    parameters: int  # in training
    inference_parameters: int  # of the network of one view
    gmacs_per_clip: float  # of the size in training
    gmacs_per_video: float  # all views of a test video, at their size in tests


def summarise(run: Path, tests: dict[str, dict[str, float]]) -> dict[str, Any]:
    """The JSON of `tgtrain info`; InputError if the folder is not a run. tests: of `tgtrain.evaluate.results`."""
    facts = read_facts(run)
    complete = checkpoints.list_checkpoints(run)
    newest = checkpoints.every_checkpoint(run)[-1:]  # its evaluation may be due
    best = checkpoints.best(run)
    logged = [record["step"] for record in read_metrics(run).records]
    step = max([0, *logged[-1:], *map(checkpoints.step_of, newest)])
    return {
        "run": str(run),
        "recipe": facts.config.name,
        "description": facts.config.description,
        "state": _state(run, step, facts.num_steps, due=newest != complete[-1:]),
        "step": step,
        "num_steps": facts.num_steps,
        "epoch": step // facts.steps_per_epoch,
        "num_epochs": facts.config.optimiser.epochs,
        "checkpoints": [path.name for path in complete],
        "best_checkpoint": best.path.name if best else "",
        "best_metric": best.metric if best else "",
        "best_value": best.value if best else -1.0,
        "tests": tests,
        "cost": asdict(cost_of(facts.config)),
        "weights": [asdict(row) for row in facts.weights],
        "data": {
            **{name: getattr(facts.data, name) for name in ("root", "dataset", "digest", "num_videos")},
            "num_classes": len(facts.data.classes),
        },
        "split": {name: value for name, value in asdict(facts.split).items() if name != "provenance"},
        "machine": facts.machine,
        "versions": facts.versions,
    }


def cost_of(config: Config) -> Cost:
    """Parameters and multiply-accumulates of a recipe's model, from shapes alone."""
    model, data = outline(config.model), config.data
    view: View = "tg" if config.model.streams == "tg" else "rgb"
    head = model.get_submodule("head_rgb" if config.model.streams == "joint" else f"head_{view}")
    per_clip = count_macs(config.model, data.clip_frames, data.size, data.size)
    side = data.test_size or round(256 * data.size / 224) if data.test_crops == 3 else data.size
    per_view = count_macs(config.model, data.clip_frames, side, side)
    return Cost(
        parameters=count_parameters(model),
        inference_parameters=count_parameters(model.backbone(view)) + count_parameters(head),
        gmacs_per_clip=round(per_clip / 1e9, 3),
        gmacs_per_video=round(per_view * data.test_clips * data.test_crops / 1e9, 3),
    )


def _state(run: Path, step: int, num_steps: int, due: bool) -> str:
    """running (its lock is held), finished, stopped, or not begun. due: the last evaluation is missing."""
    try:
        with open_location(str(run / ".lock")) as lock:
            if try_lock(lock.fileno(), shared=True) is False:
                return "running"
    except OSError:
        pass  # no lock: copied from elsewhere
    return "finished" if step >= num_steps > 0 and not due else "stopped" if step else "not begun"
