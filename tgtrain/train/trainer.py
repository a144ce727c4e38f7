"""The training loop: batches in order, one step after the other, evaluation and checkpoint at the marks, exact resume."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.disk import explained
from manifests.object_store import UnreachableError
from manifests.records import InputError
from tgtrain.data.batch import SslBatch
from tgtrain.data.build import step_dataset, training_workers
from tgtrain.data.device import batches_on
from tgtrain.data.loader import step_loader
from tgtrain.data.order import steps_per_epoch
from tgtrain.data.setup import Setup
from tgtrain.errors import RunError
from tgtrain.evaluate.evaluate import StoppedError
from tgtrain.evaluate.results import Result
from tgtrain.method.schedule import epoch_of, is_due
from tgtrain.method.terms import COUNTS
from tgtrain.ranks.distributed import Ranks, StopPoll
from tgtrain.run import checkpoint as checkpoints
from tgtrain.run import journal
from tgtrain.run.checkpoint import Measured, State, last_valid, writing
from tgtrain.run.folder import CONFIG_NAME, Matched, begin_folder, check_folder, owned
from tgtrain.run.resume import Start, choose, take_up
from tgtrain.run.weights import Initial, identify, read_initial, table
from tgtrain.train.health import Damage, LossWatch, require_finite, require_health
from tgtrain.train.learner import Learner
from tgtrain.train.measure import measure
from tgtrain.train.observer import Accuracy, Observer
from tgtrain.train.preflight import require_room, require_settings

_TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)  # tensors of loader processes arrive as open files
_LOADER_ERRORS = (OSError, RunError, InputError)  # RunError: a loader process has ended


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call of `train` ended. step: steps done. interrupted: stopped by a signal. last: the last evaluation of this call."""

    step: int
    num_steps: int
    interrupted: bool
    already_finished: bool
    last: Result | None


def num_steps_of(setup: Setup) -> tuple[int, int]:
    """Steps of the run, and of an epoch: one pass over the unlabelled videos, whatever the method.

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
    observer: Observer | None = None,
) -> Outcome:
    """Train the setup's model in the folder `run`, from its newest checkpoint if it has one.

    resume: auto, never (refused if the run has checkpoints), or the name or path of a checkpoint; see `resume.choose`.
    max_steps: total number of steps to stop at; the schedule stays the recipe's. observer: follows the run in place of `log`.
    Raises InputError (settings, folder), RunError (the run itself).
    """
    num_steps, _ = num_steps_of(setup)
    stop_at = num_steps if max_steps is None else min(num_steps, max_steps)
    # Everything that can be refused is refused before anything is written.
    require_settings(setup.config, ranks)
    setup = identify(setup, run)
    check_folder(run, setup)
    is_new = not (run / CONFIG_NAME).exists()
    ranks.barrier()  # no rank writes before all have looked: a half-made folder would be taken for somebody else's
    trainer = _Trainer(setup, run, ranks, observer or Observer(log))
    with ExitStack() as stack:
        if not is_new:
            trainer.hold_folder(stack)  # another process may still be writing the checkpoints
        start = choose(run, resume, setup, trainer.observer.warn)
        initial = read_initial(setup) if is_new or start.checkpoint is None else Initial()
        if is_new or start.step < stop_at:
            require_room(run, setup.config)
        if is_new:
            trainer.hold_folder(stack, initial.matched)
        trainer.begin(start, initial)
        del initial  # as large as the model
        if trainer.step >= stop_at and not trainer.evaluation_due:
            if ranks.is_main:
                journal.send_missed(run, trainer.step, num_steps, setup.config.log, trainer.observer.warn)
            return Outcome(trainer.step, num_steps, False, True, None)
        try:
            return trainer.run(stop_at, should_stop)
        except OSError as error:
            if error.errno not in _TOO_MANY_FILES:
                raise
            raise RunError(
                f"{error.strerror} (at step {trainer.step}). {last_valid(run)}; raise the limit (`ulimit -n`) or lower "
                "runtime.workers, then the same command goes on from there."
            ) from error


def training_step(setup: Setup, ranks: Ranks) -> Callable[[SslBatch], object]:
    """The update that a run makes with a batch in its last epoch, for measurements. It writes no file."""
    num_steps, per_epoch = num_steps_of(setup)
    learner = Learner(setup.config, ranks, per_epoch, int(setup.split.unlabelled.sum()), setup.targets)
    learner.step = num_steps - 1
    return learner.update


class _Trainer:
    """A run in this process: what learns, what is logged, and what is saved in the folder."""

    def __init__(self, setup: Setup, folder: Path, ranks: Ranks, observer: Observer) -> None:
        config = setup.config
        self.setup, self.config, self.folder, self.ranks = setup, config, folder, ranks
        self.observer = observer if ranks.is_main else Observer(lambda text: None)
        self.num_steps, self.per_epoch = num_steps_of(setup)
        self.dataset = step_dataset(setup, ranks)
        self.workers = training_workers(config)
        self.learner = Learner(config, ranks, self.per_epoch, int(setup.split.unlabelled.sum()), setup.targets)
        self.journal: journal.Journal | None = None
        self.interval = journal.Interval(finite_only=self.learner.scaler.is_enabled())
        self.loss = LossWatch(config.runtime.max_loss_factor)
        self.damage = Damage(config.runtime.max_bad_fraction)
        self.num_skipped = 0
        self.loader_mb = 0.0
        self.saved_at = 0
        self.evaluation_due = False
        self.last: Result | None = None

    @property
    def step(self) -> int:
        """Steps done."""
        return self.learner.step

    def hold_folder(self, stack: ExitStack, weights: tuple[Matched, ...] = ()) -> None:
        """Take the run folder for this run until the stack ends; a new one gets its config.json."""
        if self.ranks.is_main:
            stack.enter_context(owned(self.folder))
            begin_folder(
                self.folder, self.setup, self.ranks, weights, num_steps=self.num_steps, steps_per_epoch=self.per_epoch
            )
        self.ranks.barrier()

    def begin(self, start: Start, initial: Initial) -> None:
        """Load the state to start from, after the folder was made to end there. initial: the weights of a new run."""
        model = self.config.model
        if len(set(self.ranks.gather((start.step, model.init_sha256, model.init_tg_sha256)))) > 1:
            raise InputError(
                f"The processes see different checkpoints in {self.folder}{' or different files of model.init' * bool(model.init)}: "
                "it must be one folder, shared by all."
            )
        if self.ranks.is_main:
            with writing(self.folder, start.step):
                take_up(self.folder, start, self.config.evaluate.keep, self.observer.warn)
        self.ranks.barrier()
        if start.checkpoint is None:
            self.learner.start_from(initial.tensors)
            for line in table(initial.matched):
                self.observer.news(line)
            return
        self.learner.load(start.checkpoint)
        extra = start.checkpoint.extra
        self.damage.num_read, self.damage.num_bad = int(extra.get("num_read", 0)), int(extra.get("num_bad", 0))
        self.num_skipped = int(extra.get("num_skipped", 0))
        self.evaluation_due = start.checkpoint.due
        self.observer.news(f"resumed at step {self.step} of {self.num_steps}")

    def run(self, stop_at: int, should_stop: Callable[[], bool]) -> Outcome:
        """Train until `stop_at`, a signal, or an error.

        At every mark the run saves a checkpoint, recomputes BatchNorm and evaluates, saves what was measured, and removes the
        first checkpoint. A run that is stopped or killed in between begins with the evaluation that is due.
        """
        with writing(self.folder, self.step):
            if self.ranks.is_main:
                self.journal = journal.Journal(
                    self.folder, self.step, self.evaluation_due, self.observer.warn, self.config.log
                )
        self.saved_at, complete = self.step, False  # at step 0 there is nothing to save
        pin, steps = self.ranks.device.type == "cuda", range(self.step, stop_at)
        loader = step_loader(self.dataset, steps, self.workers, pin, num_in_use=1)
        try:
            interrupted = self._run_steps(batches_on(self.ranks.device, loader), stop_at, should_stop)
            if self.saved_at != self.step:
                self._save()
            complete = self.step == self.num_steps and not self.evaluation_due
        finally:
            if self.journal is not None:
                with writing(self.folder, self.step):
                    self.journal.close(complete)
        return Outcome(self.step, self.num_steps, interrupted, False, self.last)

    def _run_steps(self, batches: Iterator[SslBatch], stop_at: int, should_stop: Callable[[], bool]) -> bool:
        """Train, log, evaluate and save; returns whether a signal interrupted it."""
        poll = StopPoll(self.ranks, should_stop)
        self.observer.began(self.folder, self.step, stop_at, (self.num_steps, self.per_epoch), self.workers)
        interrupted = self.ranks.any(should_stop())  # a signal while the run was prepared
        self.interval.reset()
        if self.evaluation_due and not interrupted:
            interrupted = not self._evaluate(should_stop)
        while self.step < stop_at and not interrupted:
            began = time.perf_counter()
            try:
                batch = next(batches)
            except _LOADER_ERRORS as error:
                self._handle_loader_error(error, should_stop)
                return True
            waited_seconds = time.perf_counter() - began
            assert batch.step == self.step, (batch.step, self.step)
            for clips in filter(None, (batch.labelled, batch.unlabelled)):
                self.damage.add(len(clips.keys), clips.bad)
            # Several ranks do it only at every line of the log, because it makes them wait.
            if self.ranks.world_size == 1:
                self.damage.join(self.ranks, self.observer.warn)
            self.loader_mb = max(self.loader_mb, batch.loader_mb)
            values = self.learner.update(batch)
            self.interval.add(values, batch.num_clips * self.ranks.world_size, waited_seconds)
            self.learner.step += 1
            self.observer.stepped(self.step)
            epoch, iteration = epoch_of(self.step - 1, self.per_epoch)
            ends_epoch = iteration == self.per_epoch - 1
            due = ends_epoch and is_due(epoch, self.config.evaluate.every_epochs, self.config.optimiser.epochs)
            interrupted = poll.after_step()
            if self.step % self.config.runtime.log_every == 0 or self.step == stop_at or due or interrupted:
                self._log_interval(epoch)
            if ends_epoch:
                self._note("epoch", {"epoch": epoch, **self.dataset.coverage(self.step)})
                for count, trust in self.learner.by_class():
                    self._note("class", journal.class_record(count, trust, epoch, self.setup.classes))
            if due:
                if coverage := self.dataset.coverage(self.step):
                    self.observer.covered(epoch, coverage)
                self.evaluation_due = True
                self._save()
                interrupted = interrupted or not self._evaluate(should_stop)
        return interrupted

    def _handle_loader_error(self, error: Exception, should_stop: Callable[[], bool]) -> None:
        """If a stop was requested, treat a loader error as that stop; otherwise raise it.

        After a signal loader processes end soon and wait for no store (see tgtrain.ranks.signals), so a clip that cannot be read
        is an error, for which no step is lost. With several ranks only this one knows: the others may be in a step and cannot
        stop in order, so all end with this message.
        """
        if not should_stop():
            raise error
        if self.ranks.world_size == 1:
            return
        if self.saved_at != self.step:
            self._save(alone=True)
        reason = explained(error) if isinstance(error, UnreachableError) else str(error).partition("\n")[0]
        raise RunError(
            f"a stop was requested while process {self.ranks.rank} waited for clips (at step {self.step}: {reason}). "
            f"{last_valid(self.folder)}; the same command goes on from there."
        ) from error

    def _log_interval(self, epoch: int) -> None:
        """Log the means since the last line over all ranks, and begin a new interval. RunError if the run is not healthy."""
        self.damage.join(self.ranks, self.observer.warn)
        everyone = self.ranks.gather(self.interval.means())
        sums = {name: sum(each[name] for each in everyone) for name in everyone[0]}
        values = journal.with_precision(
            {name: total if name in COUNTS else total / len(everyone) for name, total in sums.items()}
        )
        scale = None
        if self.learner.scaler.is_enabled():
            self.num_skipped += round(values.pop("train/skipped") * self.interval.num_steps)
            values["num_skipped"] = self.num_skipped
            scale = self.learner.scaler.get_scale()
        require_health(values["loss/total"], values["grad_norm"], self.loss, scale, self.step)
        values["learning_rate"] = self.learner.learning_rate(self.step - 1)
        values["epoch"] = epoch
        # An estimate from all steps so far, with the evaluations between them.
        values["seconds_left"] = values["overall_seconds_per_step"] * (self.num_steps - self.step)
        values["memory_mb"] = journal.memory_mb()
        values["loader_memory_mb"] = max(self.ranks.gather(self.loader_mb))  # of the largest process; 0 without any
        values["num_bad"] = self.damage.num_bad
        self._note("train", values)
        self.observer.logged(self.step, self.num_steps, epoch, values)
        self.interval.reset()

    def _note(self, kind: str, values: dict[str, Any]) -> None:
        """Write a record of metrics.jsonl, on the rank that has the journal."""
        if self.journal is not None:
            with writing(self.folder, self.step):
                self.journal.write(kind, self.step, values)

    def _evaluate(self, should_stop: Callable[[], bool]) -> bool:
        """`_evaluate_and_save`; False if it is stopped, or its loader fails after a stop was requested."""
        try:
            self._evaluate_and_save(should_stop)
            return True
        except StoppedError:
            return False
        except _LOADER_ERRORS:
            if self.ranks.world_size > 1 or not should_stop():
                raise
            return False
        finally:
            self.interval.reset()

    def _evaluate_and_save(self, should_stop: Callable[[], bool]) -> None:
        """Precise BatchNorm, accuracy at one centre view, checkpoint: in this order, so that what is saved is what was measured.

        StoppedError if a stop was requested before the end: the evaluation stays due, and the weights are not saved.
        """
        learner, running = self.learner, self.learner.running_statistics()
        how: dict[str, Any] = {"workers": self.workers, "should_stop": should_stop, "observer": self.observer}
        models = learner.models.items()
        measured = {name: measure(model, self.setup, self.ranks, self.step, **how) for name, model in models}
        figures = self._note_accuracy({name: each.result for name, each in measured.items()})
        keeps_running = "running_statistics" in self.config.compat.quirks
        if keeps_running:
            learner.set_running_statistics(running)
        self.evaluation_due = False
        # A teacher labels with its running statistics: so training does not depend on how often it is evaluated.
        kept = running if learner.teacher is not None and not keeps_running else {}
        self._save(all(each.precise for each in measured.values()) and not keeps_running, figures, kept)
        learner.set_running_statistics(kept)

    def _note_accuracy(self, results: dict[str, Result | None]) -> Measured | None:
        """Log the accuracy of the networks, a teacher's under names of its own; gives that of the last, which the best is chosen by."""
        part, epoch = self.setup.evaluated_part, epoch_of(self.step - 1, self.per_epoch)[0]
        values: dict[str, Any] = {}
        measured = None
        for name, result in results.items():
            if result is None:
                continue
            prefix = "" if name == "model" else f"{name}_"
            self.last, named = result, {"num_bad": len(result.bad), **result.named()}
            values |= {f"{prefix}{metric}": value for metric, value in named.items()}
            self.observer.evaluated(Accuracy.of(result, epoch + 1, prefix[:-1], part))
            measured = Measured(f"{prefix}top1@1x1 on {part}", named["top1@1x1"])
        if values:
            self._note("evaluate", {"epoch": epoch, "part": part, **values})
        return measured

    def _save(
        self, precise: bool = False, measured: Measured | None = None, running: State | None = None, alone: bool = False
    ) -> None:
        """Write a checkpoint on the rank that writes; RunError on every rank if that fails there.

        running: of `Checkpoint`. alone: the other ranks take no part, and a failure is ignored, because the run ends with another one.
        """
        for model in self.learner.models.values():
            require_finite(model, self.step)
        problem = ""
        if not alone:
            self.learner.join_counts()
        if self.ranks.is_main:
            try:
                state = self._checkpoint(precise, measured, running or {})
                with writing(self.folder, self.step):
                    checkpoints.save(self.folder, state, self.config.evaluate.keep)
            except RunError as error:
                problem = str(error)
        if alone:
            return
        if problems := [text for text in self.ranks.gather(problem) if text]:
            raise RunError(problems[0])
        self.saved_at = self.step

    def _checkpoint(self, precise: bool, measured: Measured | None, running: State) -> checkpoints.Checkpoint:
        learner = self.learner
        return checkpoints.Checkpoint(
            step=self.step,
            identity=self.setup.identity,
            model=learner.model.state_dict(),
            optimiser=learner.optimiser.state_dict(),
            thresholds={} if learner.thresholds is None else learner.thresholds.state_dict(),
            teacher={} if learner.teacher is None else learner.teacher.model.state_dict(),
            running=running,
            extra={
                **learner.extra_state(),
                "precise_bn": precise,
                "evaluation_due": self.evaluation_due,
                "num_read": self.damage.num_read,
                "num_bad": self.damage.num_bad,
                "num_skipped": self.num_skipped,
                "settings": self.config.to_dict(),  # a resumed run must have the same, see `resume.choose`
            },
            measured=measured,
        )
