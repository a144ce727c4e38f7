"""Signals to every command that writes: SIGTERM and SIGINT leave nothing unfinished, what kill -9 leaves the next run removes."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from cli.common import handled
from tests.reliability import Reliability
from tests.writers import WRITERS, files_in, kill_all, leftovers

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
NUM_REPEATS = 4


def tried(name: str, base: Path, tmp_path: Path, numbers: list[int], generator: random.Random) -> list[float]:
    """Send each signal at a random moment, then run the command to its end; gives the moments in seconds."""
    writer = WRITERS[name]
    (tmp_path / "whole").mkdir()
    writer.prepare(tmp_path / "whole", base)
    began = time.monotonic()
    code, text = writer.run(tmp_path / "whole", base)
    seconds = time.monotonic() - began
    assert code == 0, text
    wanted = files_in(tmp_path / "whole")
    moments = []
    for attempt, number in enumerate(numbers):
        place = tmp_path / f"place{attempt}"
        place.mkdir()
        writer.prepare(place, base)
        before = files_in(place)
        process = writer.start(place, base)
        moments.append(seconds * generator.uniform(0.3, 1.0))
        time.sleep(moments[-1])
        kill_all(process, number)
        _, errors = process.communicate(timeout=120)
        assert "Traceback" not in errors, (number, errors)
        if number != signal.SIGKILL:
            assert process.returncode in (0, 128 + number, -number), (number, process.returncode, errors)
            assert not leftovers(place), (number, errors)
        for path, digest in files_in(place).items():  # what has its name is whole
            hidden = any(part.startswith(".") for part in path.split("/"))
            assert hidden or digest in (wanted.get(path), before.get(path)), (number, path)
        code, text = writer.run(place, base)
        assert code == 0, text
        assert not leftovers(place)
        assert files_in(place) == wanted
    return moments


@pytest.mark.parametrize("name", ["export"])
def test_signals_at_random_moments(name: str, inputs: Path, tmp_path: Path) -> None:
    tried(name, inputs, tmp_path, [signal.SIGKILL, signal.SIGTERM], random.Random(7))


@pytest.mark.long
@pytest.mark.parametrize("name", WRITERS)
def test_many_signals_at_random_moments(
    name: str, inputs_with_runs: Path, tmp_path: Path, reliability: Reliability
) -> None:
    numbers = [number for number in SIGNALS for _ in range(NUM_REPEATS)]
    moments = tried(name, inputs_with_runs, tmp_path, numbers, random.Random(name))
    what = "kill -9, SIGTERM or SIGINT at a random moment of every command that writes, then the same command"
    reliability.record("Signals", what, num_commands=1, num_signals=len(numbers), at_seconds=moments, differing_files=0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_library_may_raise_another_exception_in_place_of_ours(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    """As pydantic does, if the signal comes while it builds a validator."""

    @handled
    def command() -> None:
        try:
            signal.raise_signal(number)
        except BaseException:
            raise ValueError("of a library") from None

    handlers = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    before = {each: signal.signal(each, handler) for each, handler in handlers.items()}
    try:
        with pytest.raises(SystemExit) as ended:
            command()
        assert {each: signal.getsignal(each) for each in handlers} == handlers
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    assert ended.value.code == 128 + number
    assert capfd.readouterr().err == "Interrupted.\n"
