"""A trained model from a run folder: settings, classes and weights. The data set is not needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.records import InputError
from tgtrain.config import Config
from tgtrain.data.build import measured_views
from tgtrain.data.setup import padded_classes
from tgtrain.method.networks.model import Model, build_model, state_shapes
from tgtrain.method.networks.settings import View
from tgtrain.run import checkpoint as checkpoints
from tgtrain.run.folder import CONFIG_NAME, RunFacts, read_facts


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained model with what is known of it."""

    run: Path
    config: Config
    facts: RunFacts
    classes: tuple[str, ...]  # one for each output
    path: Path  # of the checkpoint
    step: int
    precise_bn: bool  # BatchNorm statistics were recomputed before it was saved, or the recipe asks for none
    model: Model  # in eval mode, on the CPU
    is_teacher: bool = False

    @property
    def views(self) -> tuple[View, ...]:
        """The views that the model has a network for: rgb, tg or both."""
        streams = self.config.model.streams
        return (streams,) if streams in ("rgb", "tg") else ("rgb", "tg")

    @property
    def origin(self) -> dict[str, Any]:
        """The origin of the model, for files that are made from it."""
        return {"run": str(self.run), "checkpoint": self.path.name, "step": self.step, **self.kind}

    @property
    def kind(self) -> dict[str, str]:
        """`model: teacher` for an EMA teacher, {} for others."""
        return {"model": "teacher"} if self.is_teacher else {}


def read_trained(run: Path, which: str = "last", teacher: bool | None = None) -> Trained:
    """The model of a run: its `last` or `best` checkpoint, or a named one. InputError if run and checkpoint do not fit.

    teacher: the EMA teacher, or not; None for the teacher if the run has one.
    """
    facts = read_facts(run)
    config = facts.config
    has_teacher = config.method.tests_teacher
    if teacher and not has_teacher:
        raise InputError(f"--teacher: {run} was trained without one (method.teacher is none).")
    is_teacher = has_teacher if teacher is None else teacher
    path = checkpoints.find(run, which)
    loaded = checkpoints.load(path)
    if different := loaded.identity.differences(facts.identity):
        raise InputError(f"{path} is no checkpoint of {run}: {'; '.join(different)}.")
    # Compared before memory is taken: a run may come from a stranger.
    state = loaded.teacher if is_teacher else loaded.model
    if state_shapes(config.model) != {name: tuple(value.shape) for name, value in state.items()}:
        raise InputError(f"{path} holds other weights than the model of {run / CONFIG_NAME} has.")
    model = build_model(config.model)
    model.load_state_dict(state)
    return Trained(
        run=run,
        config=config,
        facts=facts,
        classes=padded_classes(facts.data.classes, config.model.num_classes),
        path=path,
        step=loaded.step,
        precise_bn=not measured_views(config) or bool(loaded.extra.get("precise_bn")),
        model=model.eval(),
        is_teacher=is_teacher,
    )
