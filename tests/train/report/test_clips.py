"""The pictures of the report page, from a real data set."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from manifests.manifest_io import read_manifest
from manifests.splits.label_split import make_split, read_split, write_split
from manifests.splits.settings import SplitSettings
from tests.prep.support import extract_videos
from tests.train.report.pages import Parsed, parse, write_run, write_test
from tgtrain.config import load_recipe
from tgtrain.data.clip import plan_eval
from tgtrain.data.reader import open_reader
from tgtrain.data.setup import clip_settings
from tgtrain.report.page import write_report


def moving_frames() -> Iterator[np.ndarray]:
    for index in range(40):
        frame = np.full((48, 64, 3), 60, np.uint8)
        frame[16:32, index : index + 16] = (240, 240, 240)
        yield frame


def still_frames() -> Iterator[np.ndarray]:
    frame = np.zeros((48, 64, 3), np.uint8)
    frame[:, :32] = (220, 30, 30)
    frame[:, 32:] = (30, 30, 220)
    for _ in range(40):
        yield frame


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real data set, extracted from real video files: 2 classes with 3 train and 2 test videos each."""
    base = tmp_path_factory.mktemp("data")
    for class_name, frames in (("Moving", moving_frames), ("Still", still_frames)):
        for subset, count in (("train", 3), ("test", 2)):
            for number in range(count):
                path = base / "videos" / subset / class_name / f"{subset}{number}.avi"
                path.parent.mkdir(parents=True, exist_ok=True)
                with av.open(str(path), "w") as container:
                    stream = container.add_stream("mpeg4", rate=Fraction(25), options={"q:v": "2"})
                    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
                    stream.codec_context.thread_count = 1
                    for frame in frames():
                        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
                    container.mux(stream.encode())
    videos, out = base / "videos", base / "dataset"
    extract_videos(videos, out, flow="dis")
    write_split(out, make_split(read_manifest(out), SplitSettings(percent=50, name="half")))
    return out


@pytest.fixture
def real_run(tmp_path: Path, data: Path) -> Path:
    """A run on the real data set, tested: one of the two Still videos is taken for Moving."""
    keys = read_split(data, "half").keys_of("test")
    assert [key.split("/")[0] for key in keys] == ["Moving", "Moving", "Still", "Still"]
    digest = read_manifest(data).digest
    apart = ("data.interval=8",)
    folder = write_run(tmp_path / "run", root=str(data), digest=digest, split="half", overrides=apart)
    write_test(folder, [[2, 0], [1, 1]], keys=keys)
    return folder


def sheets(page: Parsed, side: int = 112) -> list[tuple[str, list[np.ndarray]]]:
    """The text and the frames of each moving picture: two of a clip, RGB and what moves; of examples 112 pixels high, of errors 80."""
    found = []
    for image in page.images:
        kind, _, content = image["src"].partition(",")
        assert kind == "data:image/webp;base64"
        decoded = cv2.imdecode(np.frombuffer(base64.b64decode(content), np.uint8), cv2.IMREAD_COLOR)
        assert decoded is not None
        if len(decoded) == side:
            frames = np.split(np.asarray(decoded[..., ::-1], np.float64), decoded.shape[1] // side, axis=1)
            found.append((image["alt"], frames))
    return found


def test_example_clips_show_the_videos(real_run: Path) -> None:
    page = parse(write_report([real_run]))
    assert all(image["alt"] for image in page.images)
    clips = sheets(page)
    assert len(clips) == 8  # all four test videos: fewer than the page has room for
    assert [text.split(" of ")[0] for text, _ in clips[:2]] == ["RGB clip", "TG clip"]
    # The centre clip: 8 frames 8 apart span 64, more than the 40 there are, so they wrap around.
    assert "frames 0, 8, 16, 24, 32, 0, 8, 16 of 40" in page.words
    motion, still, nothing = clips[1][1], clips[4][1], clips[5][1]
    for frame in still:
        assert frame.shape == (112, 112, 3)
        np.testing.assert_allclose(frame[56, 20], (220, 30, 30), atol=20)
        np.testing.assert_allclose(frame[56, 92], (30, 30, 220), atol=20)
    for frame in nothing:
        np.testing.assert_allclose(frame, 127, atol=4)  # nothing moves
    # Frame 0 to 1: the square moves right. Its old left edge was brighter (TG above 127), its new right edge is darker.
    # The 64-pixel wide picture is cut to the middle 48 columns and shown 112 / (48 * 112 / 128) times as large.
    assert motion[0].max() > 180 or motion[3].max() > 180
    brighter = np.argwhere(motion[3][56, :, 0] > 160).mean()
    darker = np.argwhere(motion[3][56, :, 0] < 95).mean()
    assert brighter < darker


@pytest.mark.parametrize("gradient", ["fast", "slow", "flow"])
def test_clips_show_the_clip_that_the_run_reads(data: Path, tmp_path: Path, gradient: str) -> None:
    override = (f"data.gradient={gradient}",)
    digest = read_manifest(data).digest
    folder = write_run(tmp_path / "run", root=str(data), digest=digest, split="half", overrides=override)
    shown = [frame for _, frames in sheets(parse(write_report([folder])))[:2] for frame in frames]
    # What the trainer gets from the reader, at the size of the strip.
    settings = replace(clip_settings(load_recipe("demo", override, num_classes=2)), size=112)
    reader = open_reader(read_manifest(data), read_split(data, "half").keys_of("test")[:1])
    stored = reader.index[0]
    clip = reader.read(0, plan_eval(stored.num_frames, stored.height, stored.width, settings)[0])
    reader.close()
    assert clip.tg is not None
    expected = clip.tg.astype(np.float64)
    if gradient == "slow":  # the raw frames, which the step subtracts
        expected = (expected[1:] - expected[:-1] + 255) / 2
    assert len(expected) == 8
    for image, frame in zip(shown, [*clip.rgb, *expected], strict=True):
        assert np.abs(image - frame).mean() < 4  # WebP quality 75


def test_predictions_and_errors_come_with_clips(real_run: Path, data: Path) -> None:
    page = parse(write_report([real_run]))
    keys = read_split(data, "half").keys_of("test")
    for key in keys:
        assert key in page.words
    assert page.words.count("✓ right") == 3
    assert page.words.count("✗ taken for Moving") == 1
    # The order of the confusion matrix: the wrongly taken one is the first of the two Still videos.
    errors = sheets(page, 80)
    assert [text for text, _ in errors] == [f"RGB clip of {keys[2]}", f"TG clip of {keys[2]}"]
    assert "Errors 1 of 4 test videos, as clips" in page.words
    assert f"Still taken for Moving {keys[2]}" in page.words
    np.testing.assert_allclose(errors[0][1][0][40, 14], (220, 30, 30), atol=20)


def test_errors_beyond_the_bounds_are_listed_then_counted(
    real_run: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_test(real_run, [[0, 2], [2, 0]], keys=read_split(data, "half").keys_of("test"))
    monkeypatch.setattr("tgtrain.report.clips.MAX_ERRORS", 1)
    monkeypatch.setattr("tgtrain.report.clips.MAX_LISTED", 2)
    page = parse(write_report([real_run]))
    assert len(sheets(page, 80)) == 2
    assert "The first 1 of 4 videos with a wrong answer" in page.words
    assert "2 more without pictures" in page.words
    assert "1 more are left out" in page.words


def test_compared_runs_show_the_prediction_of_each(real_run: Path, data: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", root=str(data), digest=read_manifest(data).digest, split="half")
    write_test(other, [[0, 2], [0, 2]], keys=read_split(data, "half").keys_of("test"))
    words = parse(write_report([real_run, other], tmp_path / "page.html")).words
    assert words.count("other: ✗ taken for Still") == 2
    assert words.count("run: ✓ right") == 3


def test_missing_data_set_is_reported_on_the_page(run: Path) -> None:
    page = parse(write_report([run]))
    assert "There are no pictures, because the run’s data set cannot be read where it was." in page.words
    assert "/nowhere/data" in page.words
    assert not page.images


def test_data_set_that_has_changed_is_not_shown(data: Path, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", root=str(data), digest="0" * 64, split="half")
    page = parse(write_report([folder]))
    assert "is not the one of the run any more" in page.words
    assert not page.images


def test_damaged_video_is_left_out_and_reported(real_run: Path, data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    row = next(row for row in read_manifest(copy).videos if row.key.startswith("Moving/test0"))
    with (copy / row.shard).open("r+b") as shard:
        shard.seek(row.members.rgb_offset)
        shard.write(b"\0" * row.members.rgb_bytes)
    facts = json.loads((real_run / "config.json").read_text())
    facts["data"]["root"] = str(copy)
    (real_run / "config.json").write_text(json.dumps(facts))
    page = parse(write_report([real_run]))
    assert len(sheets(page)) == 2 * 3
    assert f"1 clips could not be read: {row.key}" in page.words


def test_without_its_split_the_tested_videos_are_shown(real_run: Path, data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    (copy / "splits" / "half.parquet").unlink()
    facts = json.loads((real_run / "config.json").read_text())
    facts["data"]["root"] = str(copy)
    (real_run / "config.json").write_text(json.dumps(facts))
    assert len(sheets(parse(write_report([real_run])))) == 2 * 4
    (real_run / "test-10x3.parquet").unlink()
    page = parse(write_report([real_run]))
    assert "No split half" in page.words
    assert not page.images


def test_a_store_that_is_gone_while_clips_are_read_leaves_the_page(
    real_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is a folder here, whose reads fail from the second clip on."""
    from tgtrain.report import clips

    given = clips._clip
    keys: list[str] = []

    def clip(reader: Any, video: int, *how: Any) -> Any:
        keys.append(reader.index[video].key)
        if len(keys) > 1:
            raise OSError("the store does not answer")
        return given(reader, video, *how)

    monkeypatch.setattr(clips, "_clip", clip)
    page = parse(write_report([real_run]))
    assert "the store does not answer (the other videos were not read)" in page.words
    assert len(keys) == 2
