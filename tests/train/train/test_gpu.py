"""Training on a GPU: a step never waits for the device, every variant trains, and what CPU tests show holds there.

Tests without a GPU are skipped (REQUIRE_GPU=1 makes that a failure). Kernels of a GPU add in an order of their own, so runs are
compared by tolerance, but for what must not depend on it: steps, batches, learning rates, what a checkpoint restores.
"""

from __future__ import annotations

import gc
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.method.support import PART_CASES, TWO_CLIPS, batch_of, blocks, model_of
from tests.train.support import ALONE, SMALL, equal, records, run, setup_of, weights
from tgtrain.data.build import step_dataset
from tgtrain.data.device import batches_on
from tgtrain.method.accumulate import add_gradients
from tgtrain.method.step import Clips, StepInputs, step_terms
from tgtrain.ranks.distributed import Ranks
from tgtrain.run.checkpoint import list_checkpoints, load
from tgtrain.run.journal import Interval, memory_mb
from tgtrain.train.learner import Learner
from tgtrain.train.trainer import num_steps_of, train

pytestmark = pytest.mark.gpu
GPU = torch.device("cuda", 0)
ON_GPU = Ranks(0, 1, GPU)
QUICK = ("method.warmup_epochs=0", "optimiser.warmup_epochs=0", "optimiser.learning_rate=0.005", "runtime.log_every=1")
WAYS: dict[str, tuple[str, ...]] = {
    "float32": (),
    "bfloat16": ("runtime.precision=bfloat16",),
    "float16": ("runtime.precision=float16",),
    "in parts": ("runtime.accumulate=2",),
    "two clips, in parts": (*TWO_CLIPS, "runtime.accumulate=2"),
    "slow TG, strong labelled views, MvPL operations": (
        "data.gradient=slow", "augment.labelled=strong", "augment.operations=mvpl",
    ),
}  # fmt: skip
PAIR = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


@contextmanager
def no_waiting() -> Iterator[None]:
    """Within, an operation that makes this process wait for the GPU raises."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def on_gpu(root: Path, folder: Path, *overrides: str, recipe: str = "demo", **options: Any) -> None:
    train(setup_of(root, *QUICK, *overrides, recipe=recipe), folder, ON_GPU, log=lambda text: None, **options)


def to_gpu(views: StepInputs) -> StepInputs:
    def moved(clips: Clips | None) -> Clips | None:
        return clips and Clips(*(None if view is None else view.to(GPU) for view in (clips.rgb, clips.tg)))

    labelled = moved(views.labelled)
    assert labelled is not None
    true_labels = None if views.true_labels_U is None else views.true_labels_U.to(GPU)
    return StepInputs(labelled, views.labels_B.to(GPU), moved(views.weak), moved(views.strong), true_labels)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("recipe", ["demo", "demo-fixmatch"])
def test_a_step_never_waits_for_the_device(data_set: Path, tmp_path: Path, way: str, recipe: str) -> None:
    """From the pinned batch of the loader to the sums for the log; caches on the device are filled after two steps."""
    if recipe == "demo-fixmatch" and TWO_CLIPS[0] in WAYS[way]:
        pytest.skip("one view has no contrast across views")
    setup = setup_of(data_set, *QUICK, *WAYS[way], recipe=recipe)
    learner, interval = Learner(setup.config, ON_GPU, num_steps_of(setup)[1]), Interval(finite_only=True)
    dataset = step_dataset(setup, ON_GPU)
    read = [dataset[step].pin_memory() for step in range(5)]
    coming = batches_on(GPU, read)
    for _ in range(2):
        interval.add(learner.update(next(coming)), 8, 0.0)
        learner.step += 1
    torch.cuda.synchronize()
    with no_waiting():
        for _ in range(3):
            interval.add(learner.update(next(coming)), 8, 0.0)
            learner.step += 1
    means = interval.means()
    assert math.isfinite(means["loss/total"])
    with no_waiting(), pytest.raises(RuntimeError, match="synchroni"):
        interval.means()  # this test can fail: reading a value is noticed


@pytest.mark.parametrize("way", WAYS)
def test_every_variant_trains_evaluates_and_resumes(data_set: Path, tmp_path: Path, way: str) -> None:
    on_gpu(data_set, tmp_path / "whole", *WAYS[way], max_steps=6)
    on_gpu(data_set, tmp_path / "run", *WAYS[way], max_steps=4)
    saved = load(list_checkpoints(tmp_path / "run")[-1])
    on_gpu(data_set, tmp_path / "run", *WAYS[way], max_steps=6)
    whole, resumed = (records(tmp_path / name, "train") for name in ("whole", "run"))
    assert [record["step"] for record in resumed] == [record["step"] for record in whole] == [1, 2, 3, 4, 5, 6]
    assert saved.step == 4
    for one, other in zip(whole, resumed, strict=True):
        assert one["learning_rate"] == other["learning_rate"]
        assert other["loss/total"] == pytest.approx(one["loss/total"], rel=0.1)
    assert [record["step"] for record in records(tmp_path / "run", "evaluate")] == [6]
    final = load(list_checkpoints(tmp_path / "run")[-1])
    assert all(torch.isfinite(value).all() for value in final.model.values())
    assert all(value.device.type == "cpu" for value in final.model.values())
    assert not equal({k: v for k, v in saved.model.items() if "weight" in k}, {k: v for k, v in final.model.items() if "weight" in k})  # fmt: skip


def test_checkpoint_restores_gpu_state_exactly(data_set: Path, tmp_path: Path) -> None:
    """Weights, momentum, scaler: saved, loaded into a new trainer, and the same again."""
    setup = setup_of(data_set, *QUICK, "runtime.precision=float16")
    train(setup, tmp_path / "run", ON_GPU, max_steps=4, log=lambda text: None)
    found = load(list_checkpoints(tmp_path / "run")[-1])
    learner = Learner(setup.config, ON_GPU, num_steps_of(setup)[1])
    learner.load(found)
    assert learner.step == 4
    for name, value in learner.model.state_dict().items():
        assert value.device.type == "cuda"
        assert torch.equal(value.cpu(), found.model[name]), name
    for number, state in learner.optimiser.state_dict()["state"].items():
        assert torch.equal(state["momentum_buffer"].cpu(), found.optimiser["state"][number]["momentum_buffer"])
    assert learner.scaler.state_dict() == found.extra["scaler"]


def test_first_step_on_gpu_equals_cpu(data_set: Path, tmp_path: Path) -> None:
    """The same clips, strong views and weights; without dropout, which draws from another generator there."""
    settings = (*QUICK, "model.dropout=0", "evaluate.every_epochs=0")
    run(data_set, tmp_path / "cpu", *settings, max_steps=1)
    allow = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        on_gpu(data_set, tmp_path / "gpu", "model.dropout=0", "evaluate.every_epochs=0", max_steps=1)
    finally:
        torch.backends.cudnn.allow_tf32 = allow
    (cpu,), (gpu,) = (records(tmp_path / name, "train") for name in ("cpu", "gpu"))
    for name in (name for name in cpu if name.startswith(("loss/", "train/"))):
        assert gpu[name] == pytest.approx(cpu[name], rel=1e-2, abs=1e-3), name
    assert gpu["grad_norm"] == pytest.approx(cpu["grad_norm"], rel=0.05)


@pytest.mark.parametrize("case", ["ltg", "uda", "mvpl", "weak views apart"])
def test_micro_batches_equal_the_batch_with_frozen_statistics(case: str) -> None:
    method, _ = PART_CASES[case]
    joined, model = (model_of(case, frozen=True).to(GPU) for _ in range(2))
    allow = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        terms = step_terms(joined, to_gpu(batch_of(case)), method, epoch=0)
        terms.total.backward()  # type: ignore[no-untyped-call]
        parts = [to_gpu(part) for part in blocks(batch_of(case), 2, method.clips_per_video)]
        values = dict(add_gradients(model, lambda: parts, 2, method, epoch=0))
    finally:
        torch.backends.cudnn.allow_tf32 = allow
    torch.testing.assert_close(values["loss/total"], terms.total.detach(), rtol=1e-3, atol=1e-5)
    for (name, mine), theirs in zip(model.named_parameters(), joined.parameters(), strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        scale = float(theirs.grad.abs().max())
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-2, atol=1e-3 * scale, msg=lambda m, n=name: f"{n}: {m}")  # fmt: skip


def test_fused_optimiser_and_channels_last(data_set: Path, tmp_path: Path) -> None:
    setup = setup_of(data_set, *QUICK, "runtime.precision=bfloat16")
    learner = Learner(setup.config, ON_GPU, num_steps_of(setup)[1])
    assert learner.optimiser.defaults["fused"]
    assert not learner.may_wait
    seen: list[bool] = []
    for layer in learner.model.modules():
        if isinstance(layer, torch.nn.Conv3d):
            layer.register_forward_pre_hook(
                lambda _, inputs: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last_3d))
            )
    batch = next(batches_on(GPU, [step_dataset(setup, ON_GPU)[0].pin_memory()]))
    learner.update(batch)
    assert len(seen) > 10
    assert all(seen)


def test_compiled_networks_train_as_eager_ones(data_set: Path, tmp_path: Path) -> None:
    common = ("model.dropout=0", "evaluate.every_epochs=0", "data.size=64")
    on_gpu(data_set, tmp_path / "plain", *common, max_steps=2)
    on_gpu(data_set, tmp_path / "compiled", *common, "runtime.compile=true", max_steps=2)
    for one, other in zip(*(records(tmp_path / name, "train") for name in ("plain", "compiled")), strict=True):
        assert other["loss/total"] == pytest.approx(one["loss/total"], rel=2e-2)
    assert weights(tmp_path / "plain").keys() == weights(tmp_path / "compiled").keys()


def test_micro_batches_and_separate_weak_views_save_memory(data_set: Path, tmp_path: Path) -> None:
    """Peak memory of a step of one view, at a size where activations outweigh the weights."""
    peaks = {}
    for name, changes in (
        ("whole", ()),
        ("in parts", ("runtime.accumulate=4",)),
        ("apart", ("method.weak_forward=apart",)),
    ):
        setup = setup_of(
            data_set, *QUICK, "batch.labelled=16", "batch.unlabelled=16", "data.size=112", "model.width=16", *changes,
            recipe="demo-fixmatch",
        )  # fmt: skip
        learner = Learner(setup.config, ON_GPU, num_steps_of(setup)[1])
        batch = next(batches_on(GPU, [step_dataset(setup, ON_GPU)[0].pin_memory()]))
        learner.update(batch)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        learner.update(batch)
        torch.cuda.synchronize()
        peaks[name] = torch.cuda.max_memory_allocated()
        del learner, batch
        gc.collect()
        torch.cuda.empty_cache()
    assert peaks["in parts"] < 0.6 * peaks["whole"]
    assert peaks["apart"] < 0.9 * peaks["whole"]


def test_log_has_gpu_memory(data_set: Path, tmp_path: Path) -> None:
    on_gpu(data_set, tmp_path / "run", max_steps=1)
    told = records(tmp_path / "run", "train")[-1]["memory_mb"]
    assert 0 < told <= memory_mb() <= torch.cuda.get_device_properties(GPU).total_memory / 2**20
    facts = json.loads((tmp_path / "run" / "config.json").read_text())
    assert torch.cuda.get_device_name(GPU) in json.dumps(facts["machine"])


def test_gpu_run_resumes_on_cpu(data_set: Path, tmp_path: Path) -> None:
    """Where the same command finds another machine: the videos and the schedule are the same."""
    on_gpu(data_set, tmp_path / "run", max_steps=3)
    train(setup_of(data_set, *QUICK), tmp_path / "run", ALONE, max_steps=4, log=lambda text: None)
    assert load(list_checkpoints(tmp_path / "run")[-1]).step == 4
    assert all(torch.isfinite(value).all() for value in weights(tmp_path / "run").values())


def test_float16_cpu_run_resumes_on_gpu(data_set: Path, tmp_path: Path) -> None:
    settings = (*QUICK, "runtime.precision=float16")
    train(setup_of(data_set, *settings), tmp_path / "run", ALONE, max_steps=3, log=lambda text: None)
    on_gpu(data_set, tmp_path / "run", "runtime.precision=float16", max_steps=8)
    assert load(list_checkpoints(tmp_path / "run")[-1]).step == 8
    assert all(torch.isfinite(value).all() for value in weights(tmp_path / "run").values())


@PAIR
@pytest.mark.parametrize("way", [(), ("runtime.accumulate=2", *TWO_CLIPS), ("runtime.precision=bfloat16",)])
def test_two_gpus_equal_one(data_set: Path, tmp_path: Path, way: tuple[str, ...]) -> None:
    """NCCL, SyncBatchNorm and the gather: losses of the first steps equal those of one GPU with the full batch."""
    settings = (*QUICK, "model.dropout=0", "evaluate.every_epochs=0", *way)
    on_gpu(data_set, tmp_path / "one", *settings, max_steps=2)
    words = [
        "run", str(data_set), "--recipe", "demo", "--out", str(tmp_path / "two"), "--max-steps", "2",
        *(word for text in (*SMALL, *settings) for word in ("--set", text)),
    ]  # fmt: skip
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    done = subprocess.run(
        [*launcher, "tgtrain", *words], env=dict(os.environ), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "two" / "config.json").read_text())["world_size"] == 2
    one, two = (records(tmp_path / name, "train") for name in ("one", "two"))
    for name in (name for name in one[0] if name.startswith("loss/")):
        assert two[0][name] == pytest.approx(one[0][name], rel=2e-2, abs=1e-3), name
    assert two[1]["loss/total"] == pytest.approx(one[1]["loss/total"], rel=0.1)


@PAIR
def test_devices_2_starts_two_processes(data_set: Path, tmp_path: Path) -> None:
    words = [
        "run", str(data_set), "--recipe", "demo", "--out", str(tmp_path / "run"), "--max-steps", "2", "--devices", "2",
        *(word for text in SMALL for word in ("--set", text)),
    ]  # fmt: skip
    done = subprocess.run([sys.executable, "-m", "tgtrain", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "config.json").read_text())["world_size"] == 2
