"""EMA teacher: a running average of the weights, which labels the weak views and is tested at the end (Mean Teacher, 2017)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from tgtrain.method.networks.model import Model
from tgtrain.method.settings import MethodSettings


class Teacher:
    """model: the average, in eval mode and without gradients. network: the same as the step calls it (it may be compiled)."""

    def __init__(self, model: Model, student: Model, method: MethodSettings) -> None:
        """model: of the student's settings, on its device; it takes over the student's weights."""
        self.method = method
        self.model: Model = model.eval().requires_grad_(False)
        self.network: nn.Module = self.model
        self.start_from(student)

    def start_from(self, student: Model) -> None:
        """Begin with the student's weights and statistics."""
        self.model.load_state_dict(student.state_dict())

    @torch.no_grad()
    def update(self, student: Model, step: int) -> None:
        """Move towards the student after its update number `step`, counted from 0. Waits for nothing.

        w' = d w + (1 - d) w_student with d = min(decay, (1 + step) / (10 + step)), so that the first steps are soon forgotten.
        BatchNorm statistics are averaged like weights, or copied (method.teacher_batch_norm).
        """
        averaged: list[tuple[Tensor, Tensor]] = list(zip(self.model.parameters(), student.parameters(), strict=True))
        copied: list[tuple[Tensor, Tensor]] = []
        for own, new in zip(self.model.buffers(), student.buffers(), strict=True):
            average = self.method.teacher_batch_norm == "average" and own.is_floating_point()
            (averaged if average else copied).append((own, new))
        decay = min(self.method.teacher_decay, (1 + step) / (10 + step))
        average_into = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        average_into([own for own, _ in averaged], [new for _, new in averaged], None)
        for own, new in copied:
            own.copy_(new)
