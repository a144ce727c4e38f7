"""Runs with soft targets: they resume to the same bits, with no other file; on several processes; from URLs; and leak nothing."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from manifests.manifest_io import read_manifest
from manifests.records import InputError
from manifests.splits.label_split import read_split, split_digest, write_split
from manifests.targets.target_file import Targets, read_targets, targets_digest, write_targets
from tests.train.support import equal, records, run, setup_of, weights
from tgtrain.data.build import step_dataset
from tgtrain.data.loader import worker_context
from tgtrain.evaluate.results import read_results
from tgtrain.ranks.distributed import Ranks
from tgtrain.run.folder import read_facts, read_setup
from tgtrain.run.trained import read_trained
from tgtrain.train.learner import Learner
from tgtrain.train.preflight import notes
from tgtrain.train.trainer import train

LEARNS = ("method.targets=made", "method.soft_weight=1")


def add_targets(root: Path, seed: int = 0, part: str = "unlabelled", name: str = "made", **provenance: str) -> Targets:
    """Random targets of every other video of a part, and of all test videos."""
    classes, split = read_manifest(root).header.classes, read_split(root)
    keys = tuple(sorted({*split.keys_of(part)[::2], *split.keys_of("test")}))
    rows = np.random.default_rng(seed).dirichlet(np.ones(len(classes)), len(keys)).astype(np.float32)
    made = Targets(name, keys, rows / rows.sum(axis=1, keepdims=True), classes, provenance)
    write_targets(root, made, overwrite=True)
    return made


@pytest.fixture
def root(make_data_set) -> Path:  # type: ignore[no-untyped-def]
    made: Path = make_data_set()
    add_targets(made)
    return made


def test_a_stopped_run_resumes_to_the_same_weights_and_with_no_other_targets(root: Path, tmp_path: Path) -> None:
    settings = (*LEARNS, "method.soft_warmup_epochs=1", "method.pseudo_label_rows=all")
    run(root, tmp_path / "whole", *settings)
    run(root, tmp_path / "parts", *settings, max_steps=5)
    first = read_targets(root, "made", read_manifest(root).header.classes)
    other = add_targets(root, seed=1)
    with pytest.raises(
        InputError, match=f"soft targets {targets_digest(first)[:12]} there, {targets_digest(other)[:12]} now"
    ):
        run(root, tmp_path / "parts", *settings)
    with pytest.raises(InputError, match=r"method.targets: made there,  asked"):
        run(root, tmp_path / "parts", *settings, "method.targets=")
    with pytest.raises(InputError, match="belongs to something else: .*soft targets"):
        run(root, tmp_path / "other", *settings, resume=str(tmp_path / "parts" / "checkpoints" / "step-00000005.pt"))
    write_targets(root, first, overwrite=True)
    run(root, tmp_path / "parts", *settings)
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    run(root, tmp_path / "plain", "method.soft_weight=1")
    assert not equal(weights(tmp_path / "whole"), weights(tmp_path / "plain"))
    facts = read_facts(tmp_path / "whole").targets
    assert facts is not None
    assert (facts.digest, facts.num_used, facts.num_held_out, facts.num_other) == (targets_digest(first), 6, 6, 0)
    # Loss and its warm-up are logged; scoring the videos does not need the file.
    soft = [record["loss/soft_rgb"] for record in records(tmp_path / "whole", "train")]
    assert soft[0] == 0
    assert soft[-1] > 0
    (root / "targets" / "made.parquet").unlink()
    assert read_setup(tmp_path / "whole").identity == read_facts(tmp_path / "whole").identity
    assert read_trained(tmp_path / "whole").step == 12
    assert read_results(tmp_path / "whole", []) == ()


def test_targets_a_teacher_and_a_threshold_rule_together_resume_to_the_same_bits(root: Path, tmp_path: Path) -> None:
    settings = (
        *LEARNS,
        "method.teacher=ema",
        "method.teacher_decay=0.8",
        "method.threshold_rule=freematch",
        "runtime.accumulate=2",
    )
    run(root, tmp_path / "whole", *settings)
    for stop in (5, None):
        run(root, tmp_path / "parts", *settings, max_steps=stop)
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    # Each of the three changes what is learnt.
    for number, fewer in enumerate((settings[2:], (*settings[:2], *settings[4:]), (*settings[:4], settings[5]))):
        run(root, tmp_path / str(number), *fewer)
        found = weights(tmp_path / str(number))
        whole = weights(tmp_path / "whole")
        assert any(
            not torch.equal(found[name], whole[name]) for name in found if name.startswith("model.") and name in whole
        )


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("demo", ("method.clips_per_video=2", 'method.contrast=["crossview"]', "runtime.accumulate=2")),
        ("demo-supervised", ()),
        ("demo-fixmatch", ("method.method=uda",)),
        ("demo", ("data.reader=stream", "method.threshold_rule=flexmatch")),
    ],
)
def test_each_row_gets_the_target_of_its_video(root: Path, recipe: str, changes: tuple[str, ...]) -> None:
    """By the keys of the batch; a row of zeros for a video without. Then a step is made."""
    setup = setup_of(root, *LEARNS, *changes, recipe=recipe)
    targets = read_targets(root, "made", setup.classes)
    ranks = Ranks(0, 1, torch.device("cpu"))
    learner = Learner(setup.config, ranks, 3, int(setup.split.unlabelled.sum()), setup.targets)
    batch = step_dataset(setup, ranks).from_step(0)[0]
    assert batch.unlabelled is not None
    found = torch.cat([views.soft_UK for views in learner.micro_batches(batch) if views.soft_UK is not None])
    keys = batch.unlabelled.keys
    num_parts = setup.config.runtime.accumulate
    parts = [keys[k * len(keys) // num_parts : (k + 1) * len(keys) // num_parts] for k in range(num_parts)]
    rows = [key for part in parts for key in part * setup.config.method.clips_per_video]
    assert len(found) == len(rows)
    for key, row in zip(rows, found, strict=True):
        expected = targets.probabilities[targets.key.index(key)] if key in targets.key else np.zeros(3)
        np.testing.assert_array_equal(row.numpy(), expected)
    values = dict(learner.update(batch))
    assert all(torch.isfinite(value).all() for value in values.values())
    assert any(name.startswith("loss/soft") for name in values)
    if recipe == "demo-supervised":
        assert not any(name.startswith("loss/pseudo") for name in values)


def test_targets_of_held_out_videos_are_ignored_and_counted(root: Path, tmp_path: Path) -> None:
    """Whatever they say: the same weights with other ones."""
    setup = setup_of(root, *LEARNS)
    assert (
        "soft targets made: for 6 of 12 unlabelled videos; the 6 others learn from hard pseudo-labels; 6 of test and"
        in "\n".join(notes(setup))
    )
    made = read_targets(root, "made", setup.classes)
    held_out = np.isin(made.key, setup.split.keys_of("test"))
    changed = made.probabilities.copy()
    changed[held_out] = np.eye(3, dtype=np.float32)[0]
    run(root, tmp_path / "one", *LEARNS, max_steps=2)
    write_targets(root, replace(made, probabilities=changed), overwrite=True)
    run(root, tmp_path / "two", *LEARNS, max_steps=2)
    assert equal(weights(tmp_path / "one"), weights(tmp_path / "two"))


def test_what_cannot_be_learnt_from_is_refused_before_anything_is_written(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="This run cannot start: No targets none in .* there are: made"):
        setup_of(root, "method.targets=none")
    add_targets(root, part="test", name="held")
    with pytest.raises(InputError, match="targets held name none of the 12 unlabelled videos"):
        setup_of(root, "method.targets=held")
    split = read_split(root)
    labelled = split.labelled | split.test
    other = replace(split, name="all", labelled=labelled, unlabelled=split.train | labelled, test=split.test & False)
    write_split(root, other)
    write_split(root, replace(split, name="newest"))
    origin = f'{{"run": "runs/x", "split": "all", "split_digest": "{split_digest(other)}"}}'
    add_targets(root, name="leaky", file_1_run=origin)
    with pytest.raises(InputError, match="learnt the labels of 6 test or validation videos"):
        setup_of(root, "method.targets=leaky")


def on_one_rank(rank: int, root: str, folder: str) -> None:
    warnings.simplefilter("ignore", FutureWarning)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    setup = setup_of(Path(root), *LEARNS, *LOW)
    train(setup, Path(folder) / "two", Ranks(rank, 2, torch.device("cpu")), log=lambda text: None, max_steps=2)
    dist.destroy_process_group()


LOW = (
    "optimiser.learning_rate=0.001",
    "optimiser.warmup_epochs=0",
    "model.dropout=0",
    "method.warmup_epochs=0",
    "runtime.log_every=1",
)


def test_two_processes_learn_what_one_learns(root: Path, tmp_path: Path) -> None:
    run(root, tmp_path / "one", *LEARNS, *LOW, max_steps=2)
    worker_context()
    mp.start_processes(on_one_rank, args=(str(root), str(tmp_path)), nprocs=2, start_method="forkserver")
    for one, two in zip(records(tmp_path / "one", "train"), records(tmp_path / "two", "train"), strict=True):
        for name in ("loss/soft_rgb", "loss/soft_tg", "train/soft_fraction", "loss/total"):
            assert two[name] == pytest.approx(one[name], rel=2e-3), name


def test_targets_beside_a_data_set_at_a_url(root: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.put(str(root), "/targets-test", recursive=True)
    found = read_targets("memory://targets-test", "made", read_manifest("memory://targets-test").header.classes)
    assert targets_digest(found) == targets_digest(read_targets(root, "made", found.classes))
    write_targets("memory://targets-test", replace(found, name="again"))
    assert targets_digest(read_targets("memory://targets-test", "again", found.classes)) == targets_digest(found)
