"""The error of a run."""

from __future__ import annotations


class RunError(Exception):
    """The run cannot go on (the loss is no number, too many damaged videos); checkpoints stay."""
