"""Stored frames and gradients against the decoder's frames and the formula, and every reason to fail a video."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from math import floor
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
from av.video.reformatter import Colorspace, Interpolation

from manifests.gradient import temporal_gradient, temporal_gradient_chroma
from manifests.records import SourceVideo
from manifests.sample import EncodedVideo, FrameSpool
from tests.prep.conftest import moving_square, write_video
from tests.prep.test_decode import Rgb, decoded, psnr, to_rgb
from tgprep.config import ExtractSettings
from tgprep.decode import DecodeError, Planes
from tgprep.encode import VideoFacts, encode_video, gradient_of
from tgprep.planes import full_range


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def source(path: Path) -> SourceVideo:
    return SourceVideo("class/video", path.name, "class", 0)


def encode(path: Path, settings: ExtractSettings, stack: ExitStack) -> tuple[EncodedVideo, VideoFacts]:
    return encode_video(source(path), path, settings, path.parent, stack)


def frames_of(spool: FrameSpool | None) -> list[Rgb]:
    assert spool is not None
    spool.file.seek(0)
    data = spool.file.read()
    return [
        simplejpeg.decode_jpeg(data[a:b], colorspace="RGB")
        for a, b in zip(spool.offsets, spool.offsets[1:], strict=False)
    ]


def published_gradient(previous: Rgb, following: Rgb) -> Rgb:
    return ((previous.astype(np.float32) - following.astype(np.float32) + 255) / 2).astype(np.uint8)


@pytest.mark.parametrize("space", ["rgb", "ycbcr420"])
def test_frames_and_gradients_of_a_real_clip(shared: Path, stack: ExitStack, space: str) -> None:
    path = shared / "videos" / "ucf101" / "Punch" / "v_Punch_g01_c03.avi"
    encoded, facts = encode(path, ExtractSettings(space=space), stack)  # type: ignore[arg-type]
    rgb, tg = frames_of(encoded.rgb), frames_of(encoded.tg)
    assert (len(rgb), len(tg), facts.num_frames) == (48, 47, 48)
    assert (facts.height, facts.width, facts.codec) == (240, 320, "mpeg4")
    exact = [to_rgb(picture) for picture in decoded(path, "rgb")]
    assert np.mean([psnr(a, b) for a, b in zip(rgb, exact, strict=True)]) > 38
    expected = [published_gradient(a, b) for a, b in zip(exact, exact[1:], strict=False)]
    assert np.mean([psnr(a, b) for a, b in zip(tg, expected, strict=True)]) > 40
    assert abs(np.mean(tg, dtype=np.float64) - np.mean(expected, dtype=np.float64)) < 1
    # The other sign, or the gradient of another pair of frames, is far from that.
    wrong = [published_gradient(b, a) for a, b in zip(exact, exact[1:], strict=False)]
    assert np.mean([psnr(a, b) for a, b in zip(tg, wrong, strict=True)]) < 33


def exact_rgb(path: Path) -> list[npt.NDArray[np.float64]]:
    """The decoded planes as RGB without rounding to 8 bits: swscale's 16-bit output, 0..255."""
    flags = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.BITEXACT
    with av.open(str(path)) as container:
        return [
            frame.to_ndarray(format="rgb48le", interpolation=flags, src_colorspace=Colorspace.ITU601).astype(np.float64)
            / 257
            for frame in container.decode(video=0)
        ]


@pytest.mark.parametrize(
    "name", ["BabyCrawling/v_BabyCrawling_g02_c05", "PushUps/v_PushUps_g01_c02", "Punch/v_Punch_g02_c03"]
)
def test_the_planes_path_is_as_faithful_as_the_rgb_path(shared: Path, stack: ExitStack, name: str) -> None:
    """Within 0.5 dB (TG 1 dB) and 0.5 level of bias of what the RGB path reaches, both against the exact conversion."""
    path = shared / "videos" / "ucf101" / f"{name}.avi"
    exact = exact_rgb(path)
    gradients = [(a - b + 255) / 2 for a, b in zip(exact, exact[1:], strict=False)]
    quality: dict[str, list[float]] = {}
    bias: dict[str, list[float]] = {}
    for space in ("rgb", "ycbcr420"):
        encoded, _ = encode(path, ExtractSettings(space=space), stack)  # type: ignore[arg-type]
        stored = (frames_of(encoded.rgb), exact), (frames_of(encoded.tg), gradients)
        quality[space] = [float(np.mean([psnr(a, b) for a, b in zip(*pair, strict=True)])) for pair in stored]
        bias[space] = [float(np.mean(a, dtype=np.float64) - np.mean(b)) for a, b in stored]
    assert quality["ycbcr420"][0] > quality["rgb"][0] - 0.5
    assert quality["ycbcr420"][1] > quality["rgb"][1] - 1.0
    for planes, rgb in zip(bias["ycbcr420"], bias["rgb"], strict=True):
        assert abs(planes - rgb) < 0.5


def test_gradient_from_jpegs_is_that_of_the_stored_frames(tmp_path: Path, stack: ExitStack) -> None:
    path = write_video(tmp_path / "a.avi", moving_square(5), **{"q:v": "2"})
    encoded, _ = encode(path, ExtractSettings(gradient_source="jpeg"), stack)
    rgb, tg = frames_of(encoded.rgb), frames_of(encoded.tg)
    for k, stored in enumerate(tg):
        again = simplejpeg.encode_jpeg(published_gradient(rgb[k], rgb[k + 1]), 95, "RGB", "420")
        np.testing.assert_array_equal(stored, simplejpeg.decode_jpeg(again, colorspace="RGB"))
    assert encoded.meta["gradient_source"] == "jpeg"


def test_derived_gradients_are_not_stored(tmp_path: Path, stack: ExitStack) -> None:
    path = write_video(tmp_path / "a.avi", moving_square(4))
    encoded, _ = encode(path, ExtractSettings(gradient="derived"), stack)
    assert encoded.tg is None
    assert encoded.rgb.num_frames == 4


def test_a_long_video_is_spooled_to_disk(tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tgprep.encode.SPOOL_BYTES_IN_MEMORY", 4096)
    path = write_video(tmp_path / "a.avi", moving_square(12), **{"q:v": "2"})
    encoded, _ = encode(path, ExtractSettings(), stack)
    assert encoded.rgb.num_bytes > 4096
    assert encoded.rgb.file._rolled  # type: ignore[attr-defined]
    assert len(frames_of(encoded.rgb)) == 12


def test_no_meta_value_is_null_and_types_are_plain(tmp_path: Path, stack: ExitStack) -> None:
    encoded, _ = encode(write_video(tmp_path / "a.avi", moving_square(3)), ExtractSettings(), stack)
    assert {type(value) for value in encoded.meta.values()} == {str, int, float}


def test_one_frame_has_no_gradient(tmp_path: Path, stack: ExitStack) -> None:
    path = write_video(tmp_path / "one.avi", moving_square(1))
    with pytest.raises(DecodeError, match="only 1 frame: a temporal gradient needs two"):
        encode(path, ExtractSettings(), stack)


@pytest.mark.parametrize("tenth", range(1, 10))
def test_a_cut_file_gives_its_frames_or_one_reason(tmp_path: Path, stack: ExitStack, tenth: int) -> None:
    whole = write_video(tmp_path / "whole.avi", moving_square(40), **{"q:v": "2"}).read_bytes()
    path = tmp_path / "cut.avi"
    path.write_bytes(whole[: len(whole) * tenth // 10])
    try:
        encoded, facts = encode(path, ExtractSettings(), stack)
    except DecodeError as error:
        assert str(error)
    else:
        assert 2 <= facts.num_frames == len(frames_of(encoded.rgb)) <= 40
        if facts.num_frames < 40:
            assert "header says 40 frames" in facts.note or "damaged" in facts.note or "breaks off" in facts.note


@pytest.mark.parametrize("seed", range(8))
def test_flipped_bytes_never_escape_as_another_error(tmp_path: Path, stack: ExitStack, seed: int) -> None:
    content = bytearray(write_video(tmp_path / "a.mp4", moving_square(20), codec="libx264").read_bytes())
    generator = np.random.default_rng(seed)
    for place in generator.integers(0, len(content), 30):
        content[place] ^= int(generator.integers(1, 256))
    path = tmp_path / "flipped.mp4"
    path.write_bytes(content)
    try:
        _, facts = encode(path, ExtractSettings(), stack)
    except DecodeError as error:
        assert str(error)
    else:
        assert facts.num_frames >= 2


def test_damage_can_be_refused(shared: Path, stack: ExitStack) -> None:
    path = shared / "videos" / "odd" / "corrupted.mp4"
    _, facts = encode(path, ExtractSettings(), stack)
    assert facts.num_frames == 49
    assert facts.note.startswith("1 damaged packets; the header says 50 frames, 49 decode")
    with pytest.raises(DecodeError, match="damaged"):
        encode(path, ExtractSettings(on_damage="fail"), stack)


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, stack: ExitStack) -> None:
    path = write_video(tmp_path / "a.avi", moving_square(10))

    def grow(count: int) -> None:
        if count == 2:
            with path.open("ab") as file:
                file.write(b"more")

    with pytest.raises(DecodeError, match="changed while it was read"):
        encode_video(source(path), path, ExtractSettings(), tmp_path, stack, on_frame=grow)


@pytest.mark.parametrize("width", [1, 3, 7, 31, 33, 256])
def test_the_fast_gradient_is_the_defined_one_for_every_pair_of_values(width: int) -> None:
    values = np.arange(256, dtype=np.uint8)
    pairs = np.stack(np.meshgrid(values, values)).reshape(2, -1)
    one, two = (np.resize(side, (-(-65536 // width), width)) for side in pairs)  # every place in a vector register
    planes = gradient_of(Planes(one, one, two), Planes(two, two, one))
    assert isinstance(planes, Planes)
    assert np.array_equal(planes.y, temporal_gradient(one, two))
    assert np.array_equal(planes.cb, temporal_gradient_chroma(one, two))
    assert np.array_equal(planes.cr, temporal_gradient_chroma(two, one))
    rgb = gradient_of(np.dstack([one, two, one]), np.dstack([two, one, one]))
    assert isinstance(rgb, np.ndarray)
    assert np.array_equal(rgb[..., 1], temporal_gradient(two, one))


@pytest.mark.parametrize("width", [1, 3, 7, 31, 33, 256])
def test_limited_range_is_widened_with_exact_rounding(width: int) -> None:
    levels = np.resize(np.arange(256, dtype=np.uint8), (-(-256 // width), width))
    planes = full_range(levels, levels, levels)
    exact = [Fraction(int(level) - 16) * 255 / 219 for level in levels.flat]
    assert planes.y.ravel().tolist() == [min(max(floor(value + Fraction(1, 2)), 0), 255) for value in exact]
    exact = [Fraction(int(level) - 128) * 255 / 224 + 128 for level in levels.flat]
    for plane in (planes.cb, planes.cr):
        assert plane.ravel().tolist() == [min(max(floor(value + Fraction(1, 2)), 0), 255) for value in exact]
