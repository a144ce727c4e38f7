"""The section `log` of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Where the values of metrics.jsonl go besides (docs/trackers.md)."""

    to: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ("tensorboard",)
    """Trackers that get the values, besides metrics.jsonl. MLFLOW_TRACKING_URI, WANDB_API_KEY and the like say where they are."""
    project: Annotated[str, Field(min_length=1, max_length=100)] = "tgtrain"  # experiment of MLflow, project of W&B
