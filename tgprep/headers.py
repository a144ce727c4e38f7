"""How many frames containers claim to hold, asked in a worker process: a file that crashes or hangs its decoder costs itself only."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tgprep.config import ExtractSettings
from tgprep.decode import open_video


@dataclass(frozen=True, slots=True)
class HeaderJob:
    """Video files of which only the headers are read."""

    paths: tuple[str, ...]
    settings: ExtractSettings

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps({"headers": self.paths, "settings": self.settings.model_dump()})

    @classmethod
    def from_json(cls, line: str) -> HeaderJob | None:
        """The job of a line written by `to_json`, None where it is another one."""
        values = json.loads(line)
        if "headers" not in values:
            return None
        return cls(tuple(values["headers"]), ExtractSettings(**values["settings"]))


def read_headers(job: HeaderJob, emit: Callable[[dict[str, Any]], None]) -> None:
    """Answer `{"header": n}` for each file: frames as the container claims, 0 where it does not say, -1 unreadable."""
    for path in job.paths:
        emit({"header": _header_frames(Path(path), job.settings)})


def _header_frames(path: Path, settings: ExtractSettings) -> int:
    try:
        video = open_video(path, decoder=settings.decoder, space=settings.space, short_side=0)
        with contextlib.closing(video):
            return max(0, video.num_frames_header)
    except Exception:  # whatever a decoder raises, the file is what it cannot read
        return -1
