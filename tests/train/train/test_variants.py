"""Every kind of method and model runs end to end: steps, evaluation, checkpoint, all terms logged and finite."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from manifests.manifest_io import read_manifest
from manifests.splits.label_split import read_split
from tgtrain.config import load_recipe
from tgtrain.data.setup import prepare
from tgtrain.ranks.distributed import Ranks
from tgtrain.train.trainer import train

ALONE = Ranks(0, 1, torch.device("cpu"))
SMALL = (
    "data.clip_frames=4", "data.interval=2", "data.size=32", "data.test_size=32", "batch.labelled=4", "model.width=4",
    "batch.unlabelled=4", "optimiser.epochs=1", "optimiser.warmup_epochs=0", "method.warmup_epochs=0",
    "method.threshold=0.01", "precise_bn.batches=1", "evaluate.every_epochs=0", "runtime.log_every=1",
    "runtime.workers=0",
)  # fmt: skip
R3D = ("model.depth=10",)
CLIPS = ("method.clips_per_video=2",)
TWO = {"loss/supervised_rgb", "loss/supervised_tg", "loss/pseudo_rgb", "loss/pseudo_tg"}
ONE = {"loss/supervised_rgb", "loss/pseudo_rgb"}
ALIGN = {f"loss/align_stage{stage}" for stage in (1, 2, 3, 4)}
CONTRAST = {"loss/contrast_crossview_sameclip"}

CASES = {
    "ltg": ("ucf101-20", R3D, TWO | ALIGN | CONTRAST),
    "shared head": ("ucf101-20-sharedhead", R3D, TWO | ALIGN | CONTRAST),
    "slow TG": ("ucf101-20-slowtg-nopbn", R3D, TWO | ALIGN),
    "align at one stage, L1": ("ucf101-20-align3", (*R3D, "method.align_loss=l1"), TWO | {"loss/align_stage4"}),
    "align by L2, nobody stopped": ("ucf101-20-align-l2", (*R3D, "method.stop_gradient=none"), TWO | ALIGN),
    "each view labels itself": ("ucf101-20-pl-rgb", (*R3D, "method.pseudo_label_metric=individual"), TWO | ALIGN),
    "contrast only": ("ucf101-20-contrast-only", R3D, TWO | CONTRAST),
    "fixmatch": ("ucf101-20-fixmatch-tau0.95", R3D, ONE),
    "fixmatch, weak views apart": ("ucf101-20-fixmatch", (*R3D, "method.weak_forward=apart"), ONE),
    "uda": ("ucf101-20-fixmatch", (*R3D, "method.method=uda"), ONE),
    "uda as in the reference": (
        "ucf101-20-fixmatch", (*R3D, "method.method=uda", 'compat.quirks=["uda_gradient"]'), ONE,
    ),
    "mvpl": ("ucf101-10-mvpl", ("batch.labelled=2", "batch.unlabelled=8"), TWO),
    "slowonly fixmatch": ("ucf101-10-slowonly-fixmatch", ("batch.labelled=2", "batch.unlabelled=8"), ONE),
    "supervised": ("hmdb51-40-supervised", R3D, {"loss/supervised_rgb"}),
    "supervised, strong": ("k400-1-supervised-strong", R3D, {"loss/supervised_rgb"}),
    "tg alone": (
        "ucf101-20-fixmatch", (*R3D, "model.streams=tg"), {"loss/supervised_tg", "loss/pseudo_tg"},
    ),
    "shared geometry": ("ucf101-20", (*R3D, "augment.shared_geometry=true"), TWO | ALIGN | CONTRAST),
    "contrast across clips": (
        "ucf101-20", (*R3D, *CLIPS, 'method.contrast=["crossview"]'), TWO | ALIGN | {"loss/contrast_crossview"},
    ),
    "contrast within views": (
        "ucf101-20", (*R3D, *CLIPS, 'method.contrast=["rgb", "tg"]', "data.clip_spread=uniform"),
        TWO | ALIGN | {"loss/contrast_rgb", "loss/contrast_tg"},
    ),
    "contrast within RGB, shared head, slow TG": (
        "ucf101-20-slowtg-nopbn",
        (*R3D, *CLIPS, 'method.contrast=["rgb", "crossview_sameclip"]', "model.projection=shared"),
        TWO | ALIGN | CONTRAST | {"loss/contrast_rgb"},
    ),
    "three clips a video, precise statistics of training clips": (
        "ucf101-20", (*R3D, "method.clips_per_video=3", "precise_bn.clips=training"), TWO | ALIGN | CONTRAST,
    ),
    "two clips a video, strong labelled views, MvPL operations": (
        "ucf101-20-fixmatch", (*R3D, *CLIPS, "augment.labelled=strong", "augment.operations=mvpl"), ONE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_variant_trains(data_set: Path, tmp_path: Path, case: str) -> None:
    recipe, changes, terms = CASES[case]
    config = load_recipe(recipe, [*SMALL, *changes], num_classes=3)
    setup = prepare(str(data_set), read_split(data_set), read_manifest(data_set), config)
    outcome = train(setup, tmp_path / "run", ALONE, log=lambda text: None, max_steps=2)
    assert outcome.step == min(2, outcome.num_steps)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    first = next(record for record in map(json.loads, lines) if record["kind"] == "train")
    assert {name for name in first if name.startswith("loss/")} == terms | {"loss/total"}
    assert all(math.isfinite(value) for value in first.values() if isinstance(value, float))
    assert first["loss/total"] == pytest.approx(sum(first[name] for name in terms), rel=1e-4)
    assert {"grad_norm", "learning_rate", "clips_per_second", "waiting_share", "memory_mb"} <= first.keys()
    if "supervised" not in case:
        assert {"train/mask_fraction", "train/num_selected", "train/num_correct"} <= first.keys()
