"""Scores of a split: every view and video once, in any order of work, and what follows from them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from manifests.splits import read_split
from manifests.store import read_manifest
from tgtrain.augment import normalise
from tgtrain.clip import ClipSettings, plan_eval
from tgtrain.config import load_recipe
from tgtrain.distributed import Ranks
from tgtrain.evaluate import Views, evaluate, write_predictions, write_result
from tgtrain.model import ModelSettings, build_model
from tgtrain.run import Setup, prepare

CLIP = ClipSettings(clip_len=4, interval=3, input_size=32)
ALONE = Ranks(0, 1, torch.device("cpu"))
MODEL = ModelSettings(num_classes=3, depth=10, width=4)


def setup_of(root: Path) -> Setup:
    manifest = read_manifest(root)
    return prepare(str(root), read_split(root), manifest, load_recipe("demo", num_classes=3))


@pytest.mark.parametrize("modality", ["rgb", "tg", "both"])
@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_scores_are_the_mean_over_views_and_networks(data_set: Path, modality: str, average: str) -> None:
    setup, model = setup_of(data_set), build_model(MODEL, seed=1)
    places = setup.places("test")
    result = evaluate(
        model, setup.reader, places, setup.labels(places), setup.classes, CLIP, Views(3, 3), ALONE,
        modality=modality, average=average,  # type: ignore[arg-type]
    )  # fmt: skip
    assert result.keys == tuple(setup.split.key[place] for place in places)
    model.eval()
    for row, place in enumerate(places):
        facts = setup.reader.places[place]
        plans = plan_eval(facts.num_frames, facts.height, facts.width, CLIP, 3, 3)
        scores = []
        for plan in plans:  # one clip and one crop at a time
            for clip in setup.reader.read_views(place, [plan]):
                for name, pixels in (("rgb", clip.rgb), ("tg", clip.tg)):
                    if modality in (name, "both"):
                        assert pixels is not None
                        with torch.no_grad():
                            output = model(**{name: normalise(torch.from_numpy(pixels)[None])})
                        logits = (output.rgb if name == "rgb" else output.tg).logits_BK[0]  # type: ignore[union-attr]
                        scores.append(logits.softmax(0) if average == "probabilities" else logits)
        assert len(scores) == 9 * (2 if modality == "both" else 1)
        np.testing.assert_allclose(result.scores[row], torch.stack(scores).mean(0).numpy(), rtol=1e-4, atol=1e-5)


def test_workers_do_not_change_scores(data_set: Path) -> None:
    setup, model = setup_of(data_set), build_model(MODEL)
    places = setup.places("train")
    results = [
        evaluate(
            model, setup.reader, places, setup.labels(places), setup.classes, CLIP, Views(1, 1), ALONE, workers=workers
        )
        for workers in (0, 2)
    ]
    np.testing.assert_array_equal(results[0].scores, results[1].scores)
    assert results[0].named() == results[1].named()


def test_metric_names_carry_the_protocol_and_files_hold_them(data_set: Path, tmp_path: Path) -> None:
    setup, model = setup_of(data_set), build_model(MODEL)
    places = setup.places("test")
    result = evaluate(model, setup.reader, places, setup.labels(places), setup.classes, CLIP, Views(2, 1), ALONE)
    assert set(result.named()) == {"top1@2x1", "top5@2x1", "mean_class@2x1"}
    write_result(tmp_path / "test.json", result, {"step": 3})
    facts = json.loads((tmp_path / "test.json").read_text())
    assert facts["top1@2x1"] == pytest.approx(np.mean(result.scores.argmax(1) == result.labels))
    assert (facts["step"], facts["num_videos"], facts["protocol"]) == (3, 6, "2x1")
    assert np.array(facts["confusion"]).sum() == 6
    assert [entry["videos"] for entry in facts["per_class"]] == [2, 2, 2]
    write_predictions(tmp_path / "test.parquet", result)
    table = pq.read_table(tmp_path / "test.parquet")
    assert table["key"].to_pylist() == list(result.keys)
    np.testing.assert_allclose(np.array(table["scores"].to_pylist()), result.scores)


def test_a_damaged_video_is_left_out_by_name(make_data_set: Callable[..., Path]) -> None:
    root = make_data_set()
    setup, model = setup_of(root), build_model(MODEL)
    places = setup.places("test")
    victim = next(row for row in read_manifest(root).videos if row.key == setup.split.key[places[0]])
    shard = bytearray((root / victim.shard).read_bytes())
    shard[victim.members.rgb_index_offset] ^= 0xFF
    (root / victim.shard).write_bytes(shard)
    result = evaluate(model, setup.reader, places, setup.labels(places), setup.classes, CLIP, Views(1, 1), ALONE)
    assert len(result.keys) == 5
    assert victim.key not in result.keys
    assert victim.key in result.bad[0]


def test_the_mode_of_the_model_is_given_back(data_set: Path) -> None:
    setup, model = setup_of(data_set), build_model(MODEL)
    model.train()
    places = setup.places("test")[:1]
    evaluate(model, setup.reader, places, setup.labels(places), setup.classes, CLIP, Views(1, 1), ALONE)
    assert model.training
