"""Samples of shards in stored order, from folders, commands, and web servers that send complete files only.

A stream is taken as a plain tar of at most the size that the manifest names: nothing is decompressed or filled up. The
`webdataset` library groups the members of a sample.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import tarfile
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from manifests.files import Location, below, is_url
from manifests.object_store import UnreachableError, call
from manifests.records import InputError
from manifests.table import Manifest

_SAFE_PATH = ("PYTHONSAFEPATH", "tgprep")  # see cli/__init__.py
TRIES = 3  # of a stream that breaks
PIPE = "pipe:"
_NAME = "{shard}"
_PLAIN_NAME = re.compile(r"\w[\w.-]*", re.ASCII)  # means nothing to a shell, and is no option
_OPERATORS = "|&;<>()"  # of a shell, outside quotes
_METADATA = re.compile(r"__[^/]*__($|/)")  # what the WebDataset format reserves
_EXIT_SECONDS = 1.0  # that a command has to exit after the end of its output
_NETWORK_PACKAGES = ("aiohttp", "botocore", "urllib3", "requests")
Members = Mapping[str, bytes]  # of one sample, by what follows its key and a dot


class BrokenStreamError(Exception):
    """The stream of a shard ended early or is not a tar file; the message gives the reason."""


@dataclass(frozen=True, slots=True)
class ShardSource:
    """Where shards come from."""

    root: str  # the data set
    template: str = ""  # "" for `root`, else a path, a URL or `pipe:COMMAND` with {shard} for the name of the shard
    num_bytes: Mapping[str, int] = field(default_factory=dict)  # of each shard; no more is taken from a stream

    def __post_init__(self) -> None:
        if self.template and _NAME not in self.template:
            raise InputError(
                f"data.shards is {self.template!r}, expected {_NAME} in it, which stands for the name of a shard, "
                f'such as "https://host/set/{_NAME}" or "{PIPE}ssh host cat /data/{_NAME}".'
            )
        if self.template.startswith(PIPE):
            self.command(_NAME)

    @staticmethod
    def of(manifest: Manifest, template: str) -> ShardSource:
        """The source of a data set's shards."""
        return ShardSource(manifest.root, template, {shard.name: shard.num_bytes for shard in manifest.shards})

    def location(self, shard: str) -> Location:
        """Where a shard is: a path, a URL, or `pipe:` and its command."""
        return self.template.replace(_NAME, shard) if self.template else below(self.root, shard)

    def command(self, shard: str) -> list[str]:
        """The program and arguments of `pipe:`. It is started without a shell, which `pipe:sh -c '...'` starts by name."""
        text = self.template.removeprefix(PIPE)
        try:
            words = shlex.split(text)
            parts = list(shlex.shlex(text, posix=True, punctuation_chars=_OPERATORS))
        except ValueError as error:
            raise InputError(f"data.shards is {self.template!r}, which is no command ({error}).") from None
        if any(part and not part.strip(_OPERATORS) for part in parts):
            raise InputError(
                f"data.shards is {self.template!r}. No shell reads this command, so |, ;, > and the like mean nothing in it. "
                f"To use a shell, name it: {PIPE}sh -c {shlex.quote(text.strip())}"
            )
        if shard != _NAME and not _PLAIN_NAME.fullmatch(shard):
            raise InputError(f"{shard!r} is no plain name of a shard, so no command is started for it.")
        return [word.replace(_NAME, shard) for word in words]

    def samples(self, shard: str) -> Generator[tuple[str, Members]]:
        """Key and members of each sample of a shard, in order.

        Raises BrokenStreamError if the stream breaks; InputError and UnreachableError as `manifests.object_store` says.
        """
        from webdataset.tariterators import group_by_keys

        location = self.location(shard)
        stream = None
        try:
            stream = self._open(shard)
            for sample in group_by_keys(_files(_Bounded(stream, self.num_bytes.get(shard))), lcase=False):
                yield sample["__key__"], sample
        except (InputError, UnreachableError, GeneratorExit):
            raise
        except Exception as error:
            # Network libraries raise classes of their own; anything else that is unknown is a bug and not a broken stream.
            is_network = type(error).__module__.partition(".")[0] in _NETWORK_PACKAGES
            if is_network or isinstance(error, (OSError, EOFError, ValueError, tarfile.TarError)):
                raise BrokenStreamError(_reason(error, location, stream)) from None
            raise
        finally:
            if stream is not None:
                with contextlib.suppress(Exception):
                    stream.close()

    def _open(self, shard: str) -> Any:
        """The bytes of a shard from the beginning."""
        location = self.location(shard)
        if self.template.startswith(PIPE):
            return _Output(self.command(shard))
        if not is_url(location):
            return open(location, "rb")  # noqa: PTH123 - closed by the caller
        # A block size of 0 requests the complete file from a web server, without ranges.
        options = {"block_size": 0} if str(location).startswith(("http://", "https://")) else {}
        return call(location, lambda files, path: files.open(path, "rb", **options))


class _Output:
    """What a command writes to its standard output; at the end OSError if the command failed."""

    def __init__(self, command: list[str]) -> None:
        try:
            # What keeps this program's own processes from importing files of the user is not for the user's command.
            environment = {name: value for name, value in os.environ.items() if (name, value) != _SAFE_PATH}
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment)
        except OSError as error:
            raise InputError(f"data.shards: {command[0]} cannot be started ({error.strerror}).") from None
        assert self.process.stdout is not None
        self.stdout = self.process.stdout

    def read(self, size: int) -> bytes:
        content = self.stdout.read(size)
        if not content and self.process.wait():
            raise OSError(f"ended with code {self.process.returncode}")
        return content

    def close(self) -> None:
        # A command that was not read to its end is killed: waiting for it could take for ever.
        self.process.kill()
        self.stdout.close()
        self.process.wait()


class _Bounded:
    """The first `num_bytes` bytes of a stream; all of it if that is None."""

    def __init__(self, stream: Any, num_bytes: int | None) -> None:
        self.stream, self.num_left = stream, num_bytes

    def read(self, size: int) -> bytes:
        if self.num_left is None:
            return bytes(self.stream.read(size))
        content = bytes(self.stream.read(min(size, self.num_left))) if self.num_left else b""
        self.num_left -= len(content)
        return content


def _files(stream: _Bounded) -> Iterator[dict[str, Any]]:
    """Name and content of each regular file of a plain tar, in the form that webdataset groups."""
    with tarfile.open(fileobj=stream, mode="r|") as tar:  # type: ignore[call-overload]  # it needs `read` alone
        for member in tar:
            # A sparse file may hold 8 EB of zeros in a few bytes, a negative size leads back.
            if member.size < 0 or member.issparse():
                raise ValueError(f"{member.name} is a sparse file or has a negative size")
            content = tar.extractfile(member) if member.isreg() and not _METADATA.match(member.name) else None
            if content is not None:
                yield {"fname": member.name, "data": content.read(), "__url__": ""}
            tar.members = []  # else it keeps all that it has seen
    yield {}  # the end of a shard


def _reason(error: BaseException, location: Location, stream: Any) -> str:
    """What broke, without the library's additions; for a command that failed its exit code."""
    if isinstance(error, FileNotFoundError):
        return f"{location} is missing"
    if isinstance(stream, _Output):
        with contextlib.suppress(subprocess.TimeoutExpired):
            if code := stream.process.wait(_EXIT_SECONDS):
                return f"`{str(location).removeprefix(PIPE)}` ended with code {code}"
    text = str(error.args[0]).partition(" @ <")[0] if error.args else ""
    return f"its stream breaks ({text[:200] or type(error).__name__})"
