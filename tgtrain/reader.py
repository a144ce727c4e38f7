"""Clips straight from the shards: memory-mapped tars, one index lookup, only the JPEGs that the clip needs.

A reader holds no process state worth keeping: it is cheap to send to loader workers, which map the shards anew.
"""

from __future__ import annotations

import mmap
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from manifests.gradient import Frame, temporal_gradient
from manifests.records import WRITTEN, InputError, Manifest
from manifests.sample import decode_offsets
from tgtrain.clip import ClipPlan
from tgtrain.crop import CropBox, Size

_OPEN_SHARDS = 256
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
class VideoPlace:
    """What reading needs to know of a stored video."""

    key: str
    shard: str
    num_frames: int
    height: int
    width: int
    rgb_index: tuple[int, int]
    rgb: tuple[int, int]
    tg_index: tuple[int, int]
    tg: tuple[int, int]


class ClipReader:
    """Reads planned clips of the videos of a data set.

    places: the videos, in the order in which callers number them.
    """

    def __init__(self, root: str, places: tuple[VideoPlace, ...]) -> None:
        self.root = root
        self.places = places
        self.shards: OrderedDict[str, mmap.mmap] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "places": self.places}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # maps are opened anew in the process that reads

    def read_views(self, video: int, plans: Iterable[ClipPlan], *, rgb: bool = True, tg: bool = True) -> list[Clip]:
        """All views of the plans, plan-major, crop-minor; every stored frame is decoded once.

        Raises BadSampleError where the sample is damaged or the shard is gone.
        """
        place = self.places[video]
        plans = list(plans)
        try:
            data = self._shard(place.shard)
            wanted_rgb = {frame for plan in plans for frame in plan.frames} if rgb else set()
            wanted_tg = {frame for plan in plans for frame in plan.tg_frames} if tg else set()
            slow = any(plan.gradient == "slow" for plan in plans)
            stored_tg = place.tg[0] >= 0
            source = wanted_rgb | (wanted_tg if slow else set())
            if tg and not slow and not stored_tg:
                source = source | wanted_tg | {frame + 1 for frame in wanted_tg}
            frames = self._decode(data, place, place.rgb_index, place.rgb, source, "RGB frame")
            if slow:
                gradients = {frame: frames[frame] for frame in wanted_tg}
            elif stored_tg:
                gradients = self._decode(data, place, place.tg_index, place.tg, wanted_tg, "TG frame")
            else:
                gradients = {frame: temporal_gradient(frames[frame], frames[frame + 1]) for frame in wanted_tg}
        except (OSError, ValueError) as error:
            raise BadSampleError(f"{place.key} in {place.shard}: {error}") from None
        resized = plans[0].resized if plans else None
        if resized is not None:  # a test: one resize of the frame serves all crops
            frames = {index: _resize(frame, resized) for index, frame in frames.items()}
            gradients = {index: _resize(frame, resized) for index, frame in gradients.items()}
        clips = []
        for plan in plans:
            for box, tg_box in zip(plan.boxes, plan.tg_boxes, strict=True):
                clips.append(
                    Clip(
                        rgb=_cut([frames[f] for f in plan.frames], plan, box, plan.flip) if rgb else _NOTHING,
                        tg=_cut([gradients[f] for f in plan.tg_frames], plan, tg_box, plan.tg_flip) if tg else None,
                    )
                )
        return clips

    def read(self, video: int, plan: ClipPlan, *, rgb: bool = True, tg: bool = True) -> Clip:
        """The one view of a training plan."""
        return self.read_views(video, [plan], rgb=rgb, tg=tg)[0]

    def close(self) -> None:
        """Unmap the shards."""
        while self.shards:
            self.shards.popitem()[1].close()

    def _shard(self, name: str) -> mmap.mmap:
        data = self.shards.get(name)
        if data is not None:
            self.shards.move_to_end(name)
            return data
        with (Path(self.root) / name).open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.shards[name] = data
        if len(self.shards) > _OPEN_SHARDS:
            self.shards.popitem(last=False)[1].close()
        return data

    def _decode(
        self,
        data: mmap.mmap,
        place: VideoPlace,
        index: tuple[int, int],
        member: tuple[int, int],
        wanted: set[int],
        kind: str,
    ) -> dict[int, Frame]:
        if not wanted:
            return {}
        offsets = decode_offsets(data[index[0] : index[0] + index[1]])
        if int(offsets[-1]) != member[1] or max(wanted) >= len(offsets) - 1:
            raise ValueError(
                f"its index names {len(offsets) - 1} {kind}s and {offsets[-1]} bytes, expected {member[1]}"
            )
        decoded = {}
        for frame in sorted(wanted):
            start, end = member[0] + int(offsets[frame]), member[0] + int(offsets[frame + 1])
            try:
                picture: Frame = simplejpeg.decode_jpeg(data[start:end], colorspace="RGB")
            except ValueError as error:
                raise ValueError(f"{kind} {frame} is damaged ({error})") from None
            if picture.shape[:2] != (place.height, place.width):
                raise ValueError(
                    f"{kind} {frame} is {picture.shape[1]}x{picture.shape[0]}, expected {place.width}x{place.height}"
                )
            decoded[frame] = picture
        return decoded


_NOTHING: Pixels = np.empty((0, 0, 0, 3), np.uint8)


def open_reader(manifest: Manifest, keys: Iterable[str]) -> ClipReader:
    """A reader of the videos with these keys, numbered in their order. InputError where one has no sample."""
    if "://" in manifest.root:
        raise InputError(
            f"{manifest.root}: training reads shards from local disk; copy the data set to a local folder."
        )
    keys = list(keys)
    table = manifest.videos.arrow
    at = {key: row for row, key in enumerate(table["key"].to_pylist())}
    missing = [key for key in keys if key not in at]
    if missing:
        raise InputError(f"{len(missing)} videos of the split are not in the data set (the first: {missing[0]}).")
    videos = manifest.videos.take([at[key] for key in keys])
    places = []
    for row in videos:
        if row.status != WRITTEN:
            raise InputError(f"{row.key} of the split has no sample: {row.error}. Make the split anew.")
        m = row.members
        places.append(
            VideoPlace(
                key=row.key,
                shard=row.shard,
                num_frames=row.num_frames,
                height=row.height,
                width=row.width,
                rgb_index=(m.rgb_index_offset, m.rgb_index_bytes),
                rgb=(m.rgb_offset, m.rgb_bytes),
                tg_index=(m.tg_index_offset, m.tg_index_bytes),
                tg=(m.tg_offset, m.tg_bytes),
            )
        )
    return ClipReader(manifest.root, tuple(places))


def _resize(frame: Frame, size: Size) -> Frame:
    if frame.shape[:2] == (size.height, size.width):
        return frame
    return np.asarray(cv2.resize(frame, (size.width, size.height), interpolation=cv2.INTER_LINEAR), np.uint8)


def _cut(frames: list[Frame], plan: ClipPlan, box: CropBox, flip: bool) -> Pixels:
    """Cut, scale and mirror the frames of one view into uint8[T, S, S, 3]."""
    side = plan.output_size
    out: Pixels = np.empty((len(frames), side, side, 3), np.uint8)
    for picture, target in zip(frames, out, strict=True):
        part = picture[box.top : box.top + box.height, box.left : box.left + box.width]
        if part.shape[:2] == (side, side):
            target[:] = part
        else:
            cv2.resize(part, (side, side), dst=target, interpolation=cv2.INTER_LINEAR)
        if flip:
            cv2.flip(target, 1, dst=target)
    return out
