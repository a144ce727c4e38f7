"""The training loop: batches in order, one step after the other, evaluation and checkpoint at the marks, exact resume."""

from __future__ import annotations

import errno
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from manifests.object_store import UnreachableError, explained
from manifests.records import InputError
from tgtrain.data.batch import SslBatch, split_batch
from tgtrain.data.build import step_dataset, training_workers
from tgtrain.data.loader import step_loader
from tgtrain.data.order import steps_per_epoch
from tgtrain.data.setup import Setup
from tgtrain.errors import RunError
from tgtrain.evaluate.batch_norm import recompute_batch_norm
from tgtrain.evaluate.evaluate import EvalSettings, StoppedError, evaluate
from tgtrain.evaluate.results import EvalProtocol, Result
from tgtrain.method.accumulate import add_gradients, clip_gradients, rescale_bn_momentum
from tgtrain.method.networks.model import Model, build_model, count_macs, share_dropout
from tgtrain.method.networks.sync_bn import synchronised
from tgtrain.method.schedule import LearningRateSettings, epoch_of, is_due, learning_rate
from tgtrain.method.step import StepInputs
from tgtrain.method.terms import COUNTS
from tgtrain.ranks.distributed import Ranks, StopPoll
from tgtrain.run import checkpoint as checkpoints
from tgtrain.run.checkpoint import cannot_write, last_whole, writing
from tgtrain.run.folder import CONFIG_NAME, begin_folder, check_folder, machine, owned
from tgtrain.run.journal import (
    Interval,
    Journal,
    coverage_line,
    figures_line,
    memory_mb,
    seconds_left,
    step_line,
    with_precision,
)
from tgtrain.run.resume import choose, settings_in, take_up
from tgtrain.train.damage import Damage, TooMuchDamageError, left_out
from tgtrain.train.device import batches_on, views_of
from tgtrain.train.health import LossWatch, require_finite, require_health
from tgtrain.train.optimiser import make_optimiser, restore
from tgtrain.train.preflight import require_compilable, require_room, require_shares, require_variance

_TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)  # tensors of loader processes come as open files
_OF_A_LOADER = (OSError, RuntimeError, InputError)  # what its iterator raises: RuntimeError where a process has ended
_PRECISION = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Outcome:
    """step: steps done. interrupted: stopped by a signal. last: the last evaluation, where one was made in this call."""

    step: int
    num_steps: int
    interrupted: bool
    already_finished: bool
    last: Result | None


def num_steps_of(setup: Setup) -> tuple[int, int]:
    """Steps of the whole run, and of an epoch: one pass over the unlabelled videos, whatever the method.

    Supervised runs count epochs over the same videos, so that they take as many steps as the methods they are compared to.
    """
    config = setup.config
    num_unlabelled = int(setup.split.unlabelled.sum()) or int(setup.split.labelled.sum())
    per_epoch = steps_per_epoch(num_unlabelled, config.batch.unlabelled)
    return config.optimiser.epochs * per_epoch, per_epoch


def train(
    setup: Setup,
    run: Path,
    ranks: Ranks,
    *,
    resume: str = "auto",
    max_steps: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    log: Callable[[str], None] = print,
) -> Outcome:
    """Train the setup's model in the folder `run`, from its newest checkpoint where it has one.

    resume: auto, never (refused where the run has checkpoints), or the name or path of a checkpoint to begin from; see
    `resume.choose`.
    max_steps: total number of steps to stop at; the schedule stays the recipe's.
    Raises InputError (settings, folder), RunError (the run itself).
    """
    config = setup.config
    num_steps, per_epoch = num_steps_of(setup)
    stop_at = num_steps if max_steps is None else min(num_steps, max_steps)
    require_shares(config, ranks)
    check_folder(run, setup)
    ranks.barrier()  # nobody writes before everybody has looked: a folder half made would be taken for somebody else's
    trainer = _Trainer(setup, run, ranks, log)
    # Whatever the settings do not allow shows here, before anything is written: clips, operations, shapes.
    step_dataset(setup, ranks)
    require_variance(config)
    require_compilable(config, ranks.device)
    count_macs(config.model, config.data.clip_frames, config.data.size, config.data.size)
    # Of a new run everything is judged before its folder is made; of an old one only with the folder held.
    start = None if (run / CONFIG_NAME).exists() else choose(run, resume, setup, trainer.log)
    if start is not None:
        require_room(run, config)
    with ExitStack() as stack:
        if ranks.is_main:
            device = torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else ""
            facts = {
                "machine": machine(device),
                "num_steps": num_steps,
                "steps_per_epoch": per_epoch,
                "world_size": ranks.world_size,
                "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            }
            stack.enter_context(owned(run))
            check_folder(run, setup)  # again: another process may have had it since
            begin_folder(run, setup, facts)
        ranks.barrier()
        if start is None:
            start = choose(run, resume, setup, trainer.log)
            if start.step < stop_at:
                require_room(run, config)
        if len(set(ranks.gather(start.step))) > 1:
            raise InputError(f"The processes see different checkpoints in {run}: it must be one folder, shared by all.")
        if ranks.is_main:
            with writing(run, start.step):
                take_up(run, start, config.evaluate.keep, trainer.log)
        ranks.barrier()
        trainer.take(start.checkpoint)
        if trainer.step >= stop_at and not trainer.evaluation_due:
            return Outcome(trainer.step, num_steps, False, True, None)
        try:
            return trainer.run(stop_at, should_stop)
        except OSError as error:
            if error.errno not in _TOO_MANY_FILES:
                raise
            raise RunError(
                f"{error.strerror} (at step {trainer.step}). {last_whole(run)}; raise the limit (`ulimit -n`) or lower "
                "runtime.workers, then the same command goes on from there."
            ) from error


def training_step(setup: Setup, ranks: Ranks) -> Callable[[SslBatch], object]:
    """The update of the weights that a run makes with a batch, in its last epoch: for measurements. It writes no file."""
    trainer = _Trainer(setup, Path(), ranks, _silent)
    trainer.step = trainer.num_steps - 1
    return trainer._train_step


class _Trainer:
    """The state of a run in this process: model, optimiser and how many steps are done."""

    def __init__(self, setup: Setup, folder: Path, ranks: Ranks, log: Callable[[str], None]) -> None:
        config = setup.config
        self.setup, self.config, self.folder, self.ranks = setup, config, folder, ranks
        self.log = log if ranks.is_main else _silent
        self.num_steps, self.per_epoch = num_steps_of(setup)
        self.workers = training_workers(config)
        model = build_model(config.model, seed=config.runtime.seed)
        if ranks.world_size > 1:
            model = synchronised(model, ranks.device)
            share_dropout(model, ranks.rank, ranks.world_size)
        self.model: Model = model.to(device=ranks.device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        rescale_bn_momentum(self.model, config.runtime.accumulate)
        self.network: nn.Module = self.model
        if ranks.world_size > 1:
            devices = [ranks.device] if ranks.device.type == "cuda" else None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # its successor is not in every torch of our range
                self.network = DistributedDataParallel(self.model, device_ids=devices, broadcast_buffers=False)
        if config.runtime.compile:
            self.network = torch.compile(self.network, backend=config.runtime.compile_backend)  # type: ignore[assignment]
        on_gpu = ranks.device.type == "cuda"
        self.optimiser = make_optimiser(self.model.parameters(), config.optimiser, fused=on_gpu)
        self.dtype = _PRECISION[config.runtime.precision]
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=self.dtype is torch.float16)
        self.may_ask = ranks.device.type == "cpu"  # a GPU would have to be waited for
        self.step = 0
        self.num_skipped = 0
        self.damage = Damage(config.runtime.max_bad_fraction)
        self.loader_mb = 0.0
        self.loss = LossWatch(config.runtime.max_loss_factor)
        self.evaluation_due = False
        self.last: Result | None = None

    def take(self, found: checkpoints.Checkpoint | None) -> None:
        """Go on from this state."""
        if found is None:
            return
        self.model.load_state_dict(found.model)
        restore(self.optimiser, found.optimiser)
        if found.extra.get("scaler"):
            self.scaler.load_state_dict(found.extra["scaler"])
        if self.ranks.device.type == "cpu" and found.extra.get("num_threads"):
            # Sums are split by thread: only the same number of threads gives the same bits.
            torch.set_num_threads(int(found.extra["num_threads"]))
        self.damage.num_read, self.damage.num_bad = (int(found.extra.get(name, 0)) for name in ("num_read", "num_bad"))
        self.num_skipped = int(found.extra.get("num_skipped", 0))
        self.step = found.step
        self.evaluation_due = found.due
        self.log(f"resumed at step {self.step} of {self.num_steps}")

    def run(self, stop_at: int, should_stop: Callable[[], bool]) -> Outcome:
        """Steps until `stop_at`, a signal, or an error.

        At every mark: a checkpoint, precise BatchNorm and evaluation, and the checkpoint again, of what was measured; then
        the first goes. A run that is stopped or killed in between begins with the evaluation that is due.
        """
        with writing(self.folder, self.step):
            journal = Journal(self.folder, self.step, self.evaluation_due) if self.ranks.is_main else None
        interval = Interval(finite_only=self.scaler.is_enabled())
        device = self.ranks.device
        dataset = step_dataset(self.setup, self.ranks)
        read = step_loader(
            dataset,
            range(self.step, stop_at),
            self.workers,
            pin=device.type == "cuda",
        )
        batches = batches_on(device, read)
        poll = StopPoll(self.ranks, should_stop)
        interrupted = self.ranks.any(should_stop())  # while the run was prepared
        saved_at = self.step  # nothing at step 0, else what the run goes on from
        try:
            if self.evaluation_due and not interrupted:
                interrupted = not self._evaluated(journal, should_stop)
                interval.reset()
            while self.step < stop_at and not interrupted:
                waited = time.perf_counter()
                try:
                    batch = next(batches)
                except _OF_A_LOADER as error:
                    self._stopped_waiting(error, should_stop, saved_at)
                    interrupted = True
                    break
                waited = time.perf_counter() - waited
                assert batch.step == self.step, (batch.step, self.step)
                self._count_bad(batch)
                self.loader_mb = max(self.loader_mb, batch.loader_mb)
                values = self._train_step(batch)
                interval.add(values, batch.num_clips * self.ranks.world_size, waited)
                self.step += 1
                epoch, iteration = epoch_of(self.step - 1, self.per_epoch)
                due = iteration == self.per_epoch - 1 and is_due(
                    epoch, self.config.evaluate.every_epochs, self.config.optimiser.epochs
                )
                interrupted = poll.after_step()
                if self.step % self.config.runtime.log_every == 0 or self.step == stop_at or due or interrupted:
                    self._log(interval, journal, epoch)
                    interval.reset()
                if iteration == self.per_epoch - 1:
                    self._note(journal, "epoch", {"epoch": epoch, **dataset.coverage(self.step)})
                if due:
                    if coverage := dataset.coverage(self.step):
                        self.log(f"epoch {epoch + 1}: {coverage_line(coverage)}")
                    self.evaluation_due = True
                    self._save()
                    saved_at = self.step
                    interrupted = interrupted or not self._evaluated(journal, should_stop)
                    interval.reset()
        finally:
            if journal is not None:
                with writing(self.folder, self.step):
                    journal.close()
        if saved_at != self.step:
            self._save()
        return Outcome(self.step, self.num_steps, interrupted, False, self.last)

    def _stopped_waiting(self, error: Exception, should_stop: Callable[[], bool], saved_at: int) -> None:
        """Take an error of the loader for the stop that a signal has asked for; where none has, it is raised.

        Loader processes end soon after the signal, and wait for no store (see tgtrain.ranks.signals): what comes of a clip that cannot
        be read is an error, and no step is lost for it. Of several processes this one alone knows, while the others may be
        in a step: they cannot stop in order, and end with its message.
        """
        if not should_stop():
            raise error
        if self.ranks.world_size == 1:
            return
        if self.ranks.is_main and saved_at != self.step:
            self._write(False, None)
        reason = explained(error) if isinstance(error, UnreachableError) else str(error).partition("\n")[0]
        raise RunError(
            f"asked to stop while process {self.ranks.rank} waited for clips (at step {self.step}: {reason}). "
            f"{last_whole(self.folder)}; the same command goes on from there."
        ) from error

    def _train_step(self, batch: SslBatch) -> list[tuple[str, Tensor]]:
        """One update of the weights from a batch on the device; gives scalars there, and waits for nothing."""
        epoch, iteration = epoch_of(self.step, self.per_epoch)
        rate = learning_rate(self._schedule(), epoch, iteration)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.network.train()
        self.optimiser.zero_grad(set_to_none=True)
        runtime = self.config.runtime
        values = add_gradients(
            self.network,
            lambda: self._parts(batch),
            runtime.accumulate,
            self.config.method,
            epoch,
            over=runtime.accumulate_contrast,
            autocast=torch.autocast(self.ranks.device.type, dtype=self.dtype, enabled=self.dtype is not None),
            scale=self.scaler.scale,
        )
        self.scaler.unscale_(self.optimiser)
        norm = clip_gradients(self.model, self.config.optimiser.clip_norm, self.may_ask)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        values.append(("grad_norm", norm))
        if self.scaler.is_enabled():  # which leaves out an update whose gradients are not finite
            values.append(("train/skipped", 1 - norm.isfinite().float()))
        return values

    def _parts(self, batch: SslBatch) -> Iterator[StepInputs]:
        """The views of a batch on the device, in the parts that go through the networks one after the other."""
        runtime = self.config.runtime
        for number, part in enumerate(split_batch(batch, runtime.accumulate)):
            # Dropout draws from (seed, step, part), so that a resumed run draws the same, on any number of ranks (see SharedDropout).
            torch.manual_seed(_step_seed(runtime.seed, self.step, number))
            yield views_of(part, self.ranks.device, slow=self.config.data.gradient == "slow")

    def _schedule(self) -> LearningRateSettings:
        optimiser = self.config.optimiser
        return LearningRateSettings(optimiser.learning_rate, optimiser.epochs, optimiser.warmup_epochs, self.per_epoch)

    def _count_bad(self, batch: SslBatch) -> None:
        for clips in (batch.labelled, batch.unlabelled):
            if clips is not None:
                self.damage.add(len(clips.keys), clips.bad)
        if self.ranks.world_size == 1:
            self._judge_damage()  # ranks do so at every line of the log: asking every step would make them wait

    def _judge_damage(self) -> None:
        try:
            self.damage.join(self.ranks, self.log)
        except TooMuchDamageError as error:
            raise RunError(str(error)) from None

    def _log(self, interval: Interval, journal: Journal | None, epoch: int) -> None:
        self._judge_damage()
        values = with_precision(self._over_ranks(interval.means()))
        if self.scaler.is_enabled():
            self.num_skipped += round(values.pop("train/skipped") * interval.num_steps)
            values["num_skipped"] = self.num_skipped
        scale = self.scaler.get_scale() if self.scaler.is_enabled() else None
        require_health(values["loss/total"], values["grad_norm"], self.loss, scale, self.step)
        schedule = self._schedule()
        values["learning_rate"] = learning_rate(schedule, *epoch_of(self.step - 1, self.per_epoch))
        values["epoch"] = epoch
        values["seconds_left"] = seconds_left(values, self.step, self.num_steps)
        values["memory_mb"] = memory_mb()
        values["loader_memory_mb"] = max(self.ranks.gather(self.loader_mb))  # of the largest process; 0 without any
        values["num_bad"] = self.damage.num_bad
        self._note(journal, "train", values)
        self.log(step_line(self.step, self.num_steps, epoch, values))

    def _note(self, journal: Journal | None, kind: str, values: dict[str, Any]) -> None:
        """Write a record, on the process that has the journal."""
        if journal is not None:
            with writing(self.folder, self.step):
                journal.write(kind, self.step, values)

    def _over_ranks(self, values: dict[str, float]) -> dict[str, float]:
        """Means over the ranks; counts are sums."""
        if self.ranks.world_size == 1:
            return values
        everyone = self.ranks.gather(values)
        joined = {name: sum(each[name] for each in everyone) for name in values}
        return {name: total if name in COUNTS else total / len(everyone) for name, total in joined.items()}

    def _evaluated(self, journal: Journal | None, should_stop: Callable[[], bool]) -> bool:
        """`_evaluate_and_save`, which ends as soon where its loader fails once this process was asked to stop."""
        try:
            return self._evaluate_and_save(journal, should_stop)
        except _OF_A_LOADER:
            if self.ranks.world_size > 1 or not should_stop():
                raise
            return False

    def _evaluate_and_save(self, journal: Journal | None, should_stop: Callable[[], bool]) -> bool:
        """Precise BatchNorm, accuracy at one centre view, checkpoint: in this order, so that what is saved is what was measured.

        False where a process was asked to stop before the end: the evaluation stays due, and the weights are left aside.
        """
        epoch, _ = epoch_of(self.step - 1, self.per_epoch)
        running = None
        if "running_statistics" in self.config.compat.quirks:
            running = {name: value.clone() for name, value in self.model.state_dict().items() if "running_" in name}
        batch_norm = recompute_batch_norm(self.model, self.setup, self.ranks, should_stop, self.workers)
        if self.ranks.any(should_stop()):
            return False
        if batch_norm.bad:
            self.log(left_out("precise BatchNorm", batch_norm.bad))
        require_finite(self.model, self.step)
        part = self.setup.evaluated_part
        places = self.setup.videos(part)
        named: dict[str, float] = {}
        if places:
            modality = "tg" if self.config.model.streams == "tg" else "rgb"
            try:
                result = evaluate(
                    self.model,
                    self.setup,
                    places,
                    EvalSettings(EvalProtocol(1, 1), modality),  # type: ignore[arg-type]
                    self.ranks,
                    workers=self.workers,
                    should_stop=should_stop,
                )
            except StoppedError:
                return False
            if result.bad:
                self.log(left_out(f"the evaluation of {len(places)} {part} videos", result.bad))
            if result.keys:
                self.last, named = result, result.named()
                self._note(journal, "evaluate", {"epoch": epoch, "part": part, "num_bad": len(result.bad), **named})
                shown = figures_line(named, len(self.setup.classes))
                self.log(f"epoch {epoch + 1}: {shown}  ({len(result.keys)} {part} videos)")
        if running is not None:
            self.model.load_state_dict(running, strict=False)
        measured = checkpoints.Measured(f"top1@1x1 on {part}", named["top1@1x1"]) if named else None
        self.evaluation_due = False
        self._save(bool(batch_norm.num_batches) and running is None, measured)
        return True

    def _save(self, precise: bool = False, measured: checkpoints.Measured | None = None) -> None:
        """Write a checkpoint; RunError on every rank where that fails on the one that writes."""
        problem = self._write(precise, measured)
        if problems := [text for text in self.ranks.gather(problem) if text]:
            raise RunError(problems[0])

    def _write(self, precise: bool, measured: checkpoints.Measured | None) -> str:
        """Write a checkpoint where this is the process that writes; gives what kept it from that, "" for nothing."""
        require_finite(self.model, self.step)
        if self.ranks.is_main:
            state = checkpoints.Checkpoint(
                step=self.step,
                identity=self.setup.identity,
                model=self.model.state_dict(),
                optimiser=self.optimiser.state_dict(),
                extra={
                    "scaler": self.scaler.state_dict(),
                    "precise_bn": precise,
                    "evaluation_due": self.evaluation_due,
                    "num_threads": torch.get_num_threads(),
                    "num_read": self.damage.num_read,
                    "num_bad": self.damage.num_bad,
                    "num_skipped": self.num_skipped,
                    **settings_in(self.config),
                },
                measured=measured,
            )
            try:
                checkpoints.save(self.folder, state, self.config.evaluate.keep)
            except OSError as error:
                return cannot_write(self.folder, self.step, error)
        return ""


def _step_seed(seed: int, step: int, part: int) -> int:
    digest = blake2b(f"{seed}:{step}:{part}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _silent(text: str) -> None:
    return None
