"""Recomputed BatchNorm statistics against the running ones of training, by what they are for: accuracy."""

from __future__ import annotations

from pathlib import Path

from tests.train.support import ALONE, run, setup_of
from tgtrain.evaluate.batch_norm import recompute_batch_norm
from tgtrain.evaluate.evaluate import EvalSettings, evaluate
from tgtrain.evaluate.results import EvalProtocol
from tgtrain.method.networks.model import Model
from tgtrain.run.trained import read_trained

# Labels alone teach the networks; the unlabelled clips, strong views with them, still go through BatchNorm.
LABELS_ALONE = (
    "optimiser.epochs=40", "optimiser.learning_rate=0.05", "method.warmup_epochs=99", "method.align_stages=[]",
    "method.contrast=[]", "model.projection=none", "model.width=8", "model.dropout=0", "evaluate.every_epochs=0",
)  # fmt: skip


def test_tg_does_not_lose_accuracy_on_its_own_labelled_clips(data_set: Path, tmp_path: Path) -> None:
    run(data_set, tmp_path / "run", *LABELS_ALONE, "precise_bn.batches=0")
    model = read_trained(tmp_path / "run").model
    setup = setup_of(data_set, *LABELS_ALONE, "precise_bn.batches=20")
    assert setup.config.precise_bn.tg == "joint"  # what a recipe has if it does not say otherwise

    def accuracy(model: Model) -> float:
        views = EvalSettings(EvalProtocol(3, 1), "tg")
        return evaluate(model, setup, setup.videos("labelled"), views, ALONE).named()["top1@3x1"]

    running = accuracy(model)
    assert running > 0.9  # of six videos of three classes
    assert recompute_batch_norm(model, setup, ALONE).num_batches
    assert accuracy(model) >= running
