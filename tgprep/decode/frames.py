"""What a decoder returns: frames as RGB arrays or planes, and facts about their video."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from manifests.gradient import Frame

PLANES_VERSION = 2  # of the planes made from decoded frames: version 1 left chroma where the video has it


class DecodeError(Exception):
    """The video cannot be decoded; the message is the reason shown to the user."""


@dataclass(frozen=True, slots=True)
class Planes:
    """A 4:2:0 picture in BT.601: y uint8[H, W], cb and cr uint8[ceil(H/2), ceil(W/2)]; rows may have a stride."""

    y: Frame
    cb: Frame
    cr: Frame
    limited: bool = False  # 16..235 (chroma 16..240) stand for 0..255, as in most videos; else full range as in JPEG
    left: bool = False  # chroma is sampled at the left of two pixels, as in most videos; else midway as in JPEG


Picture = Planes | Frame  # a Frame is RGB, uint8[H, W, 3]


@dataclass(slots=True)
class DecodedVideo:
    """A video opened for one sequential pass over its frames."""

    frames: Iterator[Picture]  # `num_damaged_packets` and `notes` are complete once it has ended
    num_frames_header: int = -1  # what the container claims, -1: unknown
    fps: float = 0.0  # frames per second as the container says, 0.0: unknown
    codec: str = ""
    pixel_format: str = ""
    rotation_degrees: int = 0  # as stored in the container; the frames are already rotated
    num_damaged_packets: int = 0
    notes: list[str] = field(default_factory=list)
    position_seconds: Callable[[], float] | None = None
    """When the last one of `frames` is shown, from the start of the file; None: its number divided by `fps`."""
    close: Callable[[], None] = lambda: None


def scaled_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Width and height after scaling the shorter side down to `short_side` (0, or already smaller: unchanged)."""
    short = min(width, height)
    if not short_side or short <= short_side:
        return width, height
    return (short_side, height * short_side // short) if width <= height else (width * short_side // short, short_side)
