"""Custom decoders: their frames are scaled, their planes brought to the form that was requested."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tgprep.decode import DecodedVideo, DecodeError, Picture, Planes
from tgprep.decode.open import decoder_versions, open_video

SELF = f"{__name__}:"
ODD = np.full((31, 41, 3), 100, np.uint8)
LIMITED = Planes(
    np.array([[16, 235], [126, 16]], np.uint8), np.array([[240]], np.uint8), np.array([[16]], np.uint8), limited=True
)


def open_rgb(path: Path) -> DecodedVideo:
    return DecodedVideo(frames=iter([ODD]))


def open_planes(path: Path) -> DecodedVideo:
    def frames() -> Iterator[Picture]:
        yield LIMITED

    return DecodedVideo(frames=frames())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "a.mp4").write_bytes(b"x")
    return tmp_path / "a.mp4"


def test_rgb_frames_are_scaled(file: Path) -> None:
    for short_side, shape in ((0, (31, 41, 3)), (15, (15, 19, 3)), (100, (31, 41, 3))):
        (frame,) = open_video(file, decoder=SELF + "open_rgb", space="rgb", short_side=short_side).frames
        assert isinstance(frame, np.ndarray)
        assert frame.shape == shape


def test_planes_become_those_of_jpeg_files(file: Path) -> None:
    (coded,) = open_video(file, decoder=SELF + "open_planes", space="ycbcr420", short_side=0, as_coded=True).frames
    assert coded is LIMITED
    (planes,) = open_video(file, decoder=SELF + "open_planes", space="ycbcr420", short_side=0).frames
    assert isinstance(planes, Planes)
    assert not planes.limited
    # 16..235 (chroma 16..240) to 0..255: (126 - 16) * 255 / 219 = 128.1
    assert [plane.tolist() for plane in (planes.y, planes.cb, planes.cr)] == [[[0, 255], [128, 0]], [[255]], [[1]]]


def test_planes_are_not_scaled(file: Path) -> None:
    video = open_video(file, decoder=SELF + "open_planes", space="ycbcr420", short_side=1)
    with pytest.raises(DecodeError, match="--short-side scales RGB frames only"):
        list(video.frames)


def test_versions_name_the_module() -> None:
    assert decoder_versions(SELF + "open_rgb") == {__name__: ""}
    assert decoder_versions("opencv").keys() == {"cv2"}
    assert decoder_versions("pyav").keys() == {"av", "libavcodec", "libswscale"}
    with pytest.raises(ImportError, match="no function named behind the colon"):
        decoder_versions(SELF)
    with pytest.raises(ImportError, match="no function open_nothing"):
        decoder_versions(SELF + "open_nothing")
