"""The settings, progress and cost of a run, from its folder alone."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from manifests.locks import try_lock
from tgtrain.config import Config
from tgtrain.method.networks.model import SingleStream, View, build_model, count_macs, count_parameters
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


@dataclass(frozen=True, slots=True)
class Summary:
    """What `tgtrain info` shows; its JSON has these keys."""

    run: str
    recipe: str
    description: str
    state: str
    step: int
    num_steps: int
    epoch: int
    num_epochs: int
    checkpoints: tuple[str, ...]
    best_checkpoint: str  # "" before an evaluation
    best_metric: str
    best_value: float  # -1.0 before an evaluation
    tests: dict[str, dict[str, float]]  # metrics of each test file, by its name
    cost: Cost
    data: dict[str, Any]
    split: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain


def summarise(run: Path, tests: dict[str, dict[str, float]]) -> Summary:
    """The summary of a run; InputError if the folder is not a run. tests: of `tgtrain.evaluate.results`."""
    facts = read_facts(run)
    config = facts.config
    complete = checkpoints.list_checkpoints(run)
    newest = checkpoints.every_checkpoint(run)[-1:]  # its evaluation may be due
    best = checkpoints.best(run)
    logged = [record["step"] for record in read_metrics(run).records]
    step = max([0, *logged[-1:], *map(checkpoints.step_of, newest)])
    num_steps, data = facts.num_steps, facts.data
    return Summary(
        run=str(run),
        recipe=config.name,
        description=config.description,
        state=_state(run, step, num_steps, due=newest != complete[-1:]),
        step=step,
        num_steps=num_steps,
        epoch=step // facts.steps_per_epoch,
        num_epochs=config.optimiser.epochs,
        checkpoints=tuple(path.name for path in complete),
        best_checkpoint=best.path.name if best else "",
        best_metric=best.metric if best else "",
        best_value=best.value if best else -1.0,
        tests=tests,
        cost=cost_of(config),
        data={
            "root": data.root,
            "dataset": data.dataset,
            "digest": data.digest,
            "num_videos": data.num_videos,
            "num_classes": len(data.classes),
        },
        split={
            name: getattr(facts.split, name)
            for name in ("name", "digest", "labelled", "unlabelled", "validation", "test")
        },
        machine=facts.machine,
        versions=facts.versions,
    )


def cost_of(config: Config) -> Cost:
    """Parameters and multiply-accumulates of a recipe's model, from shapes alone."""
    model, data = build_model(config.model), config.data
    view: View = "tg" if isinstance(model, SingleStream) and model.view == "tg" else "rgb"
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
        with (run / ".lock").open("rb") as lock:
            if try_lock(lock.fileno(), shared=True) is False:
                return "running"
    except OSError:
        pass  # no lock: copied from elsewhere
    return "finished" if step >= num_steps > 0 and not due else "stopped" if step else "not begun"
