"""Parts of a file: the frames that a full decode shows in them, whatever the decoder, whether the file is read on or sought in."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.prep.support import numbered
from tgprep.decode import segments
from tgprep.decode.frames import DecodeError, Picture, Planes
from tgprep.decode.open import open_video
from tgprep.decode.other_readers import open_segments
from tgprep.decode.segments import SECOND, joined, read_spans

REAL = (  # start offsets, B-frames, times in milliseconds
    "odd/test_non_zero_start.mp4",
    "odd2/media__flv_sample.flv",
)


def digest(picture: Picture) -> str:
    planes = (picture.y, picture.cb, picture.cr) if isinstance(picture, Planes) else (picture,)
    return hashlib.sha256(b"".join(np.ascontiguousarray(plane).tobytes() for plane in planes)).hexdigest()


def cut(path: Path, spans: Sequence[tuple[int, int]], decoder: str = "pyav") -> list[tuple[int, str]]:
    reader = open_segments(path, decoder=decoder, space="rgb", short_side=0)
    frames = [(time, digest(picture)) for time, picture in read_spans(reader, spans) if picture is not None]
    reader.video.close()
    return frames


def full(path: Path, decoder: str = "pyav") -> list[str]:
    return [digest(picture) for picture in open_video(path, decoder=decoder, space="rgb", short_side=0).frames]


def shown(path: Path) -> list[int]:
    """When PyAV alone says that the frames are shown, in microseconds from the start of the container."""
    with av.open(str(path), metadata_errors="replace") as container:
        base = container.streams.video[0].time_base
        assert base is not None
        stream = container.streams.video[0]
        zero, start = stream.start_time or 0, round((stream.start_time or 0) * base * SECOND)
        frames = list(container.decode(stream))
        offset = start - (container.start_time or 0)
        return [round((frame.pts - zero) * base * SECOND) + offset for frame in frames if frame.pts is not None]


@pytest.mark.parametrize("decoder", ["pyav", "opencv", "decord"])
@pytest.mark.parametrize("name", REAL)
def test_frames_are_those_of_a_full_decode(
    shared: Path, name: str, decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shared / "videos" / name
    times, pictures = shown(path), full(path, decoder)
    assert len(times) == len(pictures)
    end = times[-1]
    for gap in (10 * SECOND, 100_000):  # with the small one every part is sought
        monkeypatch.setattr(segments, "SEEK_GAP", gap)
        for spans in ([(end // 3, end // 2)], [(0, 200_000), (end * 3 // 4, end + SECOND)]):
            expected = [pair for pair in zip(times, pictures, strict=True) if any(a <= pair[0] < b for a, b in spans)]
            assert cut(path, spans, decoder) == expected


@pytest.mark.parametrize("decoder", ["pyav", "opencv", "decord"])
def test_frames_of_avi_are_cut_in_the_order_of_display(shared: Path, decoder: str) -> None:
    """AVI gives B-frames the time of another frame: display goes on by one frame at a time, from the first time of all."""
    path = shared / "videos" / "ucf101" / "ApplyEyeMakeup" / "v_ApplyEyeMakeup_g01_c01.avi"
    assert shown(path) != sorted(shown(path))
    times, pictures = sorted(shown(path)), full(path, decoder)
    expected = [pair for pair in zip(times, pictures, strict=True) if SECOND <= pair[0] < 3 * SECOND]
    assert cut(path, [(SECOND, 3 * SECOND)], decoder) == expected
    assert len(expected) == 50


def write_long(path: Path, seconds: int, *, lead_in: float = 0.0, bframes: int = 2, keyframes: int = 40) -> Path:
    """A video of 5 frames a second that show their numbers, with sound that begins `lead_in` seconds before it."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 72, 40, "yuv420p"
        stream.options = {"x264-params": f"keyint={keyframes}:bframes={bframes}:scenecut=0", "crf": "10"}
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = Fraction(1, 100)
        sound = container.add_stream("aac", rate=8000) if lead_in else None
        if sound is not None:
            for start in range(0, 8000, 1024):
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                frame.sample_rate, frame.pts = 8000, start
                container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
        for number in range(seconds * 5):
            picture = av.VideoFrame.from_ndarray(numbered(number % 256), format="rgb24")
            picture.pts, picture.time_base = round(100 * lead_in) + 20 * number, Fraction(1, 100)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


class Counted:
    """A reader that counts the frames that it has gone to."""

    def __init__(self, path: Path) -> None:
        self.reader = open_segments(path, decoder="pyav", space="rgb", short_side=0)
        self.video, self.picture, self.seek, self.counts = (
            self.reader.video, self.reader.picture, self.reader.seek, self.reader.counts,
        )  # fmt: skip
        self.num_frames = 0

    def advance(self) -> int | None:
        self.num_frames += 1
        return self.reader.advance()


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi", "mov"])
def test_a_long_file_is_sought_in(tmp_path: Path, suffix: str) -> None:
    """A part near the end costs its frames and those from the key frame before, not the hours before it."""
    path = write_long(tmp_path / f"long.{suffix}", 300, bframes=0 if suffix == "avi" else 2)
    reader = Counted(path)
    spans = [(100 * SECOND, 102 * SECOND), (280 * SECOND, 281 * SECOND)]
    got = [(time, digest(picture)) for time, picture in read_spans(reader, spans) if picture is not None]
    reader.reader.video.close()
    assert reader.num_frames < 150, "of 1,500 frames"
    frames = list(zip(shown(path), full(path), strict=True))
    assert got == [frame for frame in frames if any(start <= frame[0] < end for start, end in spans)]
    assert len(got) == 15


def test_sound_before_the_first_frame_counts(tmp_path: Path) -> None:
    """Time 0 is the start of the container, so the first frame of a video that begins later is not at 0."""
    path = write_long(tmp_path / "late.mp4", 4, lead_in=0.6)
    times = [time for time, _ in cut(path, [(0, 10 * SECOND)])]
    assert times[0] == pytest.approx(600_000, abs=150_000)  # the encoder of the sound has a delay of its own
    assert times == shown(path)


def test_a_stream_without_times_is_counted(tmp_path: Path) -> None:
    """Raw H.264 has no times: frames are numbered by the rate."""
    path = write_long(tmp_path / "long.mp4", 8)
    raw = tmp_path / "raw.h264"
    with av.open(str(path)) as source, av.open(str(raw), "w", format="h264") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    reader = open_segments(raw, decoder="pyav", space="rgb", short_side=0)
    rate = reader.video.fps
    reader.video.close()
    got, pictures = cut(raw, [(round(2 * SECOND / rate), round(6 * SECOND / rate))]), full(raw)
    assert [frame for _, frame in got] == pictures[2:6]


def test_spans_are_joined() -> None:
    assert joined([(5, 7), (0, 2), (1, 3), (3, 4), (6, 6)]) == [(0, 4), (5, 7)]


def test_an_encrypted_file_is_refused(shared: Path) -> None:
    with pytest.raises(DecodeError, match="its video is encrypted"):
        cut(shared / "videos" / "odd2" / "fate__h264_mov-3elist-encrypted.mp4", [(0, SECOND)])
