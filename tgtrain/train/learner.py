"""Networks, optimiser and the update that a batch makes to them, on one rank."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tgtrain.config import Config
from tgtrain.data.batch import SslBatch, split_batch
from tgtrain.method.accumulate import add_gradients, clip_gradients, rescale_bn_momentum
from tgtrain.method.networks.model import Model, build_model, share_dropout
from tgtrain.method.networks.sync_bn import synchronised
from tgtrain.method.schedule import LearningRateSettings, epoch_of, learning_rate
from tgtrain.method.step import StepInputs
from tgtrain.ranks.distributed import Ranks
from tgtrain.run.checkpoint import Checkpoint
from tgtrain.train.device import views_of
from tgtrain.train.optimiser import make_optimiser, restore

_PRECISION = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Learner:
    """What learns. step: updates done, counted by the caller. network: the model as the update calls it (across ranks, compiled)."""

    def __init__(self, config: Config, ranks: Ranks, steps_per_epoch: int) -> None:
        self.config, self.ranks, self.steps_per_epoch = config, ranks, steps_per_epoch
        self.step = 0
        model = build_model(config.model, seed=config.runtime.seed)
        if ranks.world_size > 1:
            model = synchronised(model, ranks.device)
            share_dropout(model, ranks.rank, ranks.world_size)
        self.model: Model = model.to(device=ranks.device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        rescale_bn_momentum(self.model, config.runtime.accumulate)

        self.network: nn.Module = self.model
        on_gpu = ranks.device.type == "cuda"
        if ranks.world_size > 1:
            with warnings.catch_warnings():
                # The replacement of the deprecated argument is not in every supported version of torch.
                warnings.simplefilter("ignore", FutureWarning)
                device_ids = [ranks.device] if on_gpu else None
                self.network = DistributedDataParallel(self.model, device_ids=device_ids, broadcast_buffers=False)
        if config.runtime.compile:
            self.network = torch.compile(self.network, backend=config.runtime.compile_backend)  # type: ignore[assignment]

        self.optimiser = make_optimiser(self.model.parameters(), config.optimiser, fused=on_gpu)
        self.dtype = _PRECISION[config.runtime.precision]
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=self.dtype is torch.float16)
        self.may_wait = not on_gpu  # reading a value of a GPU would stall it

    def load(self, checkpoint: Checkpoint) -> None:
        """Restore the state that a checkpoint holds."""
        self.model.load_state_dict(checkpoint.model)
        restore(self.optimiser, checkpoint.optimiser)
        if checkpoint.extra.get("scaler"):
            self.scaler.load_state_dict(checkpoint.extra["scaler"])
        if self.ranks.device.type == "cpu" and checkpoint.extra.get("num_threads"):
            # Sums are split by thread: only the same number of threads gives the same bits.
            torch.set_num_threads(int(checkpoint.extra["num_threads"]))
        self.step = checkpoint.step

    def extra_state(self) -> dict[str, Any]:
        """What a checkpoint holds besides the weights and the momentum, see `load`."""
        return {"scaler": self.scaler.state_dict(), "num_threads": torch.get_num_threads()}

    def learning_rate(self, step: int) -> float:
        """The rate of the update number `step`, counted from 0."""
        optimiser = self.config.optimiser
        schedule = LearningRateSettings(
            optimiser.learning_rate, optimiser.epochs, optimiser.warmup_epochs, self.steps_per_epoch
        )
        return learning_rate(schedule, *epoch_of(step, self.steps_per_epoch))

    def update(self, batch: SslBatch) -> list[tuple[str, Tensor]]:
        """Update the weights once with a batch that is on the device. The values returned stay there: nothing waits for it."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate(self.step)
        self.network.train()
        self.optimiser.zero_grad(set_to_none=True)
        runtime = self.config.runtime
        values = add_gradients(
            self.network,
            lambda: self.micro_batches(batch),
            runtime.accumulate,
            self.config.method,
            epoch_of(self.step, self.steps_per_epoch)[0],
            over=runtime.accumulate_contrast,
            autocast=torch.autocast(self.ranks.device.type, dtype=self.dtype, enabled=self.dtype is not None),
            scale=self.scaler.scale,
        )
        # Gradients are clipped at their true size, then applied: the scaler skips the update if one is not finite.
        self.scaler.unscale_(self.optimiser)
        norm = clip_gradients(self.model, self.config.optimiser.clip_norm, self.may_wait)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        values.append(("grad_norm", norm))
        if self.scaler.is_enabled():
            values.append(("train/skipped", 1 - norm.isfinite().float()))
        return values

    def micro_batches(self, batch: SslBatch) -> Iterator[StepInputs]:
        """The views of a batch in runtime.accumulate parts, which go through the networks one after the other."""
        runtime = self.config.runtime
        for number, part in enumerate(split_batch(batch, runtime.accumulate)):
            # Dropout depends on (seed, step, part) alone, so that a resumed run draws the same, on any number of ranks (SharedDropout).
            torch.manual_seed(_dropout_seed(runtime.seed, self.step, number))
            yield views_of(part, slow=self.config.data.gradient == "slow")


def _dropout_seed(seed: int, step: int, part: int) -> int:
    digest = blake2b(f"{seed}:{step}:{part}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
