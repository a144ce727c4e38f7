"""Clips straight from the shards: one lookup in the video index, then only what the clip needs is read and decoded.

That is its JPEGs, or of a stored video the pictures from the last self-contained one before each of its frames.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from manifests.files import is_url
from manifests.gradient import Frame, temporal_gradient
from manifests.object_store import UnreachableError
from manifests.sample import decode_offsets, video_gop
from manifests.table import Manifest
from tgtrain.data.clip import ClipPlan
from tgtrain.data.crop import CropBox, Size
from tgtrain.data.jpeg_bands import Bands, cut_bands
from tgtrain.data.stores import Shards
from tgtrain.data.stores.cache import CacheSettings
from tgtrain.data.stores.local import LocalShards
from tgtrain.data.stores.remote import RemoteShards
from tgtrain.data.stores.sequential import SequentialShards
from tgtrain.data.stores.shard_source import ShardSource
from tgtrain.data.stores.video_index import StoredVideo, VideoIndex, index_of
from tgtrain.data.video_frames import GopDecoder, PictureRun, runs_of

Pixels = npt.NDArray[np.uint8]
NO_PIXELS: Pixels = np.empty((0, 0, 0, 3), np.uint8)


class BadSampleError(Exception):
    """A stored video cannot be read as the manifest says; the message names it and the reason."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One view of one video; rgb and tg have the same geometry unless the plan says otherwise."""

    rgb: Pixels  # uint8[T, S, S, 3]
    # As rgb; None if only RGB was requested. With slow TG the T + 1 raw frames whose differences are the gradient.
    tg: Pixels | None


class Cut(NamedTuple):
    """One frame of one view: which part of the picture goes where."""

    target: Pixels  # uint8[S, S, 3], to be filled
    box: CropBox
    flip: bool
    turn_x: bool = False  # for flow: mirroring also reverses the horizontal motion, which is the last channel


class Picture(NamedTuple):
    """A stored frame, or a part of it."""

    frame: int  # number of the frame
    pixels: Frame  # uint8[H, W, 3]
    top: int = 0  # row and column of the frame at which the pixels begin
    left: int = 0

    def part(self, box: CropBox) -> Frame:
        """The pixels of a box of the frame, which must lie within the picture."""
        top, left = box.top - self.top, box.left - self.left
        return self.pixels[top : top + box.height, left : left + box.width]


Cuts = dict[int, list[Cut]]
OfPair = Callable[[Frame, Frame], Frame]


class ClipReader:
    """Reads planned clips of the videos of a data set. It is cheap to pickle into loader processes.

    index: the videos, by the numbers that callers use. shards: their bytes.
    gop: pictures from one self-contained one to the next in stored videos; 0 if frames are stored as JPEG.
    """

    def __init__(self, index: VideoIndex, shards: Shards, gop: int = 0) -> None:
        self.index = index
        self.shards = shards
        self.gop = gop
        self.decoder: GopDecoder | None = None
        self.scratch: tuple[Pixels, Pixels] = (NO_PIXELS, NO_PIXELS)

    def __reduce__(self) -> tuple[Any, ...]:
        return ClipReader, (self.index, self.shards, self.gop)

    def read_views(
        self,
        number: int,
        plans: Iterable[ClipPlan],
        *,
        rgb: bool = True,
        tg: bool = True,
        into: Sequence[Clip] | None = None,
    ) -> list[Clip]:
        """All views of the plans, plan-major, crop-minor; every stored frame is decoded once and resized once a crop.

        number: of the video. into: clips to fill, one for each view, of the right shapes; allocated here if None.
        Raises BadSampleError if the sample is damaged or the shard is missing.
        """
        video = self.index[number]
        plans = list(plans)
        clips, rgb_cuts, tg_cuts = _cuts(plans, rgb, tg, into)
        slow, second = _sources(plans)
        resized = plans[0].resized if plans else None
        frames = _needed_frames(video, rgb_cuts, tg_cuts, slow, second)
        try:
            if second == "flow" and tg_cuts and video.members.flow_offset < 0:
                raise ValueError("it holds no flow")
            if second not in frames:  # TG, if any, is computed from RGB
                pictures = self._pictures(video, "rgb", frames["rgb"], _visible_part(plans, rgb, tg))
                _cut_from_rgb(pictures, rgb_cuts, tg_cuts, slow, resized)
            else:
                for kind, cuts in (("rgb", rgb_cuts), (second, tg_cuts)):
                    # Whether flow has any motion is asked of all of it.
                    part = None if kind == "flow" else _visible_part(plans, kind == "rgb", kind == "tg")
                    for picture in self._pictures(video, kind, cuts, part):
                        _apply(picture, cuts[picture.frame], resized)
        except UnreachableError:
            raise  # nothing is known against the sample
        except (OSError, ValueError) as error:
            raise BadSampleError(f"{video.key} in {video.shard}: {error}") from None
        return clips

    def read(self, number: int, plan: ClipPlan, *, rgb: bool = True, tg: bool = True) -> Clip:
        """The one view of a training plan."""
        return self.read_views(number, [plan], rgb=rgb, tg=tg)[0]

    def ranges(
        self, number: int, plans: Sequence[ClipPlan], *, rgb: bool = True, tg: bool = True
    ) -> list[tuple[int, int]]:
        """The (offset, size) ranges of its shard that `read_views` reads for these plans, frame indices included.

        Raises BadSampleError as it does.
        """
        video = self.index[number]
        frames = {frame for plan in plans for frame in plan.frames} if rgb else set()
        gradients = {frame for plan in plans for frame in plan.tg_frames} if tg else set()
        ranges: list[tuple[int, int]] = []
        try:
            for kind, numbers in _needed_frames(video, frames, gradients, *_sources(plans)).items():
                if numbers:
                    _, _, pictures = self._places(video, kind, sorted(numbers))
                    ranges += [video.members.place(kind)[:2], *pictures]
        except UnreachableError:
            raise
        except (OSError, ValueError) as error:
            raise BadSampleError(f"{video.key} in {video.shard}: {error}") from None
        return ranges

    def _places(
        self, video: StoredVideo, kind: str, frames: list[int]
    ) -> tuple[list[int], list[PictureRun], list[tuple[int, int]]]:
        """What to read for stored frames (sorted): offsets of all frames in their member, runs, (offset, size) of each run.

        ValueError if the frames are not in the member.
        """
        index_start, index_size, start, size = video.members.place(kind)
        is_video = kind == "rgb" and bool(self.gop)
        (content,) = self.shards.read(video.shard, [(index_start, index_size)])
        offsets: list[int] = decode_offsets(content, mp4=is_video).tolist()
        # An .mp4 holds more than its pictures.
        if frames[-1] >= len(offsets) - 1 or (offsets[-1] > size if is_video else offsets[-1] != size):
            what = "" if is_video else f"{kind.upper()} "
            raise ValueError(
                f"its index names {len(offsets) - 1} {what}frames and {offsets[-1]} bytes, expected {size}"
            )
        runs = runs_of(frames, self.gop) if is_video else [PictureRun(frame, frame) for frame in frames]
        return offsets, runs, [(start + offsets[r.first], offsets[r.last + 1] - offsets[r.first]) for r in runs]

    def close(self) -> None:
        """Close the shards."""
        self.shards.close()

    def _pictures(
        self, video: StoredVideo, kind: str, frames: Iterable[int], part: CropBox | None = None
    ) -> Iterator[Picture]:
        """Stored frames of a kind (rgb, tg, flow), rising; the pixels of each are valid until the next but one.

        part: the part of them that is needed; other pixels may have any value, or be missing.
        """
        frames = sorted(frames)
        if not frames:
            return
        offsets, runs, ranges = self._places(video, kind, frames)
        contents = self.shards.read(video.shard, ranges)
        if kind == "rgb" and self.gop:
            coded = (
                (number, content[offsets[number] - offsets[run.first] : offsets[number + 1] - offsets[run.first]])
                for run, content in zip(runs, contents, strict=True)
                for number in range(run.first, run.last + 1)
            )
            self.decoder = self.decoder or GopDecoder()
            for number, pixels in self.decoder.decode(coded, frames, video.height, video.width, part):
                yield Picture(number, pixels)
            return
        bands = None if part is None else cut_bands(contents, part, Size(video.height, video.width))
        for turn, (frame, jpeg) in enumerate(zip(frames, contents, strict=True)):
            band = None if bands is None else self._decode_band(bands, turn, video)
            pixels = self._decode_jpeg(jpeg, video, f"{kind.upper()} frame {frame}", turn % 2) if band is None else band
            top, left = (0, 0) if bands is None or band is None else (bands.box.top, bands.box.left)
            yield Picture(frame, pixels, top, left)

    def _decode_band(self, bands: Bands, number: int, video: StoredVideo) -> Frame | None:
        """One of the pictures of a part; None if it is damaged, which the complete one will say better."""
        try:
            picture: Frame = simplejpeg.decode_jpeg(
                bands.jpegs[number], colorspace="RGB", buffer=self._buffer(video, number % 2)
            )
        except ValueError:
            return None
        return picture

    def _decode_jpeg(self, jpeg: bytes, video: StoredVideo, what: str, slot: int) -> Frame:
        try:
            height, width, *_ = simplejpeg.decode_jpeg_header(jpeg)
            if (height, width) == (video.height, video.width):
                picture: Frame = simplejpeg.decode_jpeg(jpeg, colorspace="RGB", buffer=self._buffer(video, slot))
                return picture
        except ValueError as error:
            raise ValueError(f"{what} is damaged ({error})") from None
        raise ValueError(f"{what} is {width}x{height}, expected {video.width}x{video.height}")

    def _buffer(self, video: StoredVideo, slot: int) -> Pixels:
        """Room for a frame."""
        shape = (video.height, video.width, 3)
        if self.scratch[0].shape != shape:
            self.scratch = (np.empty(shape, np.uint8), np.empty(shape, np.uint8))
        return self.scratch[slot]


def open_reader(
    manifest: Manifest, keys: Iterable[str], cache: CacheSettings | None = None, source: ShardSource | None = None
) -> ClipReader:
    """A reader of the videos with these keys, numbered in their order. InputError if one has no sample.

    cache: for shards of a data set at a URL. source: set if shards are to be read from their beginning.
    """
    index = index_of(manifest, tuple(keys))
    gop = video_gop(manifest.header)
    shards: Shards
    if source is not None:
        shards = SequentialShards(source, index)
    elif is_url(manifest.root):
        shards = RemoteShards(manifest.root, manifest.shards, index, (cache or CacheSettings()).open(), gop > 0)
    else:
        shards = LocalShards(manifest.root)
    return ClipReader(index, shards, gop)


def cut_video(
    frames: Iterable[Frame],
    plans: Sequence[ClipPlan],
    *,
    rgb: bool = True,
    tg: bool = True,
    of_pair: OfPair = temporal_gradient,
) -> tuple[list[Clip], int]:
    """Cut the views of the plans from all frames of a video (uint8[H, W, 3]) as they come; also counts the frames.

    Views are plan-major, crop-minor, as `ClipReader.read_views` gives them for a stored video. A frame may be overwritten after
    the next but one has come. of_pair: computes the TG view from a frame and the one after it. If there are fewer frames than
    the plans need, clips stay incomplete: make new plans.
    """
    plans = list(plans)
    clips, rgb_cuts, tg_cuts = _cuts(plans, rgb, tg)
    slow, _ = _sources(plans)
    needed = _rgb_frames(rgb_cuts, tg_cuts, slow)
    num_frames = 0

    def pictures() -> Iterator[Picture]:
        nonlocal num_frames
        for num_frames, frame in enumerate(frames, 1):
            if num_frames - 1 in needed:
                yield Picture(num_frames - 1, frame)

    _cut_from_rgb(pictures(), rgb_cuts, tg_cuts, slow, plans[0].resized if plans else None, of_pair)
    return clips, num_frames


def _sources(plans: Sequence[ClipPlan]) -> tuple[bool, str]:
    """Whether the plans want slow TG, and the member that their second view is stored in: tg or flow."""
    gradients = {plan.gradient for plan in plans}
    return "slow" in gradients, "flow" if "flow" in gradients else "tg"


def _needed_frames(
    video: StoredVideo, frames: Collection[int], gradients: Collection[int], slow: bool, second: str
) -> dict[str, set[int]]:
    """The stored frames to read, by kind; RGB alone if TG is computed from it or is not needed."""
    if slow or not gradients or video.members.place(second)[2] < 0:
        return {"rgb": _rgb_frames(frames, gradients, slow)}
    return {"rgb": set(frames), second: set(gradients)}


def _cuts(
    plans: list[ClipPlan], rgb: bool, tg: bool, into: Sequence[Clip] | None = None
) -> tuple[list[Clip], Cuts, Cuts]:
    """The clips to fill, one for each view, and the cuts that each stored frame and each gradient is needed for."""
    views = [(plan, *boxes) for plan in plans for boxes in zip(plan.boxes, plan.tg_boxes, strict=True)]
    clips = list(into or ())
    for plan, *_ in views if into is None else ():
        size = (plan.output_size, plan.output_size, 3)
        pixels = np.empty((len(plan.frames), *size), np.uint8) if rgb else NO_PIXELS
        clips.append(Clip(pixels, np.empty((len(plan.tg_frames), *size), np.uint8) if tg else None))
    rgb_cuts: Cuts = defaultdict(list)
    tg_cuts: Cuts = defaultdict(list)
    for (plan, box, tg_box), clip in zip(views, clips, strict=True):
        if rgb:
            for frame, target in zip(plan.frames, clip.rgb, strict=True):
                rgb_cuts[frame].append(Cut(target, box, plan.flip))
        if tg and clip.tg is not None:
            for frame, target in zip(plan.tg_frames, clip.tg, strict=True):
                turn_x = plan.tg_flip and plan.gradient == "flow" and not plan.flow_keeps_x
                tg_cuts[frame].append(Cut(target, tg_box, plan.tg_flip, turn_x))
    return clips, dict(rgb_cuts), dict(tg_cuts)


def _rgb_frames(frames: Iterable[int], gradients: Iterable[int], slow: bool) -> set[int]:
    """The RGB frames that views are made from if no gradients are stored: for fast TG also the one after each."""
    gradients = set(gradients)
    return {*frames, *gradients} | (set() if slow else {frame + 1 for frame in gradients})


def _cut_from_rgb(
    pictures: Iterable[Picture],
    rgb_cuts: Cuts,
    tg_cuts: Cuts,
    slow: bool,
    resized: Size | None,
    of_pair: OfPair = temporal_gradient,
) -> None:
    """Fill all cuts from RGB frames, by rising index; fast TG is computed from neighbours as they come."""
    previous = Picture(-2, NO_PIXELS)
    for picture in pictures:
        index, before = picture.frame, previous.frame
        _apply(picture, (*rgb_cuts.get(index, ()), *(tg_cuts.get(index, ()) if slow else ())), resized)
        if not slow and before == index - 1 and before in tg_cuts:
            if resized is not None or of_pair is not temporal_gradient:
                gradient = of_pair(previous.pixels, picture.pixels)
                _apply(Picture(before, gradient), tg_cuts[before], resized)
            else:  # the gradient is pixel by pixel: only the part that is cut out needs it
                for cut in tg_cuts[before]:
                    _fit(temporal_gradient(previous.part(cut.box), picture.part(cut.box)), cut)
        previous = picture


def _apply(picture: Picture, cuts: Iterable[Cut], resized: Size | None) -> None:
    """Cut, scale and mirror one picture into all its targets. resized: a test scales the complete picture first."""
    if resized is not None and picture.pixels.shape[:2] != (resized.height, resized.width):
        pixels = cv2.resize(picture.pixels, (resized.width, resized.height), interpolation=cv2.INTER_LINEAR)
        picture = Picture(picture.frame, np.asarray(pixels, np.uint8))
    for cut in cuts:
        _fit(picture.part(cut.box), cut)
        if cut.turn_x and picture.pixels[..., -1].any():
            # The x of each picture is stretched to 0..255 by its own minimum and maximum, so -x is stored as 255 minus x.
            # A picture without motion is stored as 0, and stays 0.
            np.subtract(255, cut.target[..., -1], out=cut.target[..., -1])


def _fit(part: Frame, cut: Cut) -> None:
    """Scale and mirror the part of a picture into its target."""
    if part.shape == cut.target.shape:
        cut.target[:] = part
    else:
        cv2.resize(part, cut.target.shape[1::-1], dst=cut.target, interpolation=cv2.INTER_LINEAR)
    if cut.flip:
        cv2.flip(cut.target, 1, dst=cut.target)


def _visible_part(plans: Sequence[ClipPlan], of_rgb: bool, of_tg: bool) -> CropBox | None:
    """The smallest box that holds all boxes of training plans for RGB, for TG, or for both; None if complete frames are scaled first."""
    if any(plan.resized is not None for plan in plans):
        return None
    boxes = [box for plan in plans for box in (*(plan.boxes if of_rgb else ()), *(plan.tg_boxes if of_tg else ()))]
    top, left = min(box.top for box in boxes), min(box.left for box in boxes)
    bottom, right = max(box.top + box.height for box in boxes), max(box.left + box.width for box in boxes)
    return CropBox(top, left, bottom - top, right - left)
