"""The process that decodes and packs: `python -m tgprep.worker`, one job (a shard) per line of JSON on standard input.

It is started, watched and, where a video makes it hang, crash or eat memory, killed by `tgprep.supervise`. It answers with
lines of JSON: `{"video": i}` before video i, `{"frames": n}` now and then, `{"row": ..., "end": offset}` after it,
`{"finished": sha256, "num_bytes": n}` at the end of the shard, `{"fatal": reason}` where the shard itself cannot be written.
"""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import hashlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from manifests.records import FAILED, WRITTEN, SourceVideo, VideoRow
from manifests.sample import MemberTooLargeError, write_end, write_sample
from tgprep.config import ExtractSettings
from tgprep.decode import DecodeError
from tgprep.encode import encode_video

_HEARTBEAT_SECONDS = 0.25
Emit = Callable[[dict[str, Any]], None]


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


@dataclasses.dataclass(frozen=True, slots=True)
class ShardJob:
    """One shard to write, or to go on with after a lost worker.

    temporary: the unfinished tar; its first `start` bytes are whole samples and are kept, the rest is cut off.
    scratch: folder for spools. videos: what is still to be packed, in order.
    """

    shard: str
    temporary: str
    scratch: str
    videos_root: str
    settings: ExtractSettings
    videos: tuple[SourceVideo, ...]
    start: int = 0

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


class _HashingFile:
    """A file written strictly forward that keeps its sha256 up to date."""

    def __init__(self, file: BinaryIO, start: int) -> None:
        self.file = file
        self.digest: _Digest = hashlib.sha256()
        file.seek(0)
        left = start
        while left:
            piece = file.read(min(left, 1024 * 1024))
            assert piece, f"the unfinished shard is shorter than its {start} whole bytes"
            self.digest.update(piece)
            left -= len(piece)
        file.truncate(start)
        file.seek(start)

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self.file.write(data)

    def tell(self) -> int:
        return self.file.tell()


def write_shard(job: ShardJob, emit: Emit) -> None:
    """Pack the job's videos behind the bytes that are already there, and close the tar."""
    temporary = Path(job.temporary)
    with temporary.open("r+b" if job.start else "w+b") as file:
        tar = _HashingFile(file, job.start)
        for index, source in enumerate(job.videos):
            emit({"video": index})
            row = _pack(tar, source, job, emit)
            file.flush()
            emit({"row": _row_values(row), "end": tar.tell()})
        write_end(tar)  # type: ignore[arg-type]  # it only writes and tells
        file.flush()
        os.fsync(file.fileno())
        emit({"finished": tar.digest.hexdigest(), "num_bytes": tar.tell()})


def _pack(tar: _HashingFile, source: SourceVideo, job: ShardJob, emit: Emit) -> VideoRow:
    last = time.monotonic()

    def on_frame(count: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _HEARTBEAT_SECONDS:
            last = now
            emit({"frames": count})

    path = Path(job.videos_root) / source.path
    with ExitStack() as stack:
        try:
            encoded, facts = encode_video(source, path, job.settings, Path(job.scratch), stack, on_frame)
        except DecodeError as error:
            return failed_row(source, str(error))
        except MemoryError:
            return failed_row(source, "out of memory while decoding")
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise
            return failed_row(source, f"cannot be read: {error.strerror or error}")
        except Exception as error:
            traceback.print_exc()
            return failed_row(source, f"the decoder failed: {type(error).__name__}: {error}")
        try:
            offset, num_bytes, members = write_sample(tar, encoded)  # type: ignore[arg-type]  # as above
        except MemberTooLargeError as error:
            hint = "a smaller picture (--short-side 256) or a lower --quality makes it fit"
            return failed_row(source, f"too large for a tar member: {error}; {hint}")
    fields = {field.name: getattr(facts, field.name) for field in dataclasses.fields(facts)}
    return dataclasses.replace(
        failed_row(source, ""),
        status=WRITTEN,
        shard=job.shard,
        sample_offset=offset,
        sample_bytes=num_bytes,
        members=members,
        **fields,
    )


def failed_row(source: SourceVideo, reason: str) -> VideoRow:
    """The row of a video that gave no sample."""
    return VideoRow(
        key=source.key,
        path=source.path,
        class_name=source.class_name,
        label=source.label,
        group=source.group,
        subsets=source.subsets,
        status=FAILED,
        error=reason,
        num_source_bytes=source.num_source_bytes,
    )


def _row_values(row: VideoRow) -> dict[str, Any]:
    return dataclasses.asdict(row)


def main() -> None:
    """Serve jobs until standard input ends."""
    if sys.platform == "linux":
        # Die with the supervisor even while a decoder hangs: PR_SET_PDEATHSIG = 1.
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor decides what an interrupt means
    # Decoders may print: the answers keep a channel of their own.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def emit(event: dict[str, Any]) -> None:
        answers.write(json.dumps(event) + "\n")
        answers.flush()

    for line in sys.stdin:
        try:
            write_shard(ShardJob.from_json(line), emit)
        except OSError as error:
            place = f" ({error.filename})" if error.filename else ""
            emit({"fatal": f"cannot write the data set: {error.strerror or error}{place}"})
        except Exception as error:
            traceback.print_exc()
            emit({"fatal": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
