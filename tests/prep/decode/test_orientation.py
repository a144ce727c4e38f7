"""Display matrices: all eight orientations of a picture are shown as the ffmpeg program shows them, by every decoder."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg

from cli.train.decode_children import ViewJob, read_all
from manifests.manifest_io import read_manifest
from tests.prep.support import Rgb, extract_videos, ffmpeg_frames, psnr, to_rgb
from tgprep.decode.frames import DecodedVideo, Picture, Planes
from tgprep.decode.open import open_video
from tgprep.decode.planes import UPRIGHT, Orientation, orientation_of, rotation_of, to_jpeg_form
from tgprep.decode.stored import jpeg_reader, rgb_of, stored_planes
from tgtrain.data.clip import ClipSettings

EIGHT = [(degrees, mirrored) for degrees in (0, 90, 180, 270) for mirrored in (False, True)]
WAYS = [("pyav", "rgb"), ("pyav", "ycbcr420"), ("pyav", "as coded"), ("opencv", "rgb"), ("decord", "rgb")]


def run(*words: str | Path) -> None:
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, words)], check=True)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Coloured waves without any symmetry, in H.264 of an odd chroma size."""
    path = tmp_path_factory.mktemp("base") / "base.mp4"
    colours = "geq=r='128+90*sin(X/9)+X/4':g='128+90*sin(Y/8)-Y/3':b='60+X+Y'"
    run("-f", "lavfi", "-i", f"color=s=90x62:r=10:d=0.2,{colours}", "-c:v", "libx264", "-crf", "6", "-pix_fmt", "yuv420p", path)  # fmt: skip
    return path


def turned(base: Path, path: Path, degrees: int, mirrored: bool) -> Path:
    """The file with a display matrix."""
    flip = ["-display_hflip"] if mirrored else []
    run("-display_rotation", str(degrees), *flip, "-i", base, "-c", "copy", path)
    return path


def shown(path: Path) -> Rgb:
    _, width, height, packed = ffmpeg_frames(path, rgb=True, limit=1)
    return np.frombuffer(packed, np.uint8).reshape(height, width, 3)


def opened(path: Path, way: tuple[str, str]) -> DecodedVideo:
    decoder, form = way
    space = "rgb" if form == "rgb" else "ycbcr420"
    return open_video(path, decoder=decoder, space=space, short_side=0, as_coded=form == "as coded")


def rgb(picture: Picture) -> Rgb:
    return to_rgb(to_jpeg_form(picture) if isinstance(picture, Planes) else picture)


@pytest.mark.parametrize(("degrees", "mirrored"), EIGHT)
def test_every_decoder_shows_what_ffmpeg_shows(base: Path, tmp_path: Path, degrees: int, mirrored: bool) -> None:
    path = turned(base, tmp_path / "a.mp4", degrees, mirrored)
    expected = shown(path)
    for way in WAYS:
        video = opened(path, way)
        pictures = [rgb(picture) for picture in video.frames]
        assert len(pictures) == 2
        assert pictures[0].shape == expected.shape, way
        assert psnr(pictures[0], expected) > 30, way  # any other orientation is below 15
        assert ("mirrored, as its display matrix says" in video.notes) == mirrored
        video.close()


@pytest.mark.parametrize(("degrees", "flip"), [(0, "horizontal"), (90, ""), (90, "vertical"), (180, "")])
def test_orientation_in_the_coded_stream_counts_too(base: Path, tmp_path: Path, degrees: int, flip: str) -> None:
    """As H.264 and HEVC carry it themselves (display orientation SEI), in a container without a matrix."""
    words = f"h264_metadata=display_orientation=insert:rotate={degrees}" + (f":flip={flip}" if flip else "")
    run("-i", base, "-c", "copy", "-bsf:v", words, tmp_path / "a.mkv")
    expected = shown(tmp_path / "a.mkv")
    for way in WAYS:
        video = opened(tmp_path / "a.mkv", way)
        for picture in video.frames:
            assert psnr(rgb(picture), expected) > 20, way
        video.close()


def test_an_orientation_that_changes_is_noted(base: Path, tmp_path: Path) -> None:
    streams = []
    for degrees in (180, 90):
        words = f"h264_metadata=display_orientation=insert:rotate={degrees}"
        run("-i", base, "-c", "copy", "-bsf:v", f"h264_mp4toannexb,{words}", tmp_path / f"{degrees}.h264")
        streams.append((tmp_path / f"{degrees}.h264").read_bytes())
    (tmp_path / "a.h264").write_bytes(b"".join(streams))
    video = opened(tmp_path / "a.h264", ("pyav", "rgb"))
    assert len({picture.shape for picture in map(rgb, video.frames)}) == 1
    (note,) = video.notes
    assert note.startswith("the rotation changes within the video; ")


@pytest.mark.parametrize("store", ["frames", "video"])
def test_stored_pictures_are_upright(base: Path, tmp_path: Path, store: str) -> None:
    for degrees, mirrored in EIGHT:
        turned(base, tmp_path / f"{degrees}-{mirrored:d}.mp4", degrees, mirrored)
    (tmp_path / "videos" / "c").mkdir(parents=True)
    for path in tmp_path.glob("*.mp4"):
        path.rename(tmp_path / "videos" / "c" / path.name)
    extract_videos(tmp_path / "videos", tmp_path / "out", store=store)
    rows = read_manifest(tmp_path / "out").videos
    assert len(rows) == 8
    for row in rows:
        with (tmp_path / "out" / row.shard).open("rb") as shard:
            if store == "video":
                picture = rgb_of(next(stored_planes(shard, row)))
            else:
                picture = simplejpeg.decode_jpeg(jpeg_reader(shard, row, "rgb")(0))
        assert psnr(picture, shown(tmp_path / "videos" / row.path)) > 27


def test_predict_sees_upright_pictures(base: Path, tmp_path: Path) -> None:
    mirrored = turned(base, tmp_path / "mirrored.mp4", 0, True)
    clip = ClipSettings(clip_frames=2, interval=1, gradient="none", size=32)
    job = ViewJob(base, clip, num_clips=1, num_crops=1, rgb=True, tg=False, short_side=0, decoder="pyav")
    straight, flipped = (reply.clips[0].rgb for reply in read_all(job, [base, mirrored], 1, 60.0))
    assert psnr(straight[:, :, ::-1], flipped) > 25
    assert psnr(straight, flipped) < 20


def patched(base: Path, path: Path, matrix: tuple[int, ...]) -> Path:
    """The file with another matrix in its track header."""
    content = bytearray(base.read_bytes())
    start = content.index(b"tkhd") + 4 + 40
    assert content[start : start + 4] == struct.pack(">i", 1 << 16)
    content[start : start + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(content)
    return path


ONE, W = 1 << 16, 1 << 30


@pytest.mark.parametrize(
    ("matrix", "note", "degrees"),
    [
        ((56755, -32767, 0, 32767, 56755, 0, 0, 0, W), "rotation of 30 degrees is not applied", 30),
        ((0, 0, 0, 0, 0, 0, 0, 0, W), "its display matrix, which is no rotation, is not applied", 0),
        ((ONE, 0, 0, ONE, 0, 0, 0, 0, W), "its display matrix, which is no rotation, is not applied", 0),
    ],
)
def test_other_matrices_are_noted(base: Path, tmp_path: Path, matrix: tuple[int, ...], note: str, degrees: int) -> None:
    path = patched(base, tmp_path / "a.mp4", matrix)
    for way in WAYS:
        video = opened(path, way)
        picture = rgb(next(video.frames))
        assert psnr(picture, shown(base)) > 30, way
        assert (video.notes, video.rotation_degrees) == ([note], degrees)
        video.close()


@pytest.mark.parametrize(
    "matrix",
    [
        (-2 * ONE, 0, 0, 0, ONE, 0, 0, 0, W),  # mirrored and stretched
        (0, ONE, 0, ONE + 500, 0, 0, 0, 0, W),  # the diagonal, not exactly
        (-ONE, 500, 0, 500, ONE, 96 * ONE, 0, 0, W),  # 0.44 degrees off, and moved
        (-ONE, 500, 0, -500, -ONE, 0, 0, 0, W),
        (0, -ONE, 0, ONE + 500, 0, 0, 0, 0, W),
        (ONE, 0, 0, 0, -ONE, 0, 64 * ONE, 0, W),
    ],
)
def test_scaled_and_inexact_matrices_are_those_of_ffmpeg(base: Path, tmp_path: Path, matrix: tuple[int, ...]) -> None:
    path = patched(base, tmp_path / "a.mp4", matrix)
    expected = shown(path)
    for way in WAYS:
        video = opened(path, way)
        assert psnr(rgb(next(video.frames)), expected) > 30, way
        video.close()


def test_orientations_are_all_different_and_undo_the_matrix() -> None:
    """A picture that is coded the other way round comes upright: the matrix applied to every pixel, one by one."""
    pixels: npt.NDArray[np.uint8] = np.arange(6, dtype=np.uint8).reshape(2, 3)
    results = set()
    for a, b, c, d in [(x, 0, 0, y) for x in (1, -1) for y in (1, -1)] + [
        (0, x, y, 0) for x in (1, -1) for y in (1, -1)
    ]:
        places = {
            (b * x + d * y, a * x + c * y): pixels[y, x] for y in range(2) for x in range(3)
        }  # row, column; y grows downwards
        rows, columns = ({place[axis] for place in places} for axis in (0, 1))
        expected = [[places[row, column] for column in sorted(columns)] for row in sorted(rows)]
        orientation = orientation_of((a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, 0, 0, W))
        assert orientation is not None
        assert orientation.apply(pixels).tolist() == expected
        results.add(orientation)
    assert len(results) == 8
    assert Orientation(0, False) == UPRIGHT
    assert rotation_of((ONE, 0, 0, 0, ONE, 0, 0, 0, W)) == 0
