"""Read parts of a video with OpenCV, decord or a decoder of the user's: the readers that `open_segments` gives beside PyAV's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tgprep.decode.frames import DecodedVideo, DecodeError, Picture
from tgprep.decode.open import (
    adapted,
    forget_impossible,
    open_custom,
    open_decord,
    open_opencv,
    refuse_no_file,
    rgb_of_decord,
    rgb_of_opencv,
    turns_of_decord,
)
from tgprep.decode.pyav import FirstLook, look_at
from tgprep.decode.segments import SECOND, Counts, PyavReader, SegmentReader

Adapt = Callable[[Picture], Picture]
_SEEK_FRAMES = 250  # decord: more frames are not decoded to be passed over


def open_segments(path: Path, *, decoder: str, space: str, short_side: int, as_coded: bool = False) -> SegmentReader:
    """Open a file to read parts of it; the arguments are those of `open_video`. DecodeError says why it cannot be read."""
    refuse_no_file(path)
    if decoder == "pyav":
        reader: SegmentReader = PyavReader(path, space, short_side, as_coded)
    else:
        reader = _other_reader(path, decoder, lambda frame: adapted(frame, short_side, as_coded))
    forget_impossible(reader.video)
    return reader


def _other_reader(path: Path, decoder: str, adapt: Adapt) -> SegmentReader:
    if decoder not in ("opencv", "decord"):
        return _CustomReader(open_custom(path, decoder), adapt)
    look, times = look_at(path), PyavReader(path, "rgb", 0, False)
    try:
        with path.open("rb") as file:
            name = f"/dev/fd/{file.fileno()}"
            kind = _OpencvReader if decoder == "opencv" else _DecordReader
            reader: _OpencvReader | _DecordReader = kind(name, look, times, adapt)
    finally:
        times.video.close()
    reader.video.rotation_degrees = look.video.rotation_degrees
    reader.video.notes += look.video.notes
    return reader


class _OpencvReader:
    def __init__(self, name: str, look: FirstLook, times: PyavReader, adapt: Adapt) -> None:
        import cv2

        self._position: int = cv2.CAP_PROP_POS_MSEC
        self._capture, self.video = open_opencv(name)
        self._look, self._adapt = look, adapt
        # OpenCV counts from the start of the stream.
        self._offset, self._step = times.stream_start, times.step
        self._last: int | None = None

    def advance(self) -> int | None:
        if not self._capture.grab():
            return None
        time: int = round(self._capture.get(self._position) * 1000) + self._offset
        if self._last is not None and time <= self._last:  # it does not know when the frame is shown
            time = self._last + self._step
        self._last = time
        return time

    def picture(self) -> Picture:
        done, frame = self._capture.retrieve()
        if not done:
            raise DecodeError("OpenCV gives no picture of a frame that it has decoded")
        return self._adapt(rgb_of_opencv(frame, self._look.orientation))

    def seek(self, time: int) -> None:
        pass  # in files without an index it comes to other frames than it says

    def counts(self) -> Counts:
        return 0, 0, 0, 0


class _DecordReader:
    def __init__(self, name: str, look: FirstLook, times: PyavReader, adapt: Adapt) -> None:
        self._reader, self.video = open_decord(name)
        self._look, self._adapt = look, adapt
        self._times = times.all_times(len(self._reader))
        self._turns = -1
        self._place = -1  # number of the frame
        self._next = 0  # number of the frame that decord decodes next

    def advance(self) -> int | None:
        self._place += 1
        return self._times[self._place] if self._place < len(self._times) else None

    def picture(self) -> Picture:
        import decord

        try:
            if not 0 <= self._place - self._next <= _SEEK_FRAMES:
                self._reader.seek_accurate(self._place)
            elif self._place > self._next:
                self._reader.skip_frames(self._place - self._next)
            frame = self._reader.next().asnumpy()
        except (StopIteration, RuntimeError, decord.DECORDError):
            raise DecodeError(f"decord does not decode frame {self._place} of {len(self._times)}") from None
        self._next = self._place + 1
        if self._turns < 0:
            self._turns = turns_of_decord(frame, self._look)
        return self._adapt(rgb_of_decord(frame, self._look, self._turns))

    def seek(self, time: int) -> None:
        pass  # `picture` goes where it must

    def counts(self) -> Counts:
        return 0, 0, 0, 0


class _CustomReader:
    """Reads all frames from the first one: a decoder of the user's knows no jumps."""

    def __init__(self, video: DecodedVideo, adapt: Adapt) -> None:
        self.video, self._adapt = video, adapt
        self._number = -1
        self._picture: Any = None
        if video.position_seconds is None and not video.fps > 0:
            video.close()
            raise DecodeError("the decoder gives neither `position_seconds` nor `fps`: it cannot be cut")

    def advance(self) -> int | None:
        self._picture = next(self.video.frames, None)
        if self._picture is None:
            return None
        self._number += 1
        position = self.video.position_seconds
        return round((self._number / self.video.fps if position is None else position()) * SECOND)

    def picture(self) -> Picture:
        return self._adapt(self._picture)

    def seek(self, time: int) -> None:
        pass

    def counts(self) -> Counts:
        return self.video.num_damaged_packets, 0, 0, 0
