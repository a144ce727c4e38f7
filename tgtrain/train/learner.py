"""Networks, their optimiser, and the update that a batch makes to them, on one rank."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from manifests.records import InputError
from tgtrain.config import Config
from tgtrain.data.batch import SslBatch, split_batch
from tgtrain.data.build import wanted_views
from tgtrain.data.device import views_of
from tgtrain.data.targets import RunTargets, TargetTable
from tgtrain.method.accumulate import add_gradients, clip_gradients, rescale_bn_momentum
from tgtrain.method.class_counts import ClassCount, ClassCounts
from tgtrain.method.networks.dropout import share_dropout
from tgtrain.method.networks.model import Model, build_model
from tgtrain.method.networks.recompute import checkpoint_activations
from tgtrain.method.networks.sync_bn import synchronised
from tgtrain.method.optimiser import make_optimiser, parameter_groups, restore
from tgtrain.method.schedule import LearningRateSettings, epoch_of, learning_rate
from tgtrain.method.step import StepInputs
from tgtrain.method.teacher import Teacher
from tgtrain.method.thresholds import ClassTrust, Thresholds
from tgtrain.ranks.distributed import Ranks
from tgtrain.run.checkpoint import Checkpoint

_MOST_THREADS = 1024
_PRECISION = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Learner:
    """What learns. step: updates done, counted by the caller. network: the model as the update calls it (across ranks, compiled)."""

    def __init__(
        self,
        config: Config,
        ranks: Ranks,
        steps_per_epoch: int,
        num_unlabelled: int = 0,
        targets: RunTargets | None = None,
    ) -> None:
        """num_unlabelled: videos, for FlexMatch. targets: soft ones, if the method learns from them."""
        self.config, self.ranks, self.steps_per_epoch = config, ranks, steps_per_epoch
        self.step = 0
        model = build_model(config.model, seed=config.runtime.seed)
        if ranks.world_size > 1:
            model = synchronised(model, ranks.device)
            share_dropout(model, ranks.rank, ranks.world_size)
        self.model: Model = model.to(device=ranks.device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        rescale_bn_momentum(self.model, config.runtime.accumulate)

        if config.runtime.checkpoint_activations:
            checkpoint_activations(self.model)
        self.network: nn.Module = self.model
        on_gpu = ranks.device.type == "cuda"
        if ranks.world_size > 1:
            with warnings.catch_warnings():
                # The replacement of the deprecated argument is not in every supported version of torch.
                warnings.simplefilter("ignore", FutureWarning)
                device_ids = [ranks.device] if on_gpu else None
                self.network = DistributedDataParallel(self.model, device_ids=device_ids, broadcast_buffers=False)
        self.teacher: Teacher | None = None
        if config.method.teacher != "none":
            plain = build_model(config.model).to(device=ranks.device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
            self.teacher = Teacher(plain, self.model, config.method)
        if config.runtime.compile:
            self.network = torch.compile(self.network, backend=config.runtime.compile_backend)  # type: ignore[assignment]
            if self.teacher is not None:
                self.teacher.network = torch.compile(self.teacher.model, backend=config.runtime.compile_backend)  # type: ignore[assignment]

        groups = parameter_groups(self.model, config.optimiser)
        self.optimiser = make_optimiser(groups, config.optimiser, fused=on_gpu)
        self.dtype = _PRECISION[config.runtime.precision]
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=self.dtype is torch.float16)
        self.thresholds: Thresholds | None = None
        if config.method.uses_pseudo_labels and config.method.threshold_rule != "fixed":
            sizes = (config.model.num_classes, num_unlabelled)
            self.thresholds = Thresholds(config.method, wanted_views(config), *sizes, ranks.device)
        self.class_counts: ClassCounts | None = None
        if config.method.uses_pseudo_labels:
            self.class_counts = ClassCounts(config.method, wanted_views(config), config.model.num_classes, ranks.device)
        self.targets: TargetTable | None = None
        if targets is not None:
            self.targets = TargetTable(targets, config.method.soft_temperature, ranks.device)
        self.may_wait = not on_gpu  # reading a value of a GPU would stall it

    def start_from(self, tensors: dict[str, Tensor]) -> None:
        """Replace initial weights by others, by their names; all ranks must be given the same ones."""
        self.model.load_state_dict(tensors, strict=False)
        if self.teacher is not None:
            self.teacher.start_from(self.model)

    @property
    def models(self) -> dict[str, Model]:
        """All that is measured and saved, by name: the student and its teacher, if it has one."""
        return {"model": self.model} | ({} if self.teacher is None else {"teacher": self.teacher.model})

    def running_statistics(self) -> dict[str, Tensor]:
        """Copies of the running statistics of BatchNorm of all `models`."""
        states = ((name, model.state_dict().items()) for name, model in self.models.items())
        return {f"{name}.{key}": value.clone() for name, state in states for key, value in state if "running_" in key}

    def set_running_statistics(self, statistics: dict[str, Tensor]) -> None:
        """Take over what `running_statistics` gave."""
        for name, model in self.models.items():
            own = [key for key in statistics if key.startswith(f"{name}.")]
            model.load_state_dict({key.removeprefix(f"{name}."): statistics[key] for key in own}, strict=False)

    def load(self, checkpoint: Checkpoint) -> None:
        """Restore the state that a checkpoint holds."""
        try:
            self.model.load_state_dict(checkpoint.model)
            restore(self.optimiser, checkpoint.optimiser)
            if self.thresholds is not None:
                self.thresholds.load_state_dict(checkpoint.thresholds)
            if self.teacher is not None:
                if not checkpoint.teacher:
                    raise ValueError("it holds no teacher")
                self.teacher.model.load_state_dict(checkpoint.teacher)
            self.set_running_statistics(checkpoint.running)
            if self.class_counts is not None:  # those of all ranks, which the first one goes on with
                saved = checkpoint.extra.get("class_counts")
                self.class_counts.load(*([saved] if self.ranks.is_main and saved is not None else []))
            if checkpoint.extra.get("scaler"):
                self.scaler.load_state_dict(checkpoint.extra["scaler"])
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            reason = str(error).partition("\n")[0][:200]
            raise InputError(f"The checkpoint at step {checkpoint.step} does not fit this model: {reason}") from None
        num_threads = checkpoint.extra.get("num_threads")
        if self.ranks.device.type == "cpu" and isinstance(num_threads, int) and 1 <= num_threads <= _MOST_THREADS:
            # Sums are split by thread: only the same number of threads gives the same bits.
            torch.set_num_threads(num_threads)
        self.step = checkpoint.step

    def extra_state(self) -> dict[str, Any]:
        """What a checkpoint holds besides the weights and the momentum, see `load`."""
        counts = {} if self.class_counts is None else {"class_counts": self.class_counts.counts.clone()}
        return {"scaler": self.scaler.state_dict(), "num_threads": torch.get_num_threads(), **counts}

    def join_counts(self) -> None:
        """Move the counts of pseudo-labels of all ranks to the first one, which saves and logs them. All ranks must call this."""
        if self.class_counts is not None and self.ranks.world_size > 1:
            everyone = self.ranks.gather(self.class_counts.counts.cpu())
            self.class_counts.load(*(everyone if self.ranks.is_main else []))

    def by_class(self) -> list[tuple[ClassCount, ClassTrust]]:
        """The pseudo-labels of every class since the last call, on the first rank, and what they were trusted by.

        All ranks must call this. Waits for the device.
        """
        if self.class_counts is None:
            return []
        self.join_counts()
        counts = self.class_counts.take()
        if self.thresholds is not None:
            return list(zip(counts, self.thresholds.by_class(), strict=True))
        least = self.config.method.threshold
        return [(each, ClassTrust(each.view, each.label, least, each.num_predicted, each.share)) for each in counts]

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
            group["lr"] = self.learning_rate(self.step) * group.get("scale", 1)
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
            thresholds=self.thresholds,
            teacher=None if self.teacher is None else self.teacher.network,
            autocast=torch.autocast(self.ranks.device.type, dtype=self.dtype, enabled=self.dtype is not None),
            scale=self.scaler.scale,
        )
        # Gradients are clipped at their true size, then applied: the scaler skips the update if one is not finite.
        self.scaler.unscale_(self.optimiser)
        norm = clip_gradients(self.model, self.config.optimiser.clip_norm, self.may_wait)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        if self.teacher is not None:
            self.teacher.update(self.model, self.step)
        values.append(("grad_norm", norm))
        if self.scaler.is_enabled():
            values.append(("train/skipped", 1 - norm.isfinite().float()))
        return values if self.class_counts is None else self.class_counts.add(values)

    def micro_batches(self, batch: SslBatch) -> Iterator[StepInputs]:
        """The views of a batch in runtime.accumulate parts, which go through the networks one after the other."""
        runtime = self.config.runtime
        for number, part in enumerate(split_batch(batch, runtime.accumulate)):
            # Dropout depends on (seed, step, part) alone, so that a resumed run draws the same, on any number of ranks (SharedDropout).
            digest = blake2b(f"{runtime.seed}:{self.step}:{number}".encode(), digest_size=8).digest()
            torch.manual_seed(int.from_bytes(digest, "little") >> 1)
            views = views_of(part, slow=self.config.data.gradient == "slow")
            if self.targets is not None and views.videos_U is not None:
                views = replace(views, soft_UK=self.targets.of(views.videos_U))
            yield views
