"""Clips straight from the shards: one index lookup, and only what the clip needs is read and decoded: its JPEGs, or of a stored
video the pictures from the last self-contained one before each of its frames.

A reader holds no process state worth keeping: it is cheap to send to loader workers, which open the shards anew.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

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
from tgtrain.data.stores.cache import CacheSettings
from tgtrain.data.stores.local import LocalShards, Shards
from tgtrain.data.stores.remote import RemoteShards
from tgtrain.data.stores.sequential import ShardSource, StreamedShards
from tgtrain.data.stores.video_index import StoredVideo, VideoIndex, index_of
from tgtrain.data.video_frames import GopDecoder, runs_of

Pixels = npt.NDArray[np.uint8]


class BadSampleError(Exception):
    """A stored video cannot be read as the manifest says; the message names it and says what is wrong."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One view of one video: rgb and tg uint8[T, S, S, 3], the same geometry unless the plan says otherwise.

    tg is None where only RGB was asked for. With slow TG it holds the T + 1 raw frames whose differences are the gradient.
    """

    rgb: Pixels
    tg: Pixels | None


@dataclass(frozen=True, slots=True)
class Cut:
    """One frame of one view: which part of the picture goes where (uint8[S, S, 3]), mirrored or not.

    turn_x: of flow, whose last channel is the horizontal motion: it turns around.
    """

    target: Pixels
    box: CropBox
    flip: bool
    turn_x: bool = False


Cuts = dict[int, list[Cut]]
OfPair = Callable[[Frame, Frame], Frame]


class ClipReader:
    """Reads planned clips of the videos of a data set.

    places: the videos, in the order in which callers number them. shards: where their bytes come from.
    gop: pictures from one self-contained one to the next in stored videos; 0 where frames are stored as JPEG.
    """

    def __init__(self, index: VideoIndex, shards: Shards, gop: int = 0) -> None:
        self.index = index
        self.shards = shards
        self.gop = gop
        self.decoder: GopDecoder | None = None
        self.scratch: tuple[Pixels, Pixels] = (_NOTHING, _NOTHING)

    def __getstate__(self) -> dict[str, Any]:
        return {"index": self.index, "shards": self.shards, "gop": self.gop}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def read_views(
        self,
        video: int,
        plans: Iterable[ClipPlan],
        *,
        rgb: bool = True,
        tg: bool = True,
        into: Sequence[Clip] | None = None,
    ) -> list[Clip]:
        """All views of the plans, plan-major, crop-minor; every stored frame is decoded once and resized once a crop.

        into: clips to fill, one a view, of the right shapes (a batch's own memory); made here where there are none.
        Raises BadSampleError where the sample is damaged or the shard is gone.
        """
        place = self.index[video]
        plans = list(plans)
        clips = list(into) if into is not None else [_empty(plan, rgb, tg) for plan in plans for _ in plan.boxes]
        rgb_cuts, tg_cuts = _cuts(plans, clips, rgb, tg)
        slow = any(plan.gradient == "slow" for plan in plans)
        resized = plans[0].resized if plans else None
        try:
            second = "flow" if any(plan.gradient == "flow" for plan in plans) else "tg"
            if second == "flow" and tg_cuts and place.members.flow_offset < 0:
                raise ValueError("it holds no flow")
            if slow or not tg_cuts or place.members.place(second)[2] < 0:
                wanted = _rgb_wanted(rgb_cuts, tg_cuts, slow)
                _cut_from_rgb(self._pictures(place, "rgb", wanted, _looked_at(plans)), rgb_cuts, tg_cuts, slow, resized)
            else:
                for index, picture in self._pictures(place, "rgb", rgb_cuts.keys()):
                    _apply(picture, rgb_cuts[index], resized)
                for index, picture in self._pictures(place, second, tg_cuts.keys()):
                    _apply(picture, tg_cuts[index], resized)
        except UnreachableError:
            raise  # the sample may be as good as any
        except (OSError, ValueError) as error:
            raise BadSampleError(f"{place.key} in {place.shard}: {error}") from None
        return clips

    def read(self, video: int, plan: ClipPlan, *, rgb: bool = True, tg: bool = True, into: Clip | None = None) -> Clip:
        """The one view of a training plan."""
        return self.read_views(video, [plan], rgb=rgb, tg=tg, into=None if into is None else [into])[0]

    def ranges(
        self, video: int, plans: Sequence[ClipPlan], *, rgb: bool = True, tg: bool = True
    ) -> list[tuple[int, int]]:
        """Where in its shard the bytes lie that `read_views` asks for with these plans: (offset, size), indices included.

        Raises BadSampleError as it does.
        """
        place = self.index[video]
        frames = {frame for plan in plans for frame in plan.frames} if rgb else set()
        gradients = {frame for plan in plans for frame in plan.tg_frames} if tg else set()
        slow = any(plan.gradient == "slow" for plan in plans)
        second = "flow" if any(plan.gradient == "flow" for plan in plans) else "tg"
        wanted = {"rgb": frames, second: gradients}
        if slow or not gradients or place.members.place(second)[2] < 0:
            wanted = {"rgb": frames | gradients | (set() if slow else {frame + 1 for frame in gradients})}
        found: list[tuple[int, int]] = []
        try:
            for kind, some in wanted.items():
                if some:
                    index_offset, index_size, start, _ = place.members.place(kind)
                    offsets = self._offsets(place, kind, sorted(some))
                    runs = runs_of(sorted(some), self.gop) if kind == "rgb" and self.gop else None
                    spans = [(run.first, run.last + 1) for run in runs] if runs else [(f, f + 1) for f in sorted(some)]
                    found += [(index_offset, index_size)]
                    found += [(start + offsets[first], offsets[end] - offsets[first]) for first, end in spans]
        except UnreachableError:
            raise
        except (OSError, ValueError) as error:
            raise BadSampleError(f"{place.key} in {place.shard}: {error}") from None
        return found

    def _offsets(self, place: StoredVideo, kind: str, frames: list[int]) -> list[int]:
        """Where each stored frame lies in its member; ValueError where the wanted frames (sorted) cannot lie there."""
        index_start, index_size, _, size = place.members.place(kind)
        coded = kind == "rgb" and bool(self.gop)
        offsets: list[int] = decode_offsets(
            self.shards.read(place.shard, [(index_start, index_size)])[0], mp4=coded
        ).tolist()
        if frames[-1] >= len(offsets) - 1 or (offsets[-1] > size if coded else offsets[-1] != size):
            raise ValueError(
                f"its index names {len(offsets) - 1} {'' if coded else f'{kind.upper()} '}frames and {offsets[-1]} bytes, expected {size}"
            )
        return offsets

    def close(self) -> None:
        """Close the shards."""
        self.shards.close()

    def _pictures(
        self, place: StoredVideo, kind: str, wanted: Iterable[int], part: CropBox | None = None
    ) -> Iterator[tuple[int, Frame]]:
        """The wanted frames (kind rgb), gradients (tg) or flow (flow) as stored, by rising index, each good until the next but one.

        part: what of them will be looked at; the rest may be anything.
        """
        frames = sorted(wanted)
        if not frames:
            return
        if kind == "rgb" and self.gop:
            yield from self._decoded(place, frames, part)
            return
        for number, (frame, jpeg) in enumerate(zip(frames, self._jpegs(place, kind, frames), strict=True)):
            yield frame, self._decode(jpeg, place, f"{kind.upper()} frame {frame}", number % 2)

    def _decoded(self, place: StoredVideo, frames: list[int], part: CropBox | None) -> Iterator[tuple[int, Frame]]:
        """Frames of a stored video."""
        m = place.members
        offsets = self._offsets(place, "rgb", frames)
        runs = runs_of(frames, self.gop)
        ranges = [(m.rgb_offset + offsets[run.first], offsets[run.last + 1] - offsets[run.first]) for run in runs]
        coded = self.shards.read(place.shard, ranges)
        pictures = (
            (number, content[offsets[number] - offsets[run.first] : offsets[number + 1] - offsets[run.first]])
            for run, content in zip(runs, coded, strict=True)
            for number in range(run.first, run.last + 1)
        )
        if self.decoder is None:
            self.decoder = GopDecoder()
        yield from self.decoder.decode(pictures, frames, place.height, place.width, part)

    def _jpegs(self, place: StoredVideo, kind: str, frames: list[int]) -> list[bytes]:
        start = place.members.place(kind)[2]
        offsets = self._offsets(place, kind, frames)
        ranges = [(start + offsets[frame], offsets[frame + 1] - offsets[frame]) for frame in frames]
        return self.shards.read(place.shard, ranges)

    def _decode(self, jpeg: bytes, place: StoredVideo, what: str, slot: int) -> Frame:
        if self.scratch[0].shape[:2] != (place.height, place.width):
            shape = (place.height, place.width, 3)
            self.scratch = (np.empty(shape, np.uint8), np.empty(shape, np.uint8))
        try:
            height, width, *_ = simplejpeg.decode_jpeg_header(jpeg)
            if (height, width) == (place.height, place.width):
                picture: Frame = simplejpeg.decode_jpeg(jpeg, colorspace="RGB", buffer=self.scratch[slot])
                return picture
        except ValueError as error:
            raise ValueError(f"{what} is damaged ({error})") from None
        raise ValueError(f"{what} is {width}x{height}, expected {place.width}x{place.height}")


_NOTHING: Pixels = np.empty((0, 0, 0, 3), np.uint8)


def open_reader(
    manifest: Manifest, keys: Iterable[str], cache: CacheSettings | None = None, stream: ShardSource | None = None
) -> ClipReader:
    """A reader of the videos with these keys, numbered in their order. InputError where one has no sample.

    cache: where shards of a data set at a URL are kept. stream: where shards come from that are to be read from their beginning.
    """
    index = index_of(manifest, tuple(keys))
    gop = video_gop(manifest.header)
    if stream is not None:
        return ClipReader(index, StreamedShards(stream, index), gop)
    shards: Shards = LocalShards(manifest.root)
    if is_url(manifest.root):
        shards = RemoteShards(manifest.root, manifest.shards, index, (cache or CacheSettings()).open(), gop > 0)
    return ClipReader(index, shards, gop)


def cut_video(
    frames: Iterable[Frame],
    plans: Sequence[ClipPlan],
    *,
    rgb: bool = True,
    tg: bool = True,
    of_pair: OfPair = temporal_gradient,
) -> tuple[list[Clip], int]:
    """The views of the plans, cut from all frames of a video (uint8[H, W, 3]) as they come, and how many came.

    Plan-major, crop-minor, as `ClipReader.read_views` gives them of a stored video. Frames may be overwritten once the
    one after the next has come. of_pair: what stands for TG, of a frame and the one after it. Where fewer frames come than the plans ask for, clips are not filled: plan anew.
    """
    plans = list(plans)
    clips = [_empty(plan, rgb, tg) for plan in plans for _ in plan.boxes]
    rgb_cuts, tg_cuts = _cuts(plans, clips, rgb, tg)
    slow = any(plan.gradient == "slow" for plan in plans)
    wanted = _rgb_wanted(rgb_cuts, tg_cuts, slow)
    num_frames = 0

    def pictures() -> Iterator[tuple[int, Frame]]:
        nonlocal num_frames
        for frame in frames:
            num_frames += 1
            if num_frames - 1 in wanted:
                yield num_frames - 1, frame

    _cut_from_rgb(pictures(), rgb_cuts, tg_cuts, slow, plans[0].resized if plans else None, of_pair)
    return clips, num_frames


def clip_shapes(plan: ClipPlan) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of rgb and tg of one view of the plan."""
    side = plan.output_size
    return (len(plan.frames), side, side, 3), (len(plan.tg_frames), side, side, 3)


def _empty(plan: ClipPlan, rgb: bool, tg: bool) -> Clip:
    rgb_shape, tg_shape = clip_shapes(plan)
    return Clip(np.empty(rgb_shape, np.uint8) if rgb else _NOTHING, np.empty(tg_shape, np.uint8) if tg else None)


def _cuts(plans: list[ClipPlan], clips: list[Clip], rgb: bool, tg: bool) -> tuple[Cuts, Cuts]:
    """What each stored frame and each gradient is needed for."""
    rgb_cuts: Cuts = defaultdict(list)
    tg_cuts: Cuts = defaultdict(list)
    views = [(plan, *boxes) for plan in plans for boxes in zip(plan.boxes, plan.tg_boxes, strict=True)]
    for (plan, box, tg_box), clip in zip(views, clips, strict=True):
        if rgb:
            for frame, target in zip(plan.frames, clip.rgb, strict=True):
                rgb_cuts[frame].append(Cut(target, box, plan.flip))
        if tg and clip.tg is not None:
            for frame, target in zip(plan.tg_frames, clip.tg, strict=True):
                turn_x = plan.tg_flip and plan.gradient == "flow" and not plan.flow_keeps_x
                tg_cuts[frame].append(Cut(target, tg_box, plan.tg_flip, turn_x))
    return dict(rgb_cuts), dict(tg_cuts)


def _rgb_wanted(rgb_cuts: Cuts, tg_cuts: Cuts, slow: bool) -> set[int]:
    """Frames that views are made from where no gradients are stored: with fast TG also the one after."""
    return {*rgb_cuts, *tg_cuts} | (set() if slow else {index + 1 for index in tg_cuts})


def _cut_from_rgb(
    pictures: Iterable[tuple[int, Frame]],
    rgb_cuts: Cuts,
    tg_cuts: Cuts,
    slow: bool,
    resized: Size | None,
    of_pair: OfPair = temporal_gradient,
) -> None:
    """Fill all cuts from RGB frames, by rising index; fast TG is taken of neighbours as they come by."""
    before, previous = -2, _NOTHING
    for index, picture in pictures:
        _apply(picture, (*rgb_cuts.get(index, ()), *(tg_cuts.get(index, ()) if slow else ())), resized)
        if not slow and before == index - 1 and before in tg_cuts:
            if resized is not None or of_pair is not temporal_gradient:
                _apply(of_pair(previous, picture), tg_cuts[before], resized)
            else:
                for cut in tg_cuts[before]:
                    _fit(temporal_gradient(_part(previous, cut.box), _part(picture, cut.box)), cut)
        before, previous = index, picture


def _apply(picture: Frame, cuts: Iterable[Cut], resized: Size | None) -> None:
    """Cut, scale and mirror one picture into the places it is needed at. resized: a test scales the whole picture first."""
    if resized is not None and picture.shape[:2] != (resized.height, resized.width):
        picture = np.asarray(
            cv2.resize(picture, (resized.width, resized.height), interpolation=cv2.INTER_LINEAR), np.uint8
        )
    for cut in cuts:
        _fit(_part(picture, cut.box), cut)
        if cut.turn_x and picture[..., -1].any():
            # Each picture's x is stretched to 0..255 by its own least and most: that of -x is 255 less that of x. A picture
            # without differences is stored as 0, and stays so.
            np.subtract(255, cut.target[..., -1], out=cut.target[..., -1])


def _part(picture: Frame, box: CropBox) -> Frame:
    return picture[box.top : box.top + box.height, box.left : box.left + box.width]


def _fit(part: Frame, cut: Cut) -> None:
    """Scale and mirror what was cut out of a picture into its place."""
    if part.shape == cut.target.shape:
        cut.target[:] = part
    else:
        cv2.resize(part, cut.target.shape[1::-1], dst=cut.target, interpolation=cv2.INTER_LINEAR)
    if cut.flip:
        cv2.flip(cut.target, 1, dst=cut.target)


def _looked_at(plans: Sequence[ClipPlan]) -> CropBox | None:
    """The smallest box that holds all that training plans cut out of the frames; None: whole frames are scaled first."""
    if any(plan.resized is not None for plan in plans):
        return None
    boxes = [box for plan in plans for box in (*plan.boxes, *plan.tg_boxes)]
    top, left = min(box.top for box in boxes), min(box.left for box in boxes)
    bottom, right = max(box.top + box.height for box in boxes), max(box.left + box.width for box in boxes)
    return CropBox(top, left, bottom - top, right - left)
