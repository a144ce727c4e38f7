"""The process that decodes and packs: `python -m tgprep.extract.workers.worker`, one job (a shard) per line of JSON on standard input.

It is started, watched and, where a video makes it hang, crash or eat memory, killed by `tgprep.extract.workers.supervisor`. It answers with
lines of JSON: `{"ready": true}` once, `{"video": i}` before video i (again once it was brought from a store), `{"frames": n}` now and then,
`{"encoded": true, "frames": n}` once the decoder is done, `{"row": ..., "end": offset}` after it, `{"finished": sha256, "num_bytes": n}` at the end of the shard, `{"fatal": reason}` where the shard itself cannot be written.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import gc
import hashlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TextIO

import cv2

from manifests import object_store as stores
from manifests.files import is_url
from manifests.object_store import UnreachableError
from manifests.records import WRITTEN, InputError, VideoRow
from manifests.sample import MemberTooLargeError, write_end, write_sample
from tgprep.config import ExtractSettings
from tgprep.decode.frames import DecodeError
from tgprep.decode.open import open_video
from tgprep.encode.encode import encode_video
from tgprep.extract.workers.fetch_ahead import ReadAhead
from tgprep.extract.workers.jobs import HeaderJob, ShardJob
from tgprep.extract.workers.shards import failed_row

_HEARTBEAT_SECONDS = 0.25
# Only writing gives these: the data set cannot be written, whatever the video.
_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
Emit = Callable[[dict[str, Any]], None]


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


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
    with ExitStack() as stack:
        brought = None
        if is_url(job.videos_root):
            folder = Path(job.scratch) / f"videos-{job.worker}"
            brought = stack.enter_context(ReadAhead(job.videos_root, folder, job.videos))
        file = stack.enter_context(temporary.open("r+b" if job.start else "w+b"))
        tar = _HashingFile(file, job.start)
        for index in range(len(job.videos)):
            emit({"video": index})
            row = _pack(tar, index, job, brought, emit)
            with _signs_of_life(emit, row.num_frames):
                file.flush()
            emit({"row": _row_values(row), "end": tar.tell()})
        write_end(tar)  # type: ignore[arg-type]  # it only writes and tells
        with _signs_of_life(emit, 0):
            file.flush()
            os.fsync(file.fileno())
        emit({"finished": tar.digest.hexdigest(), "num_bytes": tar.tell()})


@contextlib.contextmanager
def _signs_of_life(emit: Emit, num_frames: int) -> Iterator[None]:
    """Say now and then that work goes on while a slow disk keeps this thread: no decoder is to blame for that."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(_HEARTBEAT_SECONDS):
            emit({"frames": num_frames})

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _pack(tar: _HashingFile, index: int, job: ShardJob, brought: ReadAhead | None, emit: Emit) -> VideoRow:
    source = job.videos[index]
    last = time.monotonic()

    def on_frame(count: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _HEARTBEAT_SECONDS:
            last = now
            emit({"frames": count})

    with ExitStack() as stack:
        try:
            if brought is None:
                path = Path(job.videos_root) / source.path
            else:
                stack.callback(brought.forget, index)
                path = brought.get(index, lambda: on_frame(0))
                emit({"video": index})  # its time runs from here: the store is not the decoder's fault
            encoded, facts = encode_video(source, path, job.settings, Path(job.scratch), stack, on_frame)
        except MemberTooLargeError as error:
            hint = "a smaller picture (--short-side 256), a lower --quality, or --store video makes it fit"
            if job.settings.store == "video":
                hint = "a smaller picture (--short-side) or a higher --crf makes it fit"
            return failed_row(source, f"too large for a tar member: {error}; {hint}")
        except MemoryError:
            return failed_row(source, "out of memory while decoding")
        except (UnreachableError, InputError):
            raise  # the store, not this video
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # no interrupt of ours: SIGINT is ignored here
            _refuse_if_all_is_gone(error, job)
            if isinstance(error, DecodeError):
                return failed_row(source, str(error))
            if isinstance(error, OSError):
                return failed_row(source, f"cannot be read: {error.strerror or error}")
            traceback.print_exc()
            return failed_row(source, f"the decoder failed: {type(error).__name__}: {_text(error)}")
        emit({"encoded": True, "frames": facts.num_frames})
        with _signs_of_life(emit, facts.num_frames):
            offset, num_bytes, members = write_sample(tar, encoded)  # type: ignore[arg-type]  # as above
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


def _refuse_if_all_is_gone(error: BaseException, job: ShardJob) -> None:
    """Raise OSError where not this video is to blame: a full disk, or a folder that is no longer there."""
    if isinstance(error, OSError) and error.errno in _CANNOT_WRITE:
        raise error
    if not Path(job.scratch).is_dir():
        raise FileNotFoundError(errno.ENOENT, "the folder was removed while it was written", job.scratch)
    if is_url(job.videos_root):
        if isinstance(error, FileNotFoundError):  # what was decoded is a copy of ours
            raise error
        return
    root = Path(job.videos_root)
    if not root.is_dir() or next(os.scandir(root), None) is None:  # an unmounted share leaves an empty folder
        raise FileNotFoundError(errno.ENOENT, "VIDEOS is no longer there", job.videos_root)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "its message cannot be shown"


def _row_values(row: VideoRow) -> dict[str, Any]:
    return dataclasses.asdict(row)


def _die_with(supervisor: int) -> None:
    """End with the supervisor even while a decoder hangs, and be what the kernel takes first when memory runs out."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG = 1
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("800")
    if os.getppid() != supervisor:  # it ended before the line above
        sys.exit(1)


def _private_channels() -> tuple[TextIO, TextIO]:
    """Jobs and answers on descriptors of their own: decoders, and programs they start, may print and read as they like."""
    jobs = os.fdopen(os.dup(0), "r", encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return jobs, answers


def main() -> None:
    """Serve jobs until standard input ends."""
    _die_with(int(sys.argv[1]))
    cv2.setNumThreads(1)  # a worker is one core's work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor decides what an interrupt means
    jobs, answers = _private_channels()

    speaking = threading.Lock()

    def emit(event: dict[str, Any]) -> None:
        with speaking:
            answers.write(json.dumps(event) + "\n")
            answers.flush()

    stores.set_warning_handler(lambda store, text: emit({"trouble": [store, text]}))
    if "fused" in sys.argv[2:]:
        from tgprep.encode.fused import prepare  # numba: what stores no planes does without

        prepare()
    gc.collect()
    gc.freeze()  # what stays for ever need not be looked through again and again
    emit({"ready": True})
    for line in jobs:
        try:
            if headers := HeaderJob.from_json(line):
                read_headers(headers, emit)
            else:
                write_shard(ShardJob.from_json(line), emit)
        except OSError as error:
            place = f" ({error.filename})" if error.filename else ""
            emit({"fatal": f"cannot go on: {error.strerror or error}{place}"})
        except InputError as error:
            emit({"fatal": str(error)})
        except Exception as error:
            traceback.print_exc()
            emit({"fatal": f"{type(error).__name__}: {_text(error)}"})


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


if __name__ == "__main__":
    main()
