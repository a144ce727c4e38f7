"""Encode the segments of one file in one pass: each frame is decoded once, and goes to every segment that it lies in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

from manifests.records import SourceVideo, VideoRow
from manifests.sample import EncodedVideo, MemberTooLargeError
from tgprep.config import ExtractSettings
from tgprep.decode.frames import DecodeError, Picture
from tgprep.decode.other_readers import open_segments
from tgprep.decode.segments import SECOND, Counts, SegmentReader, notes_between, read_spans
from tgprep.encode.encode import SampleEncoder, file_sha256, file_state, refuse_change

MAX_AT_ONCE = 8  # overlapping segments in one pass: each has an encoder of its own
_TOLERANCE = 2  # frames that a segment may be longer than its file without a note
Sample = tuple[EncodedVideo, VideoRow]


def passes(videos: Sequence[SourceVideo]) -> Iterator[tuple[SourceVideo, ...]]:
    """The videos in groups that are decoded together: a whole file, or neighbouring segments of one file."""
    group: list[SourceVideo] = []
    for video in videos:
        same_file = video.is_segment and group and group[-1].is_segment and group[-1].path == video.path
        num_overlapping = sum(other.end_seconds > video.start_seconds for other in group)
        if group and not (same_file and num_overlapping < MAX_AT_ONCE):
            yield tuple(group)
            group = []
        group.append(video)
    if group:
        yield tuple(group)


def encode_segments(
    sources: Sequence[SourceVideo],
    path: Path,
    settings: ExtractSettings,
    scratch: Path,
    stack: ExitStack,
    on_frame: Callable[[int], None] = lambda num_frames: None,
) -> Iterator[Sample | BaseException]:
    """Sample and row of each segment, or the reason why there is none, in their order and as soon as they are complete.

    sources: segments of the file, sorted by start. Other arguments as `encode_video` has them. The spools of a segment are
    closed when the next one is asked for.
    """
    apart = all(one.end_seconds <= other.start_seconds for one, other in pairwise(sources))
    num_at_once = 1 if apart else len(sources)
    segments = [_Segment(source, settings, scratch, num_at_once) for source in sources]
    for segment in segments:
        stack.callback(segment.stack.close)
    try:
        # A file that changes while it is read would not be the file of the digest.
        state = file_state(path)
        source_sha256 = file_sha256(path, on_piece=lambda: on_frame(0))
        for result in _one_pass(segments, path, settings, source_sha256, stack, on_frame):
            if isinstance(result, tuple):
                refuse_change(path, state)
            segments.pop(0)
            yield result
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # a decoder may raise them
        # What ends the pass ends all segments that are not complete.
        yield from [error] * len(segments)


def _one_pass(
    segments: Sequence[_Segment],
    path: Path,
    settings: ExtractSettings,
    source_sha256: str,
    stack: ExitStack,
    on_frame: Callable[[int], None],
) -> Iterator[Sample | BaseException]:
    reader = open_segments(
        path,
        decoder=settings.decoder,
        space=settings.space,
        short_side=settings.short_side,
        as_coded=settings.encoder == "fused",
    )
    stack.callback(lambda: reader.video.close())  # the file is opened again on some seeks
    waiting = list(segments)
    last = -1  # time of the last frame
    before = reader.counts()
    for time, picture in read_spans(reader, [(segment.start, segment.end) for segment in segments]):
        last = max(last, time)
        for segment in waiting:
            if time >= segment.end:
                segment.finish(reader, source_sha256, last, at_end=False)
            elif picture is not None and segment.start <= time:
                segment.add(picture, before, reader.video.fps)
        before = reader.counts()
        while waiting and (result := waiting[0].result) is not None:
            yield result
            waiting.pop(0).stack.close()
        on_frame(waiting[0].num_frames if waiting else 0)
    for segment in waiting:
        segment.finish(reader, source_sha256, last, at_end=True)
        assert segment.result is not None
        yield segment.result
        segment.stack.close()


class _Segment:
    """A segment while its file is read."""

    def __init__(self, source: SourceVideo, settings: ExtractSettings, scratch: Path, num_at_once: int) -> None:
        self.source, self.settings, self.scratch, self.num_at_once = source, settings, scratch, num_at_once
        self.start, self.end = round(source.start_seconds * SECOND), round(source.end_seconds * SECOND)
        self.stack = ExitStack()
        self.encoder: SampleEncoder | None = None
        self.before: Counts = ()
        self.result: Sample | BaseException | None = None

    @property
    def num_frames(self) -> int:
        return self.encoder.num_frames if self.encoder else 0

    def add(self, picture: Picture, before: Counts, fps: float) -> None:
        """Encode a picture. before: counts of the reader before it."""
        if self.result is not None:
            return
        if self.encoder is None:
            self.before = before
            self.encoder = SampleEncoder(self.settings, self.scratch, self.stack, fps, num_at_once=self.num_at_once)
        try:
            self.encoder.add(picture)
        except (DecodeError, MemberTooLargeError) as error:  # of this segment alone
            self._fail(error)

    def finish(self, reader: SegmentReader, source_sha256: str, last: int, *, at_end: bool) -> None:
        """Complete the sample. last: time of the last frame that was read, at_end: and it is the last one of the file."""
        if self.result is not None:
            return
        try:
            note = self._note(reader, last, at_end)
            assert self.encoder is not None
            self.result = self.encoder.finish(self.source, reader.video, source_sha256, note)
        except DecodeError as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.result = error
        self.stack.close()

    def _note(self, reader: SegmentReader, last: int, at_end: bool) -> str:
        """What the row says about the segment; DecodeError if it is unusable."""
        video, span = reader.video, f"{_seconds(self.start)} to {_seconds(self.end)} s"
        frame = round(SECOND / video.fps) if video.fps else 0
        broken = [note for note in video.notes if at_end and note.startswith("the file breaks off")]
        damaged = reader.counts()[0] - self.before[0] if self.before else 0
        notes = [f"{damaged} damaged packets"] if damaged else []
        damage = "; ".join(notes + broken)
        if not self.num_frames and at_end:
            end = f"ends at {_seconds(last + frame)} s" if last >= 0 else "holds no frame that decodes"
            raise DecodeError(
                f"the segment from {span} lies outside of the file, which {end}{': ' * bool(broken)}{'; '.join(broken)}"
            )
        if self.num_frames < 2:
            count = "only 1 frame" if self.num_frames else "no frame"
            raise DecodeError(f"{count} from {span}: a temporal gradient needs two{': ' * bool(damage)}{damage}")
        if damage and self.settings.on_damage == "fail":
            raise DecodeError(f"damaged ({damage}); {self.num_frames} frames decode")
        if at_end and self.end > last + _TOLERANCE * frame:
            notes.append(f"the file ends at {_seconds(last + frame)} s, the segment at {_seconds(self.end)} s")
        general = [note for note in video.notes if not note.startswith("the file breaks off")]
        return "; ".join([*notes, *general, *broken, *notes_between(self.before, reader.counts())])


def _seconds(time: int) -> str:
    return f"{time / SECOND:.6f}".rstrip("0").rstrip(".")
