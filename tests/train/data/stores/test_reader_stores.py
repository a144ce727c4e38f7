"""Clips of every kind of store, pixel by pixel against `tarfile`, numpy and Pillow; and that nothing is decoded twice."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
from PIL import Image

from manifests.records import VideoRow
from manifests.sample import video_gop
from manifests.table import Manifest
from tests.prep.support import extract_videos, numbered, write_video
from tgtrain.data.clip import ClipPlan, ClipSettings, Gradient, plan_eval, plan_train
from tgtrain.data.reader import ClipReader, open_reader
from tgtrain.data.video_frames import GopDecoder
from tgtrain.randomness import sample_seed

Rgb = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Manifest]:
    """The same two videos with TG and flow stored, with TG derived, and as stored videos."""
    root = tmp_path_factory.mktemp("stores")
    for number in range(2):
        frames = [np.roll(numbered(k, 48, 72), 2 * k, axis=1) for k in range(40)]
        write_video(root / "videos" / "c" / f"v{number}.avi", frames, "png", "rgb24")
    options: dict[str, dict[str, Any]] = {
        "stored": {"flow": "dis"}, "derived": {"gradient": "derived"}, "video": {"store": "video", "gop": 8, "flow": "dis"},
    }  # fmt: skip
    return {name: extract_videos(root / "videos", root / name, **chosen).manifest for name, chosen in options.items()}


def reader_of(manifest: Manifest) -> ClipReader:
    return open_reader(manifest, manifest.videos.column("key"))


def members(manifest: Manifest, row: VideoRow, kind: str) -> list[Rgb]:
    """All pictures of a member as Pillow decodes them."""
    with tarfile.open(Path(manifest.root) / row.shard) as tar:
        index, content = (
            tar.extractfile(f"{row.key}.{kind}.{end}").read()  # type: ignore[union-attr]
            for end in ("offsets.npy", "mjpeg")
        )
    offsets = np.load(io.BytesIO(index)).tolist()
    return [np.asarray(Image.open(io.BytesIO(content[a:b]))) for a, b in zip(offsets[:-1], offsets[1:], strict=True)]


def cut(pictures: list[Rgb], frames: Iterable[int], plan: ClipPlan, side: int) -> Rgb:
    """What a training plan cuts out of these pictures."""
    box, found = plan.tg_boxes[0], []
    for frame in frames:
        part = pictures[frame][box.top : box.top + box.height, box.left : box.left + box.width]
        part = (
            part if part.shape[:2] == (side, side) else cv2.resize(part, (side, side), interpolation=cv2.INTER_LINEAR)
        )
        found.append(part[:, ::-1] if plan.tg_flip else part)
    return np.stack(found)


@pytest.mark.parametrize(
    ("gradient", "kind", "num_frames"), [("slow", "rgb", 5), ("flow", "flow", 4), ("fast", "tg", 4)]
)
def test_tg_view_of_a_jpeg_store_by_pixel(
    stores: dict[str, Manifest], gradient: Gradient, kind: str, num_frames: int
) -> None:
    """Slow TG comes as the raw frames whose differences it is; flow and TG as they are stored. Each beside the RGB frames."""
    manifest = stores["stored"]
    reader = reader_of(manifest)
    settings = ClipSettings(clip_frames=4, interval=3, size=32, gradient=gradient)
    for number in range(16):
        row = manifest.videos[number % 2]
        (plan,) = plan_train(row.num_frames, row.height, row.width, settings, sample_seed(0, 0, number, "k", 0))
        clip = reader.read(number % 2, plan)
        assert clip.tg is not None
        assert clip.tg.shape == (num_frames, 32, 32, 3)
        expected = cut(members(manifest, row, kind), plan.tg_frames, plan, 32)
        if kind == "flow" and plan.flip:  # what moves to the left moves to the right in the mirror
            expected[..., 2] = 255 - expected[..., 2]
        np.testing.assert_array_equal(clip.tg, expected)
        np.testing.assert_array_equal(clip.rgb, cut(members(manifest, row, "rgb"), plan.frames, plan, 32))


def wanted(plans: list[ClipPlan]) -> tuple[set[int], set[int]]:
    """The frames and the gradients of all views."""
    return {k for plan in plans for k in plan.frames}, {k for plan in plans for k in plan.tg_frames}


@pytest.mark.parametrize(
    ("store", "gradient"),
    [("stored", "fast"), ("stored", "flow"), ("stored", "slow"), ("derived", "fast"), ("derived", "slow")],
)
def test_frames_of_many_views_are_decoded_once(
    stores: dict[str, Manifest], store: str, gradient: Gradient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10 clips x 3 crops of RGB and the second view together."""
    decoded: list[bytes] = []
    decode = simplejpeg.decode_jpeg
    monkeypatch.setattr(
        simplejpeg, "decode_jpeg", lambda jpeg, *a, **kw: decoded.append(jpeg) or decode(jpeg, *a, **kw)
    )
    settings = ClipSettings(clip_frames=4, interval=3, size=32, gradient=gradient)
    plans = plan_eval(40, 48, 72, settings, num_clips=10, num_crops=3)
    reader_of(stores[store]).read_views(0, plans)
    frames, gradients = wanted(plans)
    if gradient == "slow":
        expected = len(frames | gradients)
    elif store == "derived":
        expected = len(frames | gradients | {k + 1 for k in gradients})
    else:
        expected = len(frames) + len(gradients)
    assert len(decoded) == expected
    assert len(set(decoded)) == expected
    assert expected < 2 * 4 * 10


@pytest.mark.parametrize("gradient", ["fast", "slow", "flow"])
def test_coded_pictures_are_decoded_once(
    stores: dict[str, Manifest], gradient: Gradient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no more of them than lead to a frame that is needed."""
    manifest = stores["video"]
    coded: list[int] = []
    given: list[int] = []
    decode = GopDecoder.decode

    def counted(self: GopDecoder, pictures: Any, *others: Any) -> Iterator[tuple[int, Any]]:
        pictures = ((coded.append(number), (number, content))[1] for number, content in pictures)
        for number, frame in decode(self, pictures, *others):
            given.append(number)
            yield number, frame

    monkeypatch.setattr(GopDecoder, "decode", counted)
    settings = ClipSettings(clip_frames=4, interval=3, size=32, gradient=gradient)
    plans = plan_eval(40, 48, 72, settings, num_clips=10, num_crops=3)
    reader_of(manifest).read_views(0, plans)
    frames, gradients = wanted(plans)
    needed = {"fast": frames | gradients | {k + 1 for k in gradients}, "slow": frames | gradients, "flow": frames}[
        gradient
    ]
    assert given == sorted(needed)
    gop = video_gop(manifest.header)
    assert gop == 8
    assert coded == sorted({k for frame in needed for k in range(frame - frame % gop, frame + 1)})
