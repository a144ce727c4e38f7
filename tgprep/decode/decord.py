"""Decoding with decord 0.6: RGB frames only, offered for comparison.

Known to stop for ever on files whose header promises more frames than there are, and to give other pixels now and then
on HMDB51: frames are asked for one by one in order, and a worker that shows none is killed by its supervisor.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import decord

from tgprep.decode.frames import DecodedVideo, DecodeError, Picture


def open_decord(path: Path) -> DecodedVideo:
    """Open a file with decord.VideoReader, one thread."""
    try:
        reader = decord.VideoReader(str(path), num_threads=1)
    except (RuntimeError, decord.DECORDError) as error:
        raise DecodeError(f"decord cannot open it: {str(error).splitlines()[0]}") from None
    return DecodedVideo(
        frames=_frames(reader), num_frames_header=len(reader), fps=float(reader.get_avg_fps()), close=lambda: None
    )


def _frames(reader: Any) -> Iterator[Picture]:
    for _ in range(len(reader)):
        try:
            yield reader.next().asnumpy()
        except (StopIteration, RuntimeError, decord.DECORDError):
            return
