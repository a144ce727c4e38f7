"""Stored frames and gradients against the decoder's frames and the formula, and every reason to fail a video."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from itertools import islice
from math import floor
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
from scipy.ndimage import map_coordinates

from manifests.gradient import temporal_gradient
from manifests.records import SourceVideo, VideoRow
from manifests.sample import EncodedVideo, FrameSpool
from tests.prep.support import Rgb, decoded, moving_square, psnr, to_rgb, write_video
from tgprep.config import ExtractSettings
from tgprep.decode.frames import DecodeError, Planes
from tgprep.decode.planes import gradient_of, midway, to_range
from tgprep.encode.encode import _LibjpegEncoder, encode_video


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def source(path: Path) -> SourceVideo:
    return SourceVideo("class/video", path.name, "class", 0)


def encode(path: Path, settings: ExtractSettings, stack: ExitStack) -> tuple[EncodedVideo, VideoRow]:
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


def exact_rgb(path: Path, limit: int) -> list[npt.NDArray[np.float64]]:
    """RGB without rounding, 0..255, of limited-range 4:2:0 planes whose chroma lies at the left one of two pixels: the formula."""
    pictures = []
    with av.open(str(path)) as container:
        for frame in islice(container.decode(video=0), limit):
            assert frame.format.name == "yuv420p"
            y, cb, cr = (
                np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width].astype(float)
                for plane in frame.planes
            )
            height, width = y.shape
            places = np.meshgrid((np.arange(height) - 0.5) / 2, np.arange(width) / 2, indexing="ij")
            cb, cr = (map_coordinates(c - 128, places, order=1, mode="nearest") * 255 / 224 for c in (cb, cr))
            y = (y - 16) * 255 / 219
            rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=2)
            pictures.append(np.clip(rgb, 0, 255))
    return pictures


@pytest.mark.parametrize(
    "name",
    [
        "ucf101/BabyCrawling/v_BabyCrawling_g02_c05.avi",
        "ucf101/PushUps/v_PushUps_g01_c02.avi",
        "ucf101/Punch/v_Punch_g02_c03.avi",
        "hmdb51/wave/TrumanShow_wave_f_nm_np1_fr_med_26.avi",
        "kinetics400/SOX5yA1l24A.mp4",
        "odd/testsrc2_odd_height_and_width_mpeg2.mp4",
    ],
)
def test_planes_are_as_faithful_as_rgb(shared: Path, stack: ExitStack, name: str) -> None:
    """Within 0.5 dB (TG 1 dB) and 0.5 level of bias a channel of what the RGB path reaches, both against the formula."""
    path = shared / "videos" / name
    exact = exact_rgb(path, 40)
    gradients = [(a - b + 255) / 2 for a, b in zip(exact, exact[1:], strict=False)]
    quality: dict[str, list[float]] = {}
    bias: dict[str, list[npt.NDArray[np.float64]]] = {}
    for space in ("rgb", "ycbcr420"):
        encoded, _ = encode(path, ExtractSettings(space=space), stack)  # type: ignore[arg-type]
        stored = (frames_of(encoded.rgb), exact), (frames_of(encoded.tg), gradients)
        quality[space] = [float(np.mean([psnr(a, b) for a, b in zip(*pair, strict=False)])) for pair in stored]
        bias[space] = [
            np.mean([np.mean(a - b, axis=(0, 1)) for a, b in zip(*pair, strict=False)], 0) for pair in stored
        ]
    assert quality["ycbcr420"][0] > quality["rgb"][0] - 0.5
    assert quality["ycbcr420"][1] > quality["rgb"][1] - 1.0
    # Not as the RGB path, but as itself: JPEG of quality 95 costs so much, and the drawn pictures' sharp edges more.
    drawn = name.startswith("odd/")
    assert quality["ycbcr420"][0] > (28 if drawn else 41)
    assert quality["ycbcr420"][1] > (38 if drawn else 44)
    for planes, rgb in zip(bias["ycbcr420"], bias["rgb"], strict=True):
        assert np.abs(planes - (0 if drawn else rgb)).max() < (1.5 if drawn else 0.5)


@pytest.mark.parametrize(
    ("codec", "pixel_format", "suffix"),
    [("mpeg4", "yuv420p", "avi"), ("mpeg2video", "yuv420p", "mpg"),
     ("libx264", "yuv420p", "mp4"), ("libx264", "yuvj420p", "mp4"), ("libx264", "yuv420p10le", "mp4"),
     ("libx264", "yuv422p", "mp4"), ("mpeg1video", "yuv420p", "mpg"), ("msmpeg4", "yuv420p", "avi"),
     ("h263", "yuv420p", "avi"), ("libvpx-vp9", "yuv420p", "webm"), ("mjpeg", "yuvj420p", "avi")],
)  # fmt: skip
def test_chroma_position_is_that_of_jpeg(tmp_path: Path, codec: str, pixel_format: str, suffix: str) -> None:
    """In the middle of its pixels, though most video codecs have it at the left one: colours against FFmpeg's own RGB.

    Half a pixel off costs these pictures about 7 dB, and no more than their own chroma is left of 38.
    """
    rows, columns = np.mgrid[0:144, 0:176]
    waves = [128 + 100 * np.sin(columns / 5), 128 + 100 * np.sin(rows / 6), 128 + 100 * np.cos((rows + columns) / 7)]
    drawn = [np.stack(waves, axis=2).astype(np.uint8)] * 2
    path = write_video(tmp_path / f"a.{suffix}", drawn, codec=codec, pixel_format=pixel_format)
    (ours, *_), (theirs, *_) = decoded(path, "ycbcr420"), decoded(path, "rgb")
    assert isinstance(ours, Planes)
    # As a JPEG decoder sees it: chroma interpolated from the middle of its pixels.
    places = np.meshgrid((np.arange(144) - 0.5) / 2, (np.arange(176) - 0.5) / 2, indexing="ij")
    cb, cr = (map_coordinates(c.astype(float) - 128, places, order=1, mode="nearest") for c in (ours.cb, ours.cr))
    y = ours.y.astype(float)
    rgb = np.clip(np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=2), 0, 255)
    assert psnr(rgb, to_rgb(theirs)) > 38


def test_gradient_source_jpeg(tmp_path: Path, stack: ExitStack) -> None:
    path = write_video(tmp_path / "a.avi", moving_square(5), **{"q:v": "2"})
    encoded, _ = encode(path, ExtractSettings(gradient_source="jpeg"), stack)
    rgb, tg = frames_of(encoded.rgb), frames_of(encoded.tg)
    for k, stored in enumerate(tg):
        again = simplejpeg.encode_jpeg(published_gradient(rgb[k], rgb[k + 1]), 95, "RGB", "420")
        np.testing.assert_array_equal(stored, simplejpeg.decode_jpeg(again, colorspace="RGB"))
    assert encoded.meta["gradient_source"] == "jpeg"


def test_derived_gradient_is_not_stored(tmp_path: Path, stack: ExitStack) -> None:
    path = write_video(tmp_path / "a.avi", moving_square(4))
    encoded, _ = encode(path, ExtractSettings(gradient="derived"), stack)
    assert encoded.tg is None
    assert encoded.rgb.num_frames == 4


def test_long_video_is_spooled_to_disk(tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tgprep.encode.encode._BYTES_IN_MEMORY", 4096)
    path = write_video(tmp_path / "a.avi", moving_square(12), **{"q:v": "2"})
    encoded, _ = encode(path, ExtractSettings(), stack)
    assert encoded.rgb.num_bytes > 4096
    assert not isinstance(encoded.rgb.file._file, io.BytesIO)  # type: ignore[attr-defined]
    assert len(frames_of(encoded.rgb)) == 12


def test_meta_values_are_plain(tmp_path: Path, stack: ExitStack) -> None:
    encoded, _ = encode(write_video(tmp_path / "a.avi", moving_square(3)), ExtractSettings(), stack)
    assert {type(value) for value in encoded.meta.values()} == {str, int, float}


def test_one_frame_is_refused(tmp_path: Path, stack: ExitStack) -> None:
    path = write_video(tmp_path / "one.avi", moving_square(1))
    with pytest.raises(DecodeError, match="only 1 frame: a temporal gradient needs two"):
        encode(path, ExtractSettings(), stack)


@pytest.mark.parametrize("tenth", range(1, 10))
def test_truncated_file_gives_frames_or_a_reason(tmp_path: Path, stack: ExitStack, tenth: int) -> None:
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
def test_flipped_bytes_give_frames_or_a_reason(tmp_path: Path, stack: ExitStack, seed: int) -> None:
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


def test_on_damage_fail(shared: Path, stack: ExitStack) -> None:
    path = shared / "videos" / "odd" / "corrupted.mp4"
    _, facts = encode(path, ExtractSettings(), stack)
    assert facts.num_frames == 49
    assert facts.note.startswith("1 damaged packets; the header says 50 frames, 49 decode")
    with pytest.raises(DecodeError, match="damaged"):
        encode(path, ExtractSettings(on_damage="fail"), stack)


def test_file_changed_while_reading_is_refused(tmp_path: Path, stack: ExitStack) -> None:
    path = write_video(tmp_path / "a.avi", moving_square(10))

    def grow(count: int) -> None:
        if count == 2:
            with path.open("ab") as file:
                file.write(b"more")

    with pytest.raises(DecodeError, match="changed while it was read"):
        encode_video(source(path), path, ExtractSettings(), tmp_path, stack, on_frame=grow)


@pytest.mark.parametrize("width", [1, 3, 7, 31, 33, 256])
def test_fast_gradient_equals_the_definition(width: int) -> None:
    values = np.arange(256, dtype=np.uint8)
    pairs = np.stack(np.meshgrid(values, values)).reshape(2, -1)
    one, two = (np.resize(side, (-(-65536 // width), width)) for side in pairs)  # every place in a vector register
    planes = gradient_of(Planes(one, one, two), Planes(two, two, one))
    assert isinstance(planes, Planes)
    assert np.array_equal(planes.y, temporal_gradient(one, two))
    # Chroma has the same gradient about its neutral 128.
    assert np.array_equal(planes.cb, (one.astype(int) - two + 256) // 2)
    assert np.array_equal(planes.cr, (two.astype(int) - one + 256) // 2)
    rgb = gradient_of(np.dstack([one, two, one]), np.dstack([two, one, one]))
    assert isinstance(rgb, np.ndarray)
    assert np.array_equal(rgb[..., 1], temporal_gradient(two, one))


@pytest.mark.parametrize("width", [1, 3, 7, 31, 33, 256])
def test_full_range_is_exactly_rounded(width: int) -> None:
    levels = np.resize(np.arange(256, dtype=np.uint8), (-(-256 // width), width))
    planes = to_range(Planes(levels, levels, levels, limited=True), limited=False)
    exact = [Fraction(int(level) - 16) * 255 / 219 for level in levels.flat]
    assert planes.y.ravel().tolist() == [min(max(floor(value + Fraction(1, 2)), 0), 255) for value in exact]
    exact = [Fraction(int(level) - 128) * 255 / 224 + 128 for level in levels.flat]
    for plane in (planes.cb, planes.cr):
        assert plane.ravel().tolist() == [min(max(floor(value + Fraction(1, 2)), 0), 255) for value in exact]


@pytest.mark.parametrize("width", [1, 2, 255, 512])
def test_midway_chroma_is_exactly_rounded(width: int) -> None:
    """Every pair of levels: three quarters of a sample and a quarter of the next, halves up; the last one stays."""
    first, second = np.divmod(np.arange(1 << 16), 256)
    pairs = np.stack([first, second], axis=1).astype(np.uint8)
    rows = np.resize(pairs.ravel(), (-(-pairs.size // width), width))
    padded = np.hstack([rows, rows[:, :3]])[:, :width]  # rows with a stride, as decoders give them
    moved = midway(padded)
    assert np.array_equal(moved[:, :-1], (3 * rows[:, :-1].astype(np.int64) + rows[:, 1:] + 2) // 4)
    assert np.array_equal(moved[:, -1], rows[:, -1])


@pytest.mark.parametrize(("height", "width"), [(63, 86), (64, 85), (63, 85), (1, 1)])
def test_libjpeg_bytes_of_odd_sizes_depend_on_the_picture_only(height: int, width: int) -> None:
    """libjpeg-turbo reads an even number of rows and columns, here from memory that differs."""
    levels = np.random.default_rng(1).integers(0, 256, (height, width), dtype=np.uint8)
    half = np.full((-(-height // 2), -(-width // 2)), 128, np.uint8)
    files = set()
    for behind in (0, 255):
        memory = np.full(height * width + 1000, behind, np.uint8)
        y = memory[: height * width].reshape(height, width)
        y[:] = levels
        encode_picture = _LibjpegEncoder(ExtractSettings(encoder="libjpeg"), gradients=False)
        files.add(encode_picture(Planes(y, half, half))[0])
    assert len(files) == 1
    assert simplejpeg.decode_jpeg(files.pop(), colorspace="RGB").shape == (height, width, 3)
