"""Evaluation, precise BatchNorm and complete runs on sequential shards agree with the indexed reader."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from cli.train import main as tgtrain
from manifests.manifest_io import read_manifest
from manifests.records import InputError
from manifests.splits.label_split import read_split
from tests.train.data.support import cut_short, sequential
from tests.train.support import ALONE, SMALL, records, setup_of
from tgtrain.config import load_recipe
from tgtrain.data.clip import plan_train
from tgtrain.data.setup import prepare
from tgtrain.data.stores.shard_source import ShardSource
from tgtrain.evaluate.batch_norm import BatchNormMeasured, recompute_batch_norm
from tgtrain.evaluate.evaluate import EvalSettings, evaluate
from tgtrain.evaluate.results import EvalProtocol
from tgtrain.method.networks.model import build_model
from tgtrain.train.trainer import RunError, train


@pytest.mark.parametrize("workers", [0, 2])
def test_scores_equal_the_indexed_reader(root: Path, server: str, workers: int) -> None:
    results = []
    opened: list[str] = []
    for setup in (setup_of(root), sequential(root, f"{server}/set/{{shard}}")):
        model = build_model(setup.config.model, seed=0)
        videos = setup.videos("test")
        if setup.reader.shards.source is not None and not workers:
            samples = ShardSource.samples
            source = setup.reader.shards.source
            object.__setattr__(setup.reader.shards, "source", _Counting(source, opened, samples))
        results.append(evaluate(model, setup, videos, EvalSettings(EvalProtocol(2, 1)), ALONE, workers=workers))
    one, other = results
    assert one.keys == other.keys
    assert len(one.keys) == 6
    assert np.array_equal(one.scores, other.scores)
    assert one.bad == other.bad == ()
    assert not opened or max(Counter(opened).values()) == 1  # forward through each shard, once


class _Counting:
    def __init__(self, source: ShardSource, opened: list[str], samples: Callable[..., object]) -> None:
        self.source, self.opened, self.of = source, opened, samples

    def samples(self, shard: str) -> object:
        self.opened.append(shard)
        return self.of(self.source, shard)


def test_precise_batch_norm_equals_the_indexed_reader(root: Path) -> None:
    """Of one batch of all train videos they do not depend on the order: those of the indexed reader up to rounding.

    A buffer of one clip shuffles nothing, so that the first twelve clips are those of the twelve videos.
    """
    found = []
    whole = ("batch.labelled=12", "precise_bn.batches=1", "precise_bn.tg=running")
    for setup in (setup_of(root, *whole), sequential(root, "", *whole, "data.shuffle_clips=1")):
        model = build_model(setup.config.model, seed=0)
        assert recompute_batch_norm(model, setup, ALONE) == BatchNormMeasured(1, ())
        found.append({name: value for name, value in model.state_dict().items() if "running_" in name})
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=5e-3, atol=1e-4)


def test_run_resume_test_and_report_over_http(root: Path, server: str, tmp_path: Path) -> None:
    words = ["--recipe", "demo", *(word for text in SMALL for word in ("--set", text))]

    def call(*more: str, expected: int = 0) -> Result:
        done = CliRunner().invoke(tgtrain, list(more))
        assert done.exit_code == expected, done.output + str(done.exception or "")
        return done

    run = str(tmp_path / "run")
    streaming = ("--set", "data.reader=stream", "--out", run)
    stopped = call("run", f"{server}/set", *words, *streaming, "--max-steps", "3")
    assert stopped.stderr.count("note: data.reader=stream reads complete shards") == 1
    assert "a resumed run starts near the shard where it was" in stopped.stderr
    done = call("run", f"{server}/set", *words, *streaming)
    assert "resumed at step 3 of 12" in done.stderr
    assert [record["step"] for record in records(tmp_path / "run", "evaluate")] == [6, 12]
    over_http = json.loads(call("test", run, "--views", "1x1", "--json").stdout)
    local = json.loads(call("test", run, "--views", "1x1", "--data", str(root), "--json").stdout)
    assert over_http["top1@1x1"] == local["top1@1x1"]
    page = tmp_path / "page.html"
    assert "could not be read" not in call("report", run, "--output", str(page)).output
    assert page.read_text().count("data:image/webp") >= 6


def test_indexed_reader_names_the_stream_reader(root: Path, server: str, tmp_path: Path) -> None:
    config = load_recipe("demo", [*SMALL, f"runtime.cache={tmp_path}/cache", "runtime.cache_gb=1"], num_classes=3)
    setup = prepare(f"{server}/set", read_split(root), read_manifest(f"{server}/set"), config)
    (plan,) = plan_train(20, 48, 64, setup.clip, np.random.default_rng(0))
    with pytest.raises(InputError, match=r"sends complete files when a part is requested.*--set data\.reader=stream"):
        setup.reader.read(0, plan)


def test_too_much_damage_stops_the_run(root: Path, tmp_path: Path) -> None:
    template, _ = cut_short(root)
    with pytest.raises(RunError, match="runtime.max_bad_fraction allows 0.001"):
        train(
            sequential(root, template, "runtime.max_bad_fraction=0.001"), tmp_path / "run", ALONE, log=lambda text: None
        )
