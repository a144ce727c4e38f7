"""Shards that can only be read from their beginning: pipes of other programs, and web servers that send whole files alone.

Their samples come through the `webdataset` library, in the order in which they are stored. What a shard must hold is known from the
manifest, so that a stream that ends early, or holds something else, is noticed whatever the way it comes.
"""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import tarfile
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from manifests.files import Location, below, is_url
from manifests.object_store import UnreachableError, call
from manifests.records import InputError
from manifests.sample import frame_members
from tgtrain.data.stores.local import Need
from tgtrain.data.stores.video_index import StoredVideo, VideoIndex

TRIES = 3  # of a stream that breaks: what was cut on its way is not so again and again
_NAME = "{shard}"
_LAST_SECONDS = 1.0  # that a command has to end after its output has
_KINDS = ("rgb", "tg", "flow")
Members = Mapping[str, bytes]  # of one sample, by what follows its key and a dot


class BrokenStreamError(Exception):
    """The stream of a shard ended early or is no tar; the message says how."""


@dataclass(frozen=True, slots=True)
class HeldSample:
    """Bytes of one sample: pieces, each with the offset in its shard."""

    pieces: tuple[tuple[int, bytes], ...]

    @property
    def num_bytes(self) -> int:
        """Of all pieces."""
        return sum(len(content) for _, content in self.pieces)

    def read(self, offset: int, size: int) -> bytes:
        """A range of the shard. ValueError where it is not held."""
        for start, content in self.pieces:
            if start <= offset and offset + size <= start + len(content):
                return content[offset - start : offset - start + size]
        raise ValueError(f"bytes {offset} to {offset + size} of the shard are not there")

    def has(self, offset: int, size: int) -> bool:
        """Whether a range of the shard is held."""
        return any(start <= offset and offset + size <= start + len(content) for start, content in self.pieces)

    def only(self, ranges: Iterable[tuple[int, int]]) -> HeldSample:
        """The same with nothing but these (offset, size) ranges of the shard."""
        return HeldSample(tuple((offset, self.read(offset, size)) for offset, size in dict.fromkeys(ranges)))


@dataclass(frozen=True, slots=True)
class ShardSource:
    """Where shards come from. root: the data set. template: "" its own folder, else a path, a URL or `pipe:COMMAND` in which
    {shard} stands for the name of the shard.
    """

    root: str
    template: str = ""

    def __post_init__(self) -> None:
        if self.template and _NAME not in self.template:
            raise InputError(
                f"data.shards is {self.template!r}, expected {_NAME} in it, which stands for the name of a shard, "
                f'such as "https://host/set/{_NAME}" or "pipe:ssh host cat /data/{_NAME}".'
            )

    def place(self, shard: str) -> Location:
        """What is opened for a shard. Its name is quoted for the shell of a command."""
        if not self.template:
            return below(self.root, shard)
        return self.template.replace(_NAME, shlex.quote(shard) if self.is_pipe else shard)

    @property
    def is_pipe(self) -> bool:
        """Whether commands give the shards."""
        return self.template.startswith("pipe:")

    def samples(self, shard: str) -> Generator[tuple[str, Members]]:
        """Key and members of each sample of a shard, in order.

        Raises BrokenStreamError where the stream breaks; InputError and UnreachableError as `manifests.object_store` says.
        """
        from webdataset.tariterators import group_by_keys, tar_file_expander

        place = self.place(shard)
        stream = None
        try:
            stream = _opened(place)
            files = tar_file_expander([{"url": str(place), "stream": stream}])
            for sample in group_by_keys(files, lcase=False):
                yield sample["__key__"], sample
        except (InputError, UnreachableError, GeneratorExit):
            raise
        except (OSError, EOFError, ValueError, tarfile.TarError) as error:
            raise BrokenStreamError(_said(error, place, stream)) from None
        except Exception as error:
            if type(error).__module__.partition(".")[0] in ("aiohttp", "botocore", "urllib3", "requests"):
                raise BrokenStreamError(_said(error, place, stream)) from None
            raise
        finally:
            if stream is not None:
                _close(stream)


@dataclass(slots=True)
class _Known:
    """What is known of a shard: keys that came, how often it was read to its end, and how that was."""

    keys: set[str] = field(default_factory=set)
    num_ends: int = 0
    reason: str = "its shard ends before it"


class StreamedShards:
    """Shards read from their beginning, for readers that take samples in the order in which they are stored.

    The stream of the shard that was read last stays where it is: a sample further on is waited for, one before begins it anew.
    """

    def __init__(self, source: ShardSource, index: VideoIndex) -> None:
        self.source, self.index = source, index
        self.numbers: dict[tuple[str, int], int] = {}  # of videos, by shard and offset of each member
        self.known: dict[str, _Known] = defaultdict(_Known)
        self.held, self.held_shard = HeldSample(()), ""
        self.open_shard, self.stream = "", _nothing()

    def __getstate__(self) -> dict[str, Any]:
        return {"source": self.source, "index": self.index}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # streams are opened anew in the process that reads

    def read(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """See `Shards`. ValueError where the stream has no such sample, or another one under its key."""
        if name != self.held_shard or not all(self.held.has(*each) for each in ranges):
            self.held_shard = ""
            place = self._place_at(name, ranges[0][0])
            self.held = held_sample(place, self._members(name, place.key))
            self.held_shard = name
        return [self.held.read(*each) for each in ranges]

    def expect(self, upcoming: Callable[[], Iterable[Need]]) -> None:
        """See `Shards`: a stream goes its own way."""

    def close(self) -> None:
        """Close the stream."""
        self.stream.close()
        self.open_shard, self.stream = "", _nothing()

    def _place_at(self, name: str, offset: int) -> StoredVideo:
        """The video with a member that begins at an offset of a shard."""
        if not self.numbers:
            self.numbers = {
                (place.shard, place.members.place(kind)[0]): number
                for number, place in enumerate(self.index)
                for kind in _KINDS
            }
        return self.index[self.numbers[name, offset]]

    def _members(self, name: str, key: str) -> Members:
        known = self.known[name]
        for _ in range(TRIES + 1):  # the first may begin behind it
            if known.num_ends >= TRIES and key not in known.keys:
                break
            if self.open_shard != name:
                self.close()
                self.open_shard, self.stream = name, self.source.samples(name)
            try:
                for found, members in self.stream:
                    known.keys.add(found)
                    if found == key:
                        return members
            except BrokenStreamError as error:
                known.reason = str(error)
            known.num_ends += 1
            self.close()
        raise ValueError(known.reason)


def held_sample(place: StoredVideo, members: Members) -> HeldSample:
    """The members of a sample that are read, where they lie in its shard. ValueError where they are not those of the manifest."""
    pieces = []
    for kind in _KINDS:
        index_offset, index_size, offset, size = place.members.place(kind)
        if offset < 0:
            continue
        index_name, name = frame_members(kind, kind == "rgb" and "mp4" in members)
        for member, start, expected in ((index_name, index_offset, index_size), (name, offset, size)):
            content = members.get(member)
            if content is None or len(content) != expected:
                found = "is missing" if content is None else f"has {len(content)} bytes"
                raise ValueError(f"its member .{member} {found}, expected {expected} bytes")
            pieces.append((start, content))
    return HeldSample(tuple(pieces))


def _opened(place: Location) -> Any:
    """The bytes of a shard from the beginning."""
    text = str(place)
    if text.startswith("pipe:"):
        from webdataset import gopen

        return gopen(text, "rb")
    if not is_url(place):
        return open(place, "rb")  # noqa: PTH123 - closed by the caller
    # A block size of 0 asks a web server for the file as it is, without ranges.
    options = {"block_size": 0} if text.startswith(("http://", "https://")) else {}
    return call(place, lambda files, path: files.open(path, "rb", **options))


def _close(stream: Any) -> None:
    """Close what `_opened` gave; a command that was not read to its end would be waited for."""
    process = getattr(stream, "proc", None)
    if process is not None:
        process.kill()
    with contextlib.suppress(Exception):  # it says that it was killed
        stream.close()


def _said(error: BaseException, place: Location, stream: Any) -> str:
    """What broke, without what the library has added to it; of a command that failed, its code."""
    if isinstance(error, FileNotFoundError):
        return f"{place} is not there"
    process = getattr(stream, "proc", None)
    if process is not None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            if code := process.wait(_LAST_SECONDS):
                return f"`{str(place)[5:]}` ended with code {code}"
    text = str(error.args[0]).partition(" @ <")[0] if error.args else ""
    return f"its stream breaks ({text[:200] or type(error).__name__})"


def _nothing() -> Generator[tuple[str, Members]]:
    yield from ()
