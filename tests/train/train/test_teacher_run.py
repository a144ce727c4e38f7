"""Whole runs with an EMA teacher: exact resume, independence of evaluations, what is measured, tested, exported and compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from cli.train import main
from manifests.records import InputError
from tests.train.support import TINY, equal, records, run, run_outcome, setup_of, weights
from tgtrain.evaluate.results import read_results
from tgtrain.run import checkpoint as checkpoints
from tgtrain.run.checkpoint import best, list_checkpoints, load
from tgtrain.run.trained import read_trained
from tgtrain.run.weights import identify, read_initial

TEACHER = (*TINY, "method.teacher=ema", "method.teacher_decay=0.8", "runtime.workers=0", "optimiser.epochs=2")
WAYS = {
    "ltg in parts": ("demo", "runtime.accumulate=2", "method.threshold_rule=softmatch", "method.threshold_momentum=0.9"),
    "fixmatch, copied statistics, bfloat16": ("demo-fixmatch", "method.teacher_batch_norm=copy", "runtime.precision=bfloat16"),
    "fixmatch, kept inputs": ("demo-fixmatch", "runtime.checkpoint_activations=true", "method.threshold_rule=flexmatch"),
    "supervised, compiled": ("demo-supervised", "runtime.compile=true", "runtime.compile_backend=eager"),
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(data_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a teacher; do not change it."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    run(data_set, folder, *TEACHER, recipe="demo-fixmatch")
    return folder


def call(*words: object, expected: int = 0) -> Any:
    ran = CliRunner().invoke(main, [str(word) for word in words])
    assert ran.exit_code == expected, ran.output
    return ran


@pytest.mark.parametrize("way", WAYS)
def test_a_stopped_run_resumes_to_the_same_bits(data_set: Path, tmp_path: Path, way: str) -> None:
    recipe, *changes = WAYS[way]
    run(data_set, tmp_path / "whole", *TEACHER, *changes, recipe=recipe)
    for stop in (4, None):  # within the second epoch of three steps, after the evaluation of the first
        run(data_set, tmp_path / "parts", *TEACHER, *changes, recipe=recipe, max_steps=stop)
    found = weights(tmp_path / "whole")
    assert equal(weights(tmp_path / "parts"), found)
    kinds = {name.partition(".")[0] for name in found}
    assert kinds >= {"model", "teacher", "running", "momentum"}
    evaluations = [records(tmp_path / name, "evaluate") for name in ("whole", "parts")]
    assert evaluations[0] == evaluations[1]
    assert {"top1@1x1", "teacher_top1@1x1", "teacher_num_bad"} <= evaluations[0][-1].keys()


def test_a_run_that_starts_from_it_takes_what_learnt(data_set: Path, finished: Path, tmp_path: Path) -> None:
    setup = identify(setup_of(data_set, *TINY, f"model.init={finished}", recipe="demo-fixmatch"), tmp_path / "run")
    tensors = read_initial(setup).tensors
    found = load(list_checkpoints(finished)[-1])
    assert any(name.startswith("rgb.") for name in tensors)
    assert all(torch.equal(value, found.model[name]) for name, value in tensors.items())


def test_training_does_not_depend_on_how_often_it_is_evaluated(data_set: Path, tmp_path: Path) -> None:
    """The statistics that the teacher labels with are those of training, not those of an evaluation."""
    for every in (1, 0):
        changes = (*TEACHER, f"evaluate.every_epochs={every}", "method.warmup_epochs=0")
        run(data_set, tmp_path / str(every), *changes, recipe="demo-fixmatch")
    assert equal(*(weights(tmp_path / str(every)) for every in (1, 0)))
    often, once = (run_outcome(tmp_path / str(every))["facts"]["metrics"] for every in (1, 0))
    trains = [[record for record in each if record["kind"] == "train"] for each in (often, once)]
    assert trains[0] == trains[1]


def test_student_and_teacher_are_measured_with_statistics_of_their_own(finished: Path) -> None:
    found = load(list_checkpoints(finished)[-1])
    assert found.extra["precise_bn"]
    assert found.teacher.keys() == found.model.keys()
    means = [name for name in found.model if name.endswith("running_mean")]
    assert means
    for name in means:
        values = (
            found.model[name],
            found.teacher[name],
            found.running[f"model.{name}"],
            found.running[f"teacher.{name}"],
        )
        assert len({tuple(value.tolist()) for value in values}) == 4, name
    known, evaluations = best(finished), records(finished, "evaluate")
    assert known is not None
    assert known.metric == "teacher_top1@1x1 on test"
    assert known.value == max(record["teacher_top1@1x1"] for record in evaluations)


def test_the_teacher_is_tested_unless_the_student_is_named(finished: Path) -> None:
    told = {}
    for word in ("--teacher", "--student"):
        told[word] = json.loads(call("test", finished, "--device=cpu", "--views=1x1", "--json", word).stdout)
    default = json.loads(call("test", finished, "--device=cpu", "--views=1x1", "--json").stdout)
    assert default == told["--teacher"]
    assert default["model"] == "teacher"
    assert "model" not in told["--student"]
    last = records(finished, "evaluate")[-1]
    assert told["--teacher"]["top1@1x1"] == pytest.approx(last["teacher_top1@1x1"])
    assert told["--student"]["top1@1x1"] == pytest.approx(last["top1@1x1"])
    assert {path.name for path in finished.glob("test-*.json")} == {"test-1x1-teacher.json", "test-1x1.json"}
    assert [result.is_teacher for result in read_results(finished, [])] == [True, False]
    assert "of the teacher" in call("test", finished, "--device=cpu", "--views=1x1").output
    page = finished.parent / "page.html"
    call("report", finished, "--output", page)
    assert "RGB network of the teacher" in page.read_text()
    table = call("report", finished, "--table", "csv").output
    assert f",{default['top1@1x1']}," in table


def test_the_teacher_is_exported_unless_the_student_is_named(finished: Path, tmp_path: Path) -> None:
    clips = torch.randint(0, 256, (1, 4, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    answers = []
    for number, words in enumerate(([], ["--teacher"], ["--student"])):
        path = tmp_path / f"{number}.pt2"
        call("export", finished, "--format=torch", "--output", path, *words)
        answers.append(torch.export.load(path).module()(clips))
    assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[0], answers[2])
    assert read_trained(finished).origin["model"] == "teacher"
    assert "model" not in read_trained(finished, teacher=False).origin


def test_a_run_without_a_teacher_has_none(data_set: Path, tmp_path: Path) -> None:
    run(data_set, tmp_path / "run", recipe="demo-fixmatch", max_steps=2)
    ran = call("test", tmp_path / "run", "--device=cpu", "--teacher", expected=2)
    assert f"--teacher: {tmp_path / 'run'} was trained without one (method.teacher is none)." in ran.output
    assert not read_trained(tmp_path / "run").is_teacher
    call("test", tmp_path / "run", "--device=cpu", "--student", "--views=1x1")
    assert [path.name for path in (tmp_path / "run").glob("test-*.json")] == ["test-1x1.json"]


def test_a_checkpoint_without_its_teacher_is_refused(data_set: Path, tmp_path: Path) -> None:
    run(data_set, tmp_path / "run", *TEACHER, recipe="demo-fixmatch", max_steps=2)
    (path,) = list_checkpoints(tmp_path / "run")
    found = load(path)
    found.teacher.clear()
    checkpoints.save(tmp_path / "run", found, 2)
    with pytest.raises(InputError, match="holds other weights than the model"):
        read_trained(tmp_path / "run")
    with pytest.raises(InputError, match="does not fit this model: it holds no teacher"):
        run(data_set, tmp_path / "run", *TEACHER, recipe="demo-fixmatch")
