"""Scores of a split: every view and video once, in any order of work, and what follows from them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from manifests.manifest_io import read_manifest
from manifests.records import InputError
from manifests.splits.label_split import read_split
from tgtrain.config import load_recipe
from tgtrain.data.clip import plan_eval
from tgtrain.data.setup import Setup, prepare
from tgtrain.evaluate.evaluate import EvalSettings, evaluate
from tgtrain.evaluate.results import EvalProtocol, Result, read_results, read_test_metrics, write_features, write_test
from tgtrain.method.augment.apply import normalise
from tgtrain.method.networks.model import ModelSettings, build_model
from tgtrain.ranks.distributed import Ranks

OVERRIDES = ("data.clip_frames=4", "data.interval=3", "data.size=32")
ALONE = Ranks(0, 1, torch.device("cpu"))
MODEL = ModelSettings(num_classes=3, depth=10, width=4)


def setup_of(root: Path) -> Setup:
    manifest = read_manifest(root)
    return prepare(str(root), read_split(root), manifest, load_recipe("demo", OVERRIDES, num_classes=3))


@pytest.mark.parametrize("modality", ["rgb", "tg", "both"])
@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_scores_are_the_mean_over_views_and_networks(data_set: Path, modality: str, average: str) -> None:
    setup, model = setup_of(data_set), build_model(MODEL, seed=1)
    places = setup.videos("test")
    result = evaluate(
        model, setup, places, EvalSettings(EvalProtocol(3, 3), modality=modality, average=average), ALONE,  # type: ignore[arg-type]
    )  # fmt: skip
    assert result.keys == tuple(setup.split.key[place] for place in places)
    model.eval()
    for row, place in enumerate(places):
        facts = setup.reader.index[place]
        plans = plan_eval(facts.num_frames, facts.height, facts.width, setup.clip, 3, 3)
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
    places = setup.videos("train")
    results = [
        evaluate(
            model,
            setup,
            places,
            EvalSettings(EvalProtocol(1, 1)),
            ALONE,
            workers=workers,
        )
        for workers in (0, 2)
    ]
    np.testing.assert_array_equal(results[0].scores, results[1].scores)
    assert results[0].named() == results[1].named()


def test_metric_names_carry_the_protocol_and_files_hold_them(data_set: Path, tmp_path: Path) -> None:
    setup, model = setup_of(data_set), build_model(MODEL)
    places = setup.videos("test")
    result = evaluate(model, setup, places, EvalSettings(EvalProtocol(2, 1)), ALONE)
    assert set(result.named()) == {"top1@2x1", "top5@2x1", "mean_class@2x1"}
    path = write_test(tmp_path, result, {"step": 3, "part": "test"})
    assert path.name == "test-2x1.json"
    facts = json.loads(path.read_text())
    assert facts["top1@2x1"] == pytest.approx(np.mean(result.scores.argmax(1) == result.labels))
    assert (facts["step"], facts["num_videos"], facts["protocol"]) == (3, 6, "2x1")
    assert np.array(facts["confusion"]).sum() == 6
    assert [entry["videos"] for entry in facts["per_class"]] == [2, 2, 2]
    table = pq.read_table(tmp_path / "test-2x1.parquet")
    assert table["key"].to_pylist() == list(result.keys)
    np.testing.assert_allclose(np.array(table["scores"].to_pylist()), result.scores)


def test_readers_return_what_was_written(data_set: Path, tmp_path: Path) -> None:
    setup, model = setup_of(data_set), build_model(MODEL)
    places = setup.videos("validation") or setup.videos("test")
    result = evaluate(model, setup, places, EvalSettings(EvalProtocol(1, 3), "tg"), ALONE)
    facts = {"checkpoint": "step-00000007.pt", "step": 7, "part": "validation", "average": "logits"}
    path = write_test(tmp_path, result, {**facts, "batch_norm": "measured for this test"})
    assert path.name == "test-1x3-tg-validation-precise-bn.json"
    problems: list[str] = []
    (read,) = read_results(tmp_path, problems)
    assert problems == []
    assert {name: getattr(read, name) for name in facts} == facts
    assert (read.protocol, read.modality, read.num_videos, read.num_views) == ("1x3", "tg", len(places), 3)
    assert read.metrics == {name: value for name, value in result.named().items() if not name.startswith("top5")}
    assert read.confusion is not None
    np.testing.assert_array_equal(read.confusion, result.confusion())
    assert [entry.key for entry in read.predictions] == list(result.keys)
    assert read_test_metrics(tmp_path) == {path.stem: {**result.named(), "step": 7.0}}
    path.write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        read_test_metrics(tmp_path)


def damage(root: Path, key: str) -> None:
    """Make a video of a data set unreadable."""
    victim = next(row for row in read_manifest(root).videos if row.key == key)
    shard = bytearray((root / victim.shard).read_bytes())
    shard[victim.members.rgb_index_offset] ^= 0xFF
    (root / victim.shard).write_bytes(shard)


@pytest.mark.parametrize("batch_views", [2, 7, 30])
@pytest.mark.parametrize("workers", [1, 2])
def test_views_that_wait_for_others_keep_their_pixels(
    make_data_set: Callable[..., Path], batch_views: int, workers: int
) -> None:
    """Though later videos take the memory of earlier ones, and damaged videos come between."""
    root = make_data_set()
    setup, model = setup_of(root), build_model(MODEL, seed=3)
    places = setup.videos("test")
    for place in places[1:3]:
        damage(root, setup.split.key[place])
    shown = [places[number] for number in (0, 1, 1, 2, 1, 2, 3, 4, 5, 0, 3, 1, 1, 1, 4, 5, 4, 3, 0, 2, 2, 5)]
    settings = EvalSettings(EvalProtocol(3, 1), "both", batch_views=batch_views)
    expected = evaluate(model, setup, shown, settings, ALONE)
    hook = model.head_rgb.register_forward_pre_hook(lambda module, inputs: time.sleep(0.1))  # type: ignore[union-attr]
    found = evaluate(
        model, setup, shown, settings, ALONE, workers=workers
    )  # the processes read as far ahead as they may
    hook.remove()
    np.testing.assert_array_equal(found.scores, expected.scores)
    assert found.keys == expected.keys
    assert len(found.bad) == 10


def test_a_damaged_video_is_left_out_by_name(make_data_set: Callable[..., Path]) -> None:
    root = make_data_set()
    setup, model = setup_of(root), build_model(MODEL)
    places = setup.videos("test")
    victim = setup.split.key[places[0]]
    damage(root, victim)
    result = evaluate(model, setup, places, EvalSettings(EvalProtocol(1, 1)), ALONE)
    assert len(result.keys) == 5
    assert victim not in result.keys
    assert victim in result.bad[0]


def test_the_mode_of_the_model_is_given_back(data_set: Path) -> None:
    setup, model = setup_of(data_set), build_model(MODEL)
    model.train()
    places = setup.videos("test")[:1]
    evaluate(model, setup, places, EvalSettings(EvalProtocol(1, 1)), ALONE)
    assert model.training


@pytest.mark.parametrize("batch_views", [1, 2, 5, 7, 1000])
def test_views_of_several_videos_go_through_together_in_bounded_chunks(data_set: Path, batch_views: int) -> None:
    setup, model = setup_of(data_set), build_model(MODEL, seed=2)
    places = setup.videos("test")
    sizes: list[int] = []
    hook = model.head_rgb.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))  # type: ignore[union-attr]
    result = evaluate(model, setup, places, EvalSettings(EvalProtocol(3, 1), batch_views=batch_views), ALONE)
    hook.remove()
    assert max(sizes) <= batch_views
    assert sum(sizes) == 3 * len(places)
    videos_together = max(1, batch_views // 3)
    assert len(sizes) == -(-len(places) // videos_together) * -(-3 // min(3, batch_views))
    plain = evaluate(model, setup, places, EvalSettings(EvalProtocol(3, 1), batch_views=3), ALONE)
    np.testing.assert_allclose(result.scores, plain.scores, rtol=1e-5, atol=1e-6)
    assert result.keys == plain.keys


def test_features_are_the_pooled_last_stage_averaged_over_views(data_set: Path, tmp_path: Path) -> None:
    setup, model = setup_of(data_set), build_model(MODEL, seed=3)
    places = setup.videos("test")
    result = evaluate(
        model, setup, places, EvalSettings(EvalProtocol(2, 1), modality="both", features=True), ALONE)  # fmt: skip
    model.eval()
    facts = setup.reader.index[places[1]]
    clips = setup.reader.read_views(places[1], plan_eval(facts.num_frames, facts.height, facts.width, setup.clip, 2, 1))
    with torch.no_grad():
        rows = [
            model.backbone("tg")(normalise(torch.from_numpy(clip.tg)[None]))[-1].mean((2, 3, 4))[0] for clip in clips
        ]
    assert result.tg_features is not None
    np.testing.assert_allclose(result.tg_features[1], torch.stack(rows).mean(0).numpy(), rtol=1e-4, atol=1e-5)
    write_features(tmp_path / "features.parquet", result, {"step": 4})
    table = pq.read_table(tmp_path / "features.parquet")
    assert table.column_names == ["key", "label", "class_name", "rgb_features", "tg_features"]
    assert {len(row) for row in table["rgb_features"].to_pylist()} == {32}
    told = json.loads(table.schema.metadata[b"tgtrain"])
    assert (told["step"], told["protocol"], told["modality"], told["classes"][0]) == (4, "2x1", "both", "class0")
    alone = evaluate(model, setup, places, EvalSettings(EvalProtocol(2, 1), features=True), ALONE)
    assert alone.tg_features is None


def test_confusions_are_counted_most_frequent_first() -> None:
    result = Result(
        EvalProtocol(1, 1), "rgb", ("a", "b", "c"), tuple("123456"), np.array([0, 0, 0, 1, 1, 2]),
        np.eye(3, dtype=np.float32)[[1, 1, 0, 2, 1, 0]], (),
    )  # fmt: skip
    assert result.top_confusions(2) == [("a", "b", 2, 3), ("b", "c", 1, 2)]
    assert len(result.top_confusions(9)) == 3


_SHARED_WORK = """
import json, sys, torch
from pathlib import Path
sys.path[:0] = [{tests!r}]
from manifests.splits.label_split import read_split
from manifests.manifest_io import read_manifest
from tgtrain.config import load_recipe
from tgtrain.ranks.distributed import process_group
from tgtrain.evaluate.results import EvalProtocol
from tgtrain.evaluate.evaluate import EvalSettings, evaluate
from tgtrain.method.networks.model import ModelSettings, build_model
from tgtrain.data.setup import prepare
root = {root!r}
setup = prepare(root, read_split(root), read_manifest(root), load_recipe("demo", {overrides!r}, num_classes=3))
places = setup.videos("train")[:7]  # 7 videos on 3 processes
with process_group("cpu") as ranks:
    done = []
    result = evaluate(
        build_model(ModelSettings(num_classes=3, depth=10, width=4), seed=1), setup, places,
        EvalSettings(EvalProtocol(2, 1)), ranks,
        on_progress=lambda number, total: done.append(total),
    )
    Path({out!r}, f"rank{{ranks.rank}}.json").write_text(json.dumps(
        [result.keys, result.named(), result.scores.tolist(), len(done)]))
"""


def test_ranks_share_the_work_and_every_video_counts_once(data_set: Path, tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(
        _SHARED_WORK.format(
            tests=str(Path(__file__).parents[1]), root=str(data_set), out=str(tmp_path), overrides=OVERRIDES
        ),
        encoding="utf-8",
    )
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3", str(script)],
        check=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    setup = setup_of(data_set)
    places = setup.videos("train")[:7]
    alone = evaluate(build_model(MODEL, seed=1), setup, places, EvalSettings(EvalProtocol(2, 1)), ALONE)
    told = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(3)]
    assert [each[3] for each in told] == [3, 2, 2]
    for keys, named, scores, _ in told:  # every rank knows the whole result
        assert tuple(keys) == alone.keys
        assert named == alone.named()
        np.testing.assert_allclose(scores, alone.scores, rtol=1e-5, atol=1e-6)
