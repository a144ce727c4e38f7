"""Half precision and torch.compile: a run stops and resumes to the same bits, and logs are JSON whatever float16 does."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.support import equal, records, run, weights
from tgtrain.run.checkpoint import list_checkpoints, load
from tgtrain.train.trainer import RunError

WAYS = {
    "bfloat16": ("runtime.precision=bfloat16",),
    "float16": ("runtime.precision=float16",),
    "compiled": ("runtime.compile=true", "runtime.compile_backend=eager"),
}
SHORT = (
    "model.width=2",
    "optimiser.epochs=2",
    "runtime.log_every=1",
    "optimiser.warmup_epochs=0",
    "method.warmup_epochs=0",
)


def strict(text: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module")
def wholes(data_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The undisturbed run of each way, made once."""
    folder = tmp_path_factory.mktemp("wholes")

    def made(way: str) -> Path:
        if not (folder / way).exists():
            run(data_set, folder / way, *SHORT, *WAYS[way])
        return folder / way

    return made


@pytest.mark.parametrize("way", WAYS)
def test_stop_and_resume_is_bit_exact(data_set: Path, tmp_path: Path, wholes: Callable[[str], Path], way: str) -> None:
    whole = wholes(way)
    run(data_set, tmp_path / "run", *SHORT, *WAYS[way], max_steps=2)
    assert not equal(weights(tmp_path / "run"), weights(whole))
    run(data_set, tmp_path / "run", *SHORT, *WAYS[way])
    assert equal(weights(tmp_path / "run"), weights(whole))
    got, expected = (load(list_checkpoints(folder)[-1]).extra for folder in (tmp_path / "run", whole))
    for name in ("scaler", "num_skipped"):
        assert got[name] == expected[name]
    assert [r["loss/total"] for r in records(tmp_path / "run", "train")] == [
        r["loss/total"] for r in records(whole, "train")
    ]


def test_float16_finds_its_scale_and_logs_skipped_steps(wholes: Callable[[str], Path]) -> None:
    whole = wholes("float16")
    lines = [strict(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    skipped = [step["num_skipped"] for step in steps]
    assert 0 < skipped[-1] < len(steps), "some steps overflow at the first scale, not all"
    # Every skipped step has no norm, every other one has, and the scale was halved once for each.
    assert [step["grad_norm"] is None for step in steps] == [
        now > before for now, before in zip(skipped, [0, *skipped], strict=False)
    ]
    assert all(math.isfinite(step["loss/total"]) for step in steps)
    extra = load(list_checkpoints(whole)[-1]).extra
    assert extra["num_skipped"] == skipped[-1]
    assert extra["scaler"]["scale"] == 2.0 ** (16 - skipped[-1])


def test_tensorboard_has_only_finite_values(wholes: Callable[[str], Path]) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    whole = wholes("float16")
    events = EventAccumulator(str(whole / "tensorboard"))
    events.Reload()
    norms = {step["step"]: step["grad_norm"] for step in records(whole, "train")}
    told = {event.step: event.value for event in events.Scalars("train/grad_norm")}
    assert told == pytest.approx({step: norm for step, norm in norms.items() if norm is not None}, rel=1e-6)


def test_half_precision_and_compiling_are_close_to_float32(
    data_set: Path, tmp_path: Path, wholes: Callable[[str], Path]
) -> None:
    run(data_set, tmp_path / "plain", *SHORT)
    first = records(tmp_path / "plain", "train")[0]
    for way in WAYS:
        found = records(wholes(way), "train")[0]
        assert found["loss/total"] == pytest.approx(first["loss/total"], rel=0.1), way
        assert (found["loss/total"] == first["loss/total"]) == (way == "compiled")
    assert equal(weights(tmp_path / "plain"), weights(wholes("compiled")))


def test_float16_without_a_finite_scale_stops_the_run(
    data_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tgtrain.train.health._LEAST_SCALE", 2.0**10)  # six steps in place of 26
    with pytest.raises(RunError, match=r"float16 finds no scale .*Lower optimiser.learning_rate"):
        run(
            data_set, tmp_path / "run", "model.width=2", "runtime.precision=float16", "optimiser.learning_rate=1e30",
            "optimiser.clip_norm=0", "optimiser.warmup_epochs=0", "evaluate.every_epochs=0",
        )  # fmt: skip
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        strict(line)
    for path in list_checkpoints(tmp_path / "run"):
        assert all(torch.isfinite(value).all() for value in load(path).model.values())
