"""Jobs that a worker process takes on, as lines of JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from manifests.records import SourceVideo
from tgprep.config import ExtractSettings


@dataclasses.dataclass(frozen=True, slots=True)
class ShardJob:
    """One shard to write, or to go on with after a lost worker.

    temporary: the unfinished tar; its first `start` bytes are whole samples and are kept, the rest is cut off.
    scratch: folder for spools. videos: what is still to be packed, in order. worker: number of the supervisor.
    """

    shard: str
    temporary: str
    scratch: str
    videos_root: str
    settings: ExtractSettings
    videos: tuple[SourceVideo, ...]
    start: int = 0
    worker: int = 0

    def to_json(self) -> str:
        """One line of JSON."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["settings"] = self.settings.model_dump()
        values["videos"] = [dataclasses.asdict(video) for video in self.videos]
        return json.dumps(values)

    @classmethod
    def from_json(cls, line: str) -> ShardJob:
        """The job of a line written by `to_json`."""
        values = json.loads(line)
        values["settings"] = ExtractSettings(**values["settings"])
        values["videos"] = tuple(
            SourceVideo(**{**video, "subsets": tuple(video["subsets"])}) for video in values["videos"]
        )
        return cls(**values)


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
