"""Read several parts of one video file in one pass: pictures with the times at which they are shown.

Times are whole microseconds from the start of the file: from the container's own start time, the zero of players and of the
ffmpeg program. Before a gap of more than `SEEK_GAP` a reader seeks to a self-contained picture, and decodes from there.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import av

from tgprep.decode.frames import DecodedVideo, DecodeError, Picture
from tgprep.decode.pyav import OpenStream, decoded_frames, notes_on_frames, open_stream

SECOND = 1_000_000
SEEK_GAP = 10 * SECOND  # a shorter gap is decoded
_MARGINS = (SECOND, 5 * SECOND, 30 * SECOND, 180 * SECOND)  # how far before its aim a seek begins, tried in turn
_NUM_LOOKED_AT = 48  # frames that show whether a stream's times follow the order of display
Counts = tuple[int, ...]


class SegmentReader(Protocol):
    """A file that is read forwards, with jumps."""

    video: DecodedVideo  # to close; its own `frames` are not for use

    def advance(self) -> int | None:
        """Go to the next frame; its time, or None at the end."""

    def picture(self) -> Picture:
        """The frame that `advance` has come to."""

    def seek(self, time: int) -> None:
        """Jump, if that is possible, so that the next frame is not shown after `time`. The frames from `time` on do not depend on it."""

    def counts(self) -> Counts:
        """Damaged packets, and concealed, scaled and turned frames so far."""


def read_spans(reader: SegmentReader, spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, Picture | None]]:
    """The frames with start <= time < end for one of the spans, each once, in order; between them (time, None) for the others.

    spans: (start, end) in microseconds.
    """
    time: int | None = None
    for start, end in joined(spans):
        if start - (time or 0) > SEEK_GAP:
            reader.seek(start)
            time = None
        if time is None:
            time = reader.advance()
        while time is not None:
            yield time, reader.picture() if start <= time < end else None
            if time >= end:
                break
            time = reader.advance()
        else:
            return


def joined(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The union of half-open spans as spans apart from each other, in order."""
    union: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if union and start <= union[-1][1]:
            union[-1] = union[-1][0], max(end, union[-1][1])
        else:
            union.append((start, end))
    return union


def notes_between(before: Counts, after: Counts) -> list[str]:
    """Notes on the frames between two `counts`, damaged packets left out."""
    concealed, resized, turned = (now - then for now, then in zip(after[1:], before[1:], strict=True))
    return notes_on_frames(concealed, resized, turned)


class PyavReader:
    """Reads with PyAV."""

    def __init__(self, path: Path, space: str, short_side: int, as_coded: bool) -> None:
        self._how = (path, space, short_side, as_coded)
        self._open()
        self._can_seek = not self._opened.container.format.flags & av.format.Flags.no_timestamps.value
        opened, start = self._opened, self._opened.container.start_time
        self._base = opened.stream.time_base * SECOND
        self._zero = opened.stream.start_time or 0
        self.stream_start = round(self._zero * self._base) - start if start is not None else 0
        """The time at which the video stream starts, from which its stamps count."""
        self.step = round(SECOND / self.video.fps) if self.video.fps else 0
        try:
            self._look_at_stamps()
        except BaseException:
            self.video.close()
            raise
        self._reopen()

    def _open(self) -> None:
        self._opened: OpenStream = open_stream(*self._how)
        self.video = self._opened.video
        self._frames = decoded_frames(self._opened)
        self._frame: Any = None
        self._ahead: Any = None  # a frame after it that has been decoded
        self._last: int | None = None  # time of the frame before

    def _look_at_stamps(self) -> None:
        """How the first frames say when they are shown; the first one decides size and orientation, whatever part is read."""
        stamps = []
        for number, frame in zip(range(_NUM_LOOKED_AT), self._frames, strict=False):
            if not number:
                self._opened.converter(frame)
            stamps.append((frame.pts, frame.dts))
        shown = [pts for pts, _ in stamps]
        self._lag: int | None = None
        self._by_number = None in shown
        if not self._by_number and sorted(shown) != shown:
            # In AVI and some others a frame has the time of another one. Those of decoding rise; they are off by a constant.
            lags = [pts - dts for pts, (_, dts) in zip(sorted(shown), stamps, strict=True) if dts is not None]
            self._by_number, self._lag = not lags, round(median(lags or [0]))
        if self._by_number and not self.step:
            raise DecodeError("it says neither when its frames are shown nor how many a second: it cannot be cut")

    def _reopen(self) -> None:
        """Begin again at the first frame."""
        before = self._opened
        before.video.close()
        self._open()
        self._opened.converter.follow(before.converter)
        self.video.notes[:] = before.video.notes

    def advance(self) -> int | None:
        self._frame, self._ahead = self._ahead, None
        if self._frame is None:
            self._frame = next(self._frames, None)
        if self._frame is None:
            return None
        if (time := self._time(self._frame)) is None:
            time = 0 if self._last is None else self._last + self.step
        self._last = time
        return time

    def _time(self, frame: Any) -> int | None:
        stamp = None if self._by_number else frame.pts if self._lag is None else frame.dts
        return None if stamp is None else self._since_start(stamp + (self._lag or 0))

    def _since_start(self, stamp: int) -> int:
        return int(round((stamp - self._zero) * self._base) + self.stream_start)

    def picture(self) -> Picture:
        return self._opened.converter(self._frame)

    def all_times(self, num_frames: int) -> list[int]:
        """The times of all frames, for a decoder that finds `num_frames`; read without decoding where packets have them."""
        if not self._by_number and self._lag is None:
            stamps = [packet.pts for packet in self._opened.container.demux(self._opened.stream) if packet.size]
            if len(stamps) == num_frames and None not in stamps:
                return [self._since_start(stamp) for stamp in sorted(stamps)]
            self._reopen()
        first = self.advance() or 0
        return [first + round(number * SECOND / self.video.fps) for number in range(num_frames)]

    def seek(self, time: int) -> None:
        if not self._can_seek or self._by_number:
            return
        for margin in _MARGINS:
            if time <= margin:
                break
            with contextlib.suppress(av.FFmpegError):
                aim = math.floor((time - margin - self.stream_start) / self._base) + self._zero
                self._opened.container.seek(aim, stream=self._opened.stream, backward=True)
                self._frames, self._frame = decoded_frames(self._opened), None
                # What comes before the first self-contained picture may lack the frames that it is made of.
                self._ahead = next((frame for frame in self._frames if frame.key_frame), None)
                found = None if self._ahead is None else self._time(self._ahead)
                if found is not None and found <= time:
                    return
        self._can_seek = False
        self._reopen()

    def counts(self) -> Counts:
        converter = self._opened.converter
        return self.video.num_damaged_packets, converter.num_concealed, converter.num_resized, converter.num_turned
