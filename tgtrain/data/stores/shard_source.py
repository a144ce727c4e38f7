"""Samples of shards in stored order, from folders, pipes, and web servers that send complete files only.

The tar format is read by the `webdataset` library.
"""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import tarfile
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

from manifests.files import Location, below, is_url
from manifests.object_store import UnreachableError, call
from manifests.records import InputError

TRIES = 3  # of a stream that breaks
_NAME = "{shard}"
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

    def __post_init__(self) -> None:
        if self.template and _NAME not in self.template:
            raise InputError(
                f"data.shards is {self.template!r}, expected {_NAME} in it, which stands for the name of a shard, "
                f'such as "https://host/set/{_NAME}" or "pipe:ssh host cat /data/{_NAME}".'
            )

    def location(self, shard: str) -> Location:
        """What is opened for a shard. Its name is quoted for the shell of a command."""
        if not self.template:
            return below(self.root, shard)
        return self.template.replace(_NAME, shlex.quote(shard) if self.template.startswith("pipe:") else shard)

    def samples(self, shard: str) -> Generator[tuple[str, Members]]:
        """Key and members of each sample of a shard, in order.

        Raises BrokenStreamError if the stream breaks; InputError and UnreachableError as `manifests.object_store` says.
        """
        from webdataset.tariterators import group_by_keys, tar_file_expander

        location = self.location(shard)
        stream = None
        try:
            stream = _open(location)
            files = tar_file_expander([{"url": str(location), "stream": stream}])
            for sample in group_by_keys(files, lcase=False):
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
            # A command that was not read to its end is killed: closing would wait for it.
            if process := getattr(stream, "proc", None):
                process.kill()
            if stream is not None:
                with contextlib.suppress(Exception):  # webdataset reports the kill
                    stream.close()


def _open(location: Location) -> Any:
    """The bytes of a shard from the beginning."""
    text = str(location)
    if text.startswith("pipe:"):
        from webdataset import gopen

        return gopen(text, "rb")
    if not is_url(location):
        return open(location, "rb")  # noqa: PTH123 - closed by the caller
    # A block size of 0 requests the complete file from a web server, without ranges.
    options = {"block_size": 0} if text.startswith(("http://", "https://")) else {}
    return call(location, lambda files, path: files.open(path, "rb", **options))


def _reason(error: BaseException, location: Location, stream: Any) -> str:
    """What broke, without the library's additions; for a command that failed its exit code."""
    if isinstance(error, FileNotFoundError):
        return f"{location} is missing"
    process = getattr(stream, "proc", None)
    if process is not None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            if code := process.wait(_EXIT_SECONDS):
                return f"`{str(location)[5:]}` ended with code {code}"
    text = str(error.args[0]).partition(" @ <")[0] if error.args else ""
    return f"its stream breaks ({text[:200] or type(error).__name__})"
