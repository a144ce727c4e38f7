"""Lengths of video files as their headers say: `python -m tgprep.decode.durations FILE...` prints seconds as a JSON list."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tgprep.decode.frames import DecodeError
from tgprep.decode.pyav import open_stream


def duration_of(path: Path) -> float:
    """Seconds from the start to the end of a file; 0.0 if it does not say or cannot be opened."""
    try:
        opened = open_stream(path, "rgb", 0, False)
    except DecodeError:
        return 0.0
    duration = opened.container.duration
    opened.video.close()
    return float(duration or 0) / 1e6


if __name__ == "__main__":
    sys.stdout.write(json.dumps([duration_of(Path(name)) for name in sys.argv[1:]]))
