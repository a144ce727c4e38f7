"""A signal at any moment: the run saves, says so, exits as documented, and resumes to the same end."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

from manifests import object_store as stores
from manifests.object_store import UnreachableError
from tests.train.support import ALONE, SMALL, equal, read_until, records, run, setup_of, weights
from tgtrain.data.batch import SslBatch, StepDataset
from tgtrain.data.loader import item_loader
from tgtrain.evaluate import batch_norm as calibrate
from tgtrain.evaluate import evaluate
from tgtrain.ranks.distributed import Ranks
from tgtrain.ranks.signals import end_later, stop_waiting
from tgtrain.run.checkpoint import every_checkpoint, list_checkpoints, load
from tgtrain.train.trainer import RunError, _Trainer, train

LONG = (
    "evaluate.every_epochs=3",
    "optimiser.epochs=15",
    "runtime.workers=1",
    "runtime.log_every=1",
)  # 45 steps: longer than a signal takes to come
EVERY_EPOCH = "evaluate.every_epochs=1"


@pytest.fixture(scope="module")
def whole(data_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(data_set, folder, EVERY_EPOCH)
    return folder


@pytest.fixture(scope="module")
def long(data_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long") / "run"
    run(data_set, folder, *LONG)
    return folder


def same_end(folder: Path, whole: Path) -> None:
    assert equal(weights(folder), weights(whole))
    for kind, keys in (("evaluate", ("step", "top1@1x1")), ("train", ("step", "loss/total"))):
        assert [[r[key] for key in keys] for r in records(folder, kind)] == [
            [r[key] for key in keys] for r in records(whole, kind)
        ]
    assert every_checkpoint(folder) == list_checkpoints(folder)


def call_at(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, number: int, act: Callable[[], None]) -> None:
    """Let something happen when a function is entered for the n-th time."""
    before = getattr(owner, name)
    left = [number]

    def watched(*args: object, **kwargs: object) -> object:
        left[0] -= 1
        if not left[0]:
            act()
        return before(*args, **kwargs)

    monkeypatch.setattr(owner, name, watched)


# 6 test videos are evaluated a mark, in one go each; precise BN reads 2 batches of 4, once for both networks.
PLACES = {
    "first evaluation": (evaluate._ViewDataset, "__getitem__", 3, 3),
    "second evaluation": (evaluate._ViewDataset, "__getitem__", 8, 6),
    "last evaluation": (evaluate._ViewDataset, "__getitem__", 24, 12),
    "first precise BN": (calibrate, "plan_eval", 3, 3),
    "last precise BN": (calibrate, "plan_eval", 30, 12),
}


@pytest.mark.parametrize("place", PLACES)
def test_signal_during_evaluation(
    data_set: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    owner, name, number, step = PLACES[place]
    seen: list[int] = []
    with monkeypatch.context() as patch:
        call_at(patch, owner, name, number, lambda: seen.append(signal.SIGUSR1))
        stopped = run(data_set, tmp_path / "run", EVERY_EPOCH, should_stop=lambda: bool(seen))
    assert seen
    assert (stopped.interrupted, stopped.step) == (True, step)
    assert [record["step"] for record in records(tmp_path / "run", "evaluate")] == list(range(3, step, 3))
    newest = every_checkpoint(tmp_path / "run")[-1]
    assert newest.name == f"step-{step:08d}.due.pt"
    assert load(newest).due
    done = run(data_set, tmp_path / "run", EVERY_EPOCH)
    assert (done.step, done.interrupted, done.already_finished) == (12, False, False)
    same_end(tmp_path / "run", whole)


@pytest.mark.parametrize("place", ["second evaluation", "last evaluation", "last precise BN"])
def test_crash_during_evaluation_loses_no_step(
    data_set: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    owner, name, number, step = PLACES[place]

    def crash() -> None:
        raise MemoryError("of the evaluation")

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        call_at(patch, owner, name, number, crash)
        run(data_set, tmp_path / "run", EVERY_EPOCH)
    said: list[str] = []
    train(setup_of(data_set, EVERY_EPOCH), tmp_path / "run", ALONE, log=said.append)
    assert f"resumed at step {step} of 12" in said
    same_end(tmp_path / "run", whole)


def test_damaged_checkpoint_falls_back_to_the_due_one(
    data_set: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a kill leaves it between the two: the measured one is there, and the other not yet removed."""
    with monkeypatch.context() as patch:
        patch.setattr("tgtrain.run.checkpoint.finish_save", lambda *args: None)
        run(data_set, tmp_path / "run", EVERY_EPOCH, max_steps=6)
    names = [path.name for path in every_checkpoint(tmp_path / "run")]
    assert names == [f"step-{step:08d}{due}.pt" for step in (3, 6) for due in (".due", "")]
    newest = list_checkpoints(tmp_path / "run")[-1]
    newest.write_bytes(newest.read_bytes()[:-9])
    run(data_set, tmp_path / "run", EVERY_EPOCH)
    same_end(tmp_path / "run", whole)


def test_due_evaluation_is_not_timed_with_the_first_steps(
    data_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        seen: list[int] = []
        call_at(patch, evaluate._ViewDataset, "__getitem__", 3, lambda: seen.append(signal.SIGUSR1))
        run(data_set, tmp_path / "run", EVERY_EPOCH, should_stop=lambda: bool(seen))
    now = [0.0]
    monkeypatch.setattr("tgtrain.run.journal.time.perf_counter", lambda: now[0])
    measured = evaluate.evaluate

    def an_hour(*args: object, **kwargs: object) -> object:
        now[0] += 3600
        return measured(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr("tgtrain.train.measure.evaluate", an_hour)
    run(data_set, tmp_path / "run", EVERY_EPOCH, max_steps=5)
    first = records(tmp_path / "run", "train")[-2]
    assert now == [3600]
    assert (first["step"], first["overall_seconds_per_step"]) == (4, 0)


STALLED = {
    "a loader process has ended": RunError("a loader process has ended"),
    "the store does not answer": UnreachableError(errno.EIO, "the store did not answer for 31 s", "s3://bucket/shard"),
}


def stalling(monkeypatch: pytest.MonkeyPatch, at: int, error: Exception, act: Callable[[], None]) -> None:
    """The loader gives `at` batches; then something happens while the next one is waited for, which ends with an error."""

    def loader(dataset: StepDataset, steps: range, workers: int, pin: bool, *, num_in_use: int) -> Iterator[SslBatch]:
        yield from map(dataset.__getitem__, steps[:at])
        act()
        raise error

    monkeypatch.setattr("tgtrain.train.trainer.step_loader", loader)


@pytest.mark.parametrize("error", STALLED.values(), ids=STALLED)
def test_signal_while_waiting_for_a_batch(
    data_set: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    seen: list[int] = []
    with monkeypatch.context() as patch:
        stalling(patch, 5, error, lambda: seen.append(signal.SIGTERM))
        stopped = run(data_set, tmp_path / "run", EVERY_EPOCH, should_stop=lambda: bool(seen))
    assert (stopped.interrupted, stopped.step) == (True, 5)
    assert load(every_checkpoint(tmp_path / "run")[-1]).step == 5
    run(data_set, tmp_path / "run", EVERY_EPOCH)
    assert equal(weights(tmp_path / "run"), weights(whole))


@pytest.mark.parametrize("error", STALLED.values(), ids=STALLED)
def test_loader_error_without_a_signal_is_raised(
    data_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    stalling(monkeypatch, 2, error, lambda: None)
    with pytest.raises(type(error)) as raised:
        run(data_set, tmp_path / "run", EVERY_EPOCH)
    assert raised.value is error


@pytest.mark.parametrize("rank", [0, 1])
def test_rank_that_waits_at_a_signal_saves_if_it_can(data_set: Path, tmp_path: Path, rank: int) -> None:
    trainer = _Trainer(setup_of(data_set), tmp_path, ALONE, lambda text: None)
    trainer.learner.step, trainer.ranks = 2, Ranks(rank, 2, torch.device("cpu"))
    last = r"Step-00000002\.pt is the last valid checkpoint" if rank == 0 else "No checkpoint was written yet"
    with pytest.raises(
        RunError, match=rf"while process {rank} waited for clips \(at step 2: s3://bucket/shard.*{last}"
    ):
        trainer._handle_loader_error(STALLED["the store does not answer"], lambda: True)


def test_unreachable_store_during_evaluation_delays_no_signal(
    data_set: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def gone() -> None:
        seen.append(signal.SIGTERM)
        raise STALLED["the store does not answer"]

    with monkeypatch.context() as patch:
        call_at(patch, evaluate._ViewDataset, "__getitem__", 8, gone)
        stopped = run(data_set, tmp_path / "run", EVERY_EPOCH, should_stop=lambda: bool(seen))
    assert (stopped.interrupted, stopped.step) == (True, 6)
    run(data_set, tmp_path / "run", EVERY_EPOCH)
    same_end(tmp_path / "run", whole)


class OutOfReach(Dataset[int]):
    """Items of a store that has answered once and does so no more. waiting: a file that is made then."""

    def __init__(self, waiting: Path) -> None:
        self.waiting = waiting

    def __getitem__(self, place: int) -> int:
        stores.call("memory://bucket/shard", lambda files, path: 0)
        self.waiting.touch()
        return stores.call("memory://bucket/shard", self.fail)

    @staticmethod
    def fail(files: object, path: str) -> int:
        raise TimeoutError("no answer")


@pytest.mark.parametrize("workers", [0, 1])
def test_signal_ends_the_wait_for_a_store(workers: int, tmp_path: Path) -> None:
    """Neither the process itself nor its loader processes: those it would wait for up to ten minutes."""
    waiting = tmp_path / "waiting"

    def stop() -> None:
        while not waiting.exists():
            time.sleep(0.02)
        stop_waiting()

    asker = threading.Thread(target=stop)
    asker.start()
    try:
        with pytest.raises(UnreachableError, match="the store did not answer for [0-9] s"):
            next(item_loader(OutOfReach(waiting), [0], workers, pin=False))
    finally:
        waiting.touch()
        asker.join()
        stores.giving_up.clear()


def test_signal_before_the_first_step_saves_nothing(data_set: Path, tmp_path: Path, whole: Path) -> None:
    stopped = run(data_set, tmp_path / "run", EVERY_EPOCH, should_stop=lambda: True)
    assert (stopped.interrupted, stopped.step) == (True, 0)
    assert every_checkpoint(tmp_path / "run") == []
    run(data_set, tmp_path / "run", EVERY_EPOCH, max_steps=4)
    stopped = run(data_set, tmp_path / "run", EVERY_EPOCH, should_stop=lambda: True)
    assert (stopped.interrupted, stopped.step) == (True, 4)
    run(data_set, tmp_path / "run", EVERY_EPOCH)
    same_end(tmp_path / "run", whole)


def test_stop_request_of_another_rank_counts(data_set: Path, tmp_path: Path) -> None:
    ranks = Ranks(0, 1, torch.device("cpu"), stop_requested=lambda: True)
    outcome = train(
        setup_of(data_set), tmp_path / "run", ranks, log=lambda text: None, should_stop=ranks.stop_requested
    )
    assert outcome.interrupted


def command(data_set: Path, folder: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "tgtrain", "run", str(data_set), "--recipe", "demo", "--out", str(folder), *more,
        *(word for text in (*SMALL, *LONG) for word in ("--set", text)),
    ]  # fmt: skip


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}


def of_session(session: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            facts = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(facts[3]) == session and facts[0] != "Z":
                found.append(int(entry.name))
    return found


@contextlib.contextmanager
def running(words: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A run as the leader of a session. At the end no process of the session may be left; those that are, are killed."""
    process = subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        yield process
        until = time.monotonic() + 60
        while (left := of_session(process.pid)) and time.monotonic() < until:
            time.sleep(0.1)
        assert not left, "processes outlived the run"
    finally:
        for pid in of_session(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        pytest.param(signal.SIGKILL, -9, marks=pytest.mark.long),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.long),
        (signal.SIGTERM, 143),
        (signal.SIGUSR1, 0),
    ],
)
def test_signal_to_all_processes_of_a_run(
    data_set: Path, tmp_path: Path, long: Path, sent: signal.Signals, code: int
) -> None:
    """As a terminal sends SIGINT, and Slurm SIGTERM and SIGUSR1: to the loader processes and their server, too."""
    with running(command(data_set, tmp_path / "run")) as process:
        read_until(process, "step 12/45")
        for pid in of_session(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sent)
        said = process.communicate(timeout=300)[1]
    assert process.returncode == code, said
    saved = load(every_checkpoint(tmp_path / "run")[-1]).step
    if sent is signal.SIGKILL:
        assert saved == 9
    else:
        assert f"Saved at step {saved} of 45; the same command resumes" in said
        assert 12 <= saved < 45
        assert "Traceback" not in said
    run(data_set, tmp_path / "run", *LONG)
    same_end(tmp_path / "run", long)


def test_signal_during_import_counts(data_set: Path, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from cli.train import main\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch':\n"
        "            os.kill(os.getpid(), signal.SIGUSR1)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "sys.argv[0] = 'tgtrain'\n"
        "main()\n"
    )
    words = [sys.executable, "-c", code, *command(data_set, tmp_path / "run")[3:]]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Stopped before the first step; the same command starts again." in done.stderr
    assert every_checkpoint(tmp_path / "run") == []


def test_loader_process_outlives_sigterm_for_a_while() -> None:
    """Of SIGTERM, which torch sends to one that is stuck: it must end, but not at once."""
    before, mask = signal.getsignal(signal.SIGTERM), signal.pthread_sigmask(signal.SIG_BLOCK, [])
    left: list[int] = []
    try:
        end_later(left.append, seconds=0.2)
        os.kill(os.getpid(), signal.SIGTERM)
        assert left == []
        until = time.monotonic() + 60
        while not left and time.monotonic() < until:
            time.sleep(0.02)
        assert left == [1]
        assert stores.giving_up.is_set()
    finally:
        stores.giving_up.clear()
        signal.signal(signal.SIGTERM, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
