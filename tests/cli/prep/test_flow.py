"""Training, testing and answering with optical flow in place of TG, and alone, on a real data set."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from cli.prep import main as tgprep
from cli.train import main as tgtrain
from manifests.manifest_io import read_manifest
from tgprep.encode.flow import flow_picture
from tgtrain.data.clip import ClipSettings, plan_train
from tgtrain.data.reader import open_reader

TRAINING = (
    "optimiser.epochs=1", "batch.labelled=4", "batch.unlabelled=4", "data.size=48", "evaluate.every_epochs=1",
    "precise_bn.batches=1", "runtime.workers=0", "data.gradient=flow",
)  # fmt: skip


def call(main: Any, *words: object, expected: int = 0) -> Any:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == expected, done.output + (str(done.exception) if done.exception else "")
    return done


def sets(*texts: str) -> list[str]:
    return [word for text in texts for word in ("--set", text)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("flow")
    call(tgprep, "sample", root / "videos", "--num-classes", 2, "--num-groups", 4, "--clips-per-group", 1)
    call(tgprep, "extract", root / "videos", root / "dataset", "--threads", 1, "--flow", "dis")
    call(tgprep, "split", root / "dataset", "--percent", 50, "--strategy", "stratified")
    return root


def test_a_run_on_flow_is_tested_and_answers_for_raw_videos(folder: Path, tmp_path: Path) -> None:
    run = folder / "run"
    call(tgtrain, "run", folder / "dataset", "--recipe", "demo", "--out", run, *sets(*TRAINING))
    scores = tmp_path / "scores.parquet"
    call(tgtrain, "test", run, "--views", "2x1", "--modality", "tg", "--predictions", scores)
    tested = {row["key"].split("/")[1]: np.array(row["scores"]) for row in pq.read_table(scores).to_pylist()}
    paths = [path for path in (folder / "videos").rglob("*.avi") if path.stem in tested]
    assert paths
    done = call(tgtrain, "predict", run, *paths, "--views", "2x1", "--modality", "tg", "--json", "--workers", 1)
    for answer in json.loads(done.stdout)["videos"]:
        stored = tested[Path(answer["video"]).stem]
        found = {entry["label"]: entry["score"] for entry in answer["top"]}
        # The stored flow went through JPEG, and is of planes and not of RGB frames.
        np.testing.assert_allclose([found[0], found[1]], stored, atol=0.25 * float(np.ptp(stored)) + 0.1)


def test_flow_of_a_mirrored_scene_is_the_mirrored_flow_with_its_x_turned_around() -> None:
    """The rule that the reader uses, by the extractor's own arithmetic on a field that reaches both ends of the scale."""
    rng = np.random.default_rng(3)
    flow = rng.uniform(-20, 20, (40, 60, 2)).astype(np.float32)
    flow[0, 0], flow[0, 1] = (-20, -20), (20, 20)
    mirrored = np.ascontiguousarray(flow[:, ::-1] * np.array([-1, 1], np.float32))
    expected = flow_picture(mirrored).astype(int)
    found = flow_picture(flow)[:, ::-1].astype(int)
    found[..., 2] = 255 - found[..., 2]
    np.testing.assert_allclose(found[..., 1:], expected[..., 1:], atol=2)  # 8 bits are cut off, not rounded
    np.testing.assert_allclose(found[..., 0], expected[..., 0], atol=4)  # of two of them, and stretched
    still = flow_picture(np.full((4, 4, 2), 5, np.float32))
    assert not still.any()


@pytest.mark.parametrize("keeps", [False, True])
def test_a_mirrored_clip_of_flow(folder: Path, keeps: bool) -> None:
    root = folder / "dataset"
    manifest = read_manifest(root)
    reader = open_reader(manifest, [row.key for row in manifest.videos if row.status == "written"])
    place = reader.index[0]
    settings = ClipSettings(clip_frames=4, interval=2, gradient="flow", size=48, flow_flip_keeps_x=keeps)
    (plan,) = plan_train(place.num_frames, place.height, place.width, settings, np.random.default_rng(1))
    straight, turned = (reader.read(0, replace(plan, flip=flip, tg_flip=flip)) for flip in (False, True))
    reader.close()
    np.testing.assert_array_equal(turned.rgb, straight.rgb[:, :, ::-1])
    expected = straight.tg[:, :, ::-1].copy()
    assert np.ptp(expected[..., 2]) > 100
    if not keeps:
        expected[..., 2] = 255 - expected[..., 2]
    np.testing.assert_array_equal(turned.tg, expected)


def test_flow_alone(folder: Path) -> None:
    run = folder / "alone"
    alone = (
        "model.streams=tg", "model.projection=none", "method.method=fixmatch", "method.align_stages=[]",
        "method.contrast=[]", "method.labelled_weight=1.0", "method.unlabelled_weight=1.0",
    )  # fmt: skip
    call(tgtrain, "run", folder / "dataset", "--recipe", "demo", "--out", run, *sets(*TRAINING, *alone))
    result = json.loads(call(tgtrain, "test", run, "--views", "1x1", "--json").stdout)
    assert result["num_videos"] > 0
    assert 0 <= result["top1@1x1"] <= 1


def test_a_data_set_without_flow_is_refused_before_the_start(folder: Path, tmp_path: Path) -> None:
    call(tgprep, "extract", folder / "videos", tmp_path / "plain", "--threads", 1)
    call(tgprep, "split", tmp_path / "plain", "--percent", 50, "--strategy", "stratified")
    refused = call(
        tgtrain, "run", tmp_path / "plain", "--recipe", "demo", "--out", tmp_path / "run", *sets(*TRAINING), expected=2
    )
    assert "data.gradient is flow, and" in refused.stderr
    assert "--flow dis" in refused.stderr
    assert not (tmp_path / "run").exists()
