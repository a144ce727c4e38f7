"""Decoding against the ffmpeg program (another build of FFmpeg): frame counts, sizes, rotation, pixels."""

from __future__ import annotations

import subprocess
from pathlib import Path

import av
import cv2
import imageio_ffmpeg
import numpy as np
import pytest

from tests.prep.support import decoded, ffmpeg_frames, moving_square, psnr, to_rgb, write_video
from tgprep.decode.frames import DecodeError, Planes, scaled_size
from tgprep.decode.open import open_video

ODD = [
    "Megamind_bugy.avi", "av1_video.mkv", "bt601_full_range.mp4", "corrupted.mp4", "demo_28fps_sar.mp4",
    "demo_skeleton_vfr.mp4", "discard_first_keyframe.mp4", "frame_exceeds_screen.gif", "h264_10bits.mp4", "h265_10bits.mp4",
    "h265_video.mp4", "nasa_13013.mp4", "nasa_13013_hdr.mp4", "nasa_13013_rotated.mp4", "sine_stereo_mp2.mpg",
    "test_non_zero_start.mp4", "testsrc2_444_8bit_hevc.mp4", "testsrc2_av1_10bit.mp4", "testsrc2_mpeg4.mp4",
    "testsrc2_odd_height_and_width_444.mp4", "testsrc2_odd_height_and_width_mpeg2.mp4",
    "testsrc2_odd_height_and_width_vp9.mp4", "testsrc2_vp8.webm", "testsrc2_vp9.webm", "transparent.gif", "unordered.mov",
    "v_biking_01_01.mpg", "video_0.mov", "video_180.mov", "video_270.mov", "video_90.mov",
]  # fmt: skip
DRAWN = (
    "bt601_full_range.mp4",
    "h264_10bits.mp4",
    "testsrc2_444_8bit_hevc.mp4",
    "testsrc2_odd_height_and_width_vp9.mp4",
)


@pytest.mark.parametrize("name", ODD)
def test_odd_files_give_the_frames_that_ffmpeg_gives(shared: Path, name: str) -> None:
    path = shared / "videos" / "odd" / name
    count, width, height, _ = ffmpeg_frames(path, rgb=False)
    video = open_video(path, decoder="pyav", space="ycbcr420", short_side=0)
    shapes = [picture.y.shape for picture in video.frames if isinstance(picture, Planes)]
    assert len(shapes) == count
    assert set(shapes) == {(height, width)}


@pytest.mark.parametrize(
    "name",
    ["video_0.mov", "video_90.mov", "video_180.mov", "video_270.mov", "nasa_13013_rotated.mp4", "bt601_full_range.mp4",
     "h264_10bits.mp4", "nasa_13013_hdr.mp4", "testsrc2_odd_height_and_width_vp9.mp4", "testsrc2_444_8bit_hevc.mp4"],
)  # fmt: skip
@pytest.mark.parametrize("space", ["rgb", "ycbcr420"])
def test_pixels_of_odd_files_are_those_of_ffmpeg(shared: Path, name: str, space: str) -> None:
    path = shared / "videos" / "odd" / name
    _, width, height, packed = ffmpeg_frames(path, rgb=True, limit=3)
    expected = np.frombuffer(packed, np.uint8).reshape(-1, height, width, 3)
    pictures = [to_rgb(picture) for picture in decoded(path, space)[: len(expected)]]
    # A wrong rotation, range or matrix is far below. What is left in real footage is rounding; in the drawn test pictures
    # it is where between the pixels chroma is taken to lie, which shows along every edge of saturated colours.
    floor = 22.0 if name in DRAWN else 40.0 if space == "rgb" else 27.0
    assert min(psnr(a, b) for a, b in zip(pictures, expected, strict=True)) > floor
    assert np.abs(np.mean(pictures, axis=(0, 1, 2)) - expected.mean(axis=(0, 1, 2))).max() < (
        0.9 if name in DRAWN else 0.5
    )


@pytest.mark.parametrize(("width", "height"), [(64, 48), (63, 48), (64, 47), (63, 47)])
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_chroma_of_odd_sizes_stays_in_place_when_a_picture_is_turned(
    tmp_path: Path, width: int, height: int, degrees: int
) -> None:
    """Against the drawn picture, turned: colours a pixel off cost it 3 to 6 dB."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [128 + 100 * np.sin(columns / 5), 128 + 100 * np.sin(rows / 6), 128 + 100 * np.cos((rows + columns) / 7)]
    drawn = np.clip(np.stack(waves, axis=2), 0, 255)
    # Chroma is halved here, and lies in the middle of its pixels: swscale stretches that of odd sizes.
    red, green, blue = (drawn[..., channel] for channel in range(3))
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    pad = ((0, height % 2), (0, width % 2))
    chroma = [np.pad((blue - luma) / 1.772, pad, mode="edge"), np.pad((red - luma) / 1.402, pad, mode="edge")]
    cb, cr = (c.reshape(c.shape[0] // 2, 2, c.shape[1] // 2, 2).mean(axis=(1, 3)) + 128 for c in chroma)
    frame = av.VideoFrame(width, height, "yuvj420p")
    for plane, values in zip(frame.planes, (luma, cb, cr), strict=True):
        pixels = np.zeros((plane.buffer_size // plane.line_size, plane.line_size), np.uint8)
        pixels[: values.shape[0], : values.shape[1]] = np.round(values)
        plane.update(pixels)
    straight, path = tmp_path / "straight.mov", tmp_path / "turned.mov"
    with av.open(str(straight), "w") as container:
        stream = container.add_stream("mjpeg", rate=25, options={"q:v": "1", "qmin": "1"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuvj420p"
        container.mux([*stream.encode(frame), *stream.encode()])
    words = ["-v", "error", "-display_rotation", str(degrees), "-i", str(straight), "-c", "copy", str(path)]
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), *words], check=True)
    (picture,) = decoded(path, "ycbcr420")
    assert psnr(to_rgb(picture), np.rot90(drawn, degrees // 90)) > 28


def test_real_clips_hold_the_frames_that_decode_not_the_header(shared: Path) -> None:
    paths = sorted((shared / "videos" / "hmdb51").glob("*/*.avi"))
    assert len(paths) == 4
    for path in paths:
        video = open_video(path, decoder="pyav", space="ycbcr420", short_side=0)
        count = sum(1 for _ in video.frames)
        assert count == ffmpeg_frames(path, rgb=False)[0]
        assert video.num_frames_header == count + 1


@pytest.mark.parametrize("decoder", ["opencv", "decord"])
def test_other_decoders_agree_on_a_real_clip(shared: Path, decoder: str) -> None:
    path = shared / "videos" / "ucf101" / "PushUps" / "v_PushUps_g16_c04.avi"
    ours = decoded(path, "rgb")
    theirs = list(open_video(path, decoder=decoder, space="rgb", short_side=0).frames)
    assert len(ours) == len(theirs)
    assert min(psnr(to_rgb(a), to_rgb(b)) for a, b in zip(ours, theirs, strict=True)) > 38


def test_decoding_twice_gives_the_same_bytes(shared: Path) -> None:
    path = shared / "videos" / "hmdb51" / "wave" / "RATRACE_wave_f_nm_np1_fr_goo_37.avi"
    first, second = (b"".join(to_rgb(p).tobytes() for p in decoded(path, "ycbcr420")) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("width", "height", "short_side", "expected"),
    [(320, 240, 0, (320, 240)), (320, 240, 120, (160, 120)), (240, 320, 120, (120, 160)), (340, 256, 256, (340, 256)),
     (100, 80, 256, (100, 80)), (1920, 1080, 256, (455, 256))],
)  # fmt: skip
def test_scaled_size(width: int, height: int, short_side: int, expected: tuple[int, int]) -> None:
    assert scaled_size(width, height, short_side) == expected


@pytest.mark.parametrize("space", ["rgb", "ycbcr420"])
def test_short_side_scales_the_picture(tmp_path: Path, space: str) -> None:
    path = write_video(tmp_path / "a.avi", moving_square(3, 128, 96), **{"q:v": "2"})
    whole, small = (to_rgb(decoded(path, space, side)[0]) for side in (0, 48))
    assert small.shape == (48, 64, 3)
    assert psnr(np.asarray(cv2.resize(whole, (64, 48), interpolation=cv2.INTER_AREA), np.uint8), small) > 26


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (b"not a video at all\n" * 50, "cannot be opened"), (None, "gone")],
)
def test_what_is_no_video_is_refused_with_the_reason(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "x.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DecodeError, match=reason):
        open_video(path, decoder="pyav", space="rgb", short_side=0)


def test_sound_alone_is_refused(shared: Path) -> None:
    with pytest.raises(DecodeError, match="no video stream"):
        open_video(shared / "videos" / "odd" / "nasa_13013.mp4.audio.mp3", decoder="pyav", space="rgb", short_side=0)


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    sound, picture = ["-f", "lavfi", "-i", "sine=d=0.1"], ["-f", "lavfi", "-i", "color=s=32x32:r=1:d=1"]
    coded = ["-map", "0", "-map", "1", "-c:a", "aac", "-c:v", "mjpeg", "-disposition:v", "attached_pic"]
    for name in ("a.m4v", "a.mp4", "a.m4a"):
        program = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *sound, *picture, *coded, str(tmp_path / name)]
        subprocess.run(program, check=True)
        for decoder in ("pyav", "opencv", "decord"):
            with pytest.raises(DecodeError, match="^holds only a cover picture, no video$"):
                open_video(tmp_path / name, decoder=decoder, space="rgb", short_side=0)


def test_a_three_pixel_wide_video_decodes(tmp_path: Path) -> None:
    frames = [np.full((9, 3, 3), 40 * k, np.uint8) for k in range(3)]
    path = write_video(tmp_path / "thin.mkv", frames, codec="ffv1", pixel_format="yuv444p")
    assert [to_rgb(p).shape for p in decoded(path, "ycbcr420")] == [(9, 3, 3)] * 3
