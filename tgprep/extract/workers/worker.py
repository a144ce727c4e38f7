"""The process that decodes and packs: `python -m tgprep.extract.workers.worker`, one job per line of standard input.

`tgprep.extract.workers.supervisor` starts and watches it, and kills it if a video makes it hang, crash or use too much memory.
`tgprep.extract.workers.messages` defines what they say to each other.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import gc
import hashlib
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import cv2

from manifests import console
from manifests import object_store as stores
from manifests.disk import explained, naming
from manifests.files import below, download, file_size, find_below, is_url, list_folder
from manifests.object_store import UnreachableError
from manifests.records import InputError, SourceVideo, VideoRow
from manifests.sample import MemberTooLargeError, write_end, write_sample
from tgprep.config import ExtractSettings
from tgprep.decode.frames import DecodeError
from tgprep.decode.open import open_video
from tgprep.encode.encode import encode_video
from tgprep.encode.segments import Sample, encode_segments, passes
from tgprep.extract.workers import messages
from tgprep.extract.workers.shards import failed_row

_HEARTBEAT_SECONDS = 0.25
_MAX_NAME = 200  # characters; a file system takes 255 bytes
# Only writing gives these: the data set cannot be written, whatever the video.
_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
Emit = Callable[[messages.Answer], None]


class _HashingFile:
    """A file that is only appended to, and whose sha256 is kept up to date."""

    def __init__(self, file: BinaryIO, start: int, name: Path) -> None:
        self.file = file
        self.name = name  # that it will have
        self.digest = hashlib.sha256()
        file.seek(0)
        while file.tell() < start:
            piece = file.read(min(start - file.tell(), 1024 * 1024))
            assert piece, f"the unfinished shard is shorter than the {start} bytes of its samples"
            self.digest.update(piece)
        file.truncate(start)
        file.seek(start)

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        with naming(self.name):
            return self.file.write(data)

    def tell(self) -> int:
        return self.file.tell()


class FetchAhead:
    """Downloads the videos of a job that lie at a URL into `folder`, in order, at most one ahead."""

    def __init__(self, job: messages.ShardJob, folder: Path) -> None:
        self.folder = folder
        self.videos = job.videos
        self.places = [job.place_of(video) for video in job.videos]
        self.pool = ThreadPoolExecutor(1)
        self.downloads: dict[int, Future[Path]] = {}
        shutil.rmtree(folder, ignore_errors=True)  # of a worker that was killed
        folder.mkdir(parents=True)

    def close(self) -> None:
        """End downloads and remove the folder."""
        self.pool.shutdown(cancel_futures=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def get(self, index: int, on_wait: Callable[[], None]) -> Path:
        """Wait for the local file of video `index`, calling `on_wait` now and then; start the download of the next one.

        DecodeError if this video cannot be downloaded, UnreachableError and InputError if the store cannot be reached.
        """
        future = self._start(index)
        while not wait([future], timeout=_HEARTBEAT_SECONDS).done:
            on_wait()
        path = future.result()
        if index + 1 < len(self.videos) and is_url(self.places[index + 1][0]):
            self._start(index + 1)
        return path

    def remove(self, index: int) -> None:
        """Remove the file of a video that is done."""
        self.downloads.pop(index, None)
        shutil.rmtree(self.folder / str(index), ignore_errors=True)

    def _start(self, index: int) -> Future[Path]:
        if index not in self.downloads:
            self.downloads[index] = self.pool.submit(self._download, index)
        return self.downloads[index]

    def _download(self, index: int) -> Path:
        source, (root, name) = self.videos[index], self.places[index]
        url = str(below(root, name))
        path = self.folder / str(index) / PurePosixPath(source.path).name[-_MAX_NAME:]
        path.parent.mkdir(exist_ok=True)
        # The listing may be older than the object: what counts is the size now, and one more try if it changed meanwhile.
        for _ in range(2):
            try:
                download(url, path)
                num_bytes = path.stat().st_size
                if num_bytes == source.num_source_bytes or num_bytes == file_size(url):
                    return path
            except FileNotFoundError:
                if not list_folder(root):
                    raise FileNotFoundError(2, "VIDEOS is no longer there", root) from None
                raise DecodeError("the file is gone") from None
        raise DecodeError(
            f"{num_bytes} bytes arrived, the store lists {source.num_source_bytes}: it changes while it is read"
        )


def write_shard(job: messages.ShardJob, emit: Emit) -> None:
    """Append the job's videos to the samples that the tar has, and close it."""
    temporary = Path(job.temporary)
    groups = list(passes(job.videos))
    with ExitStack() as stack:
        fetched = None
        if any(is_url(place) for place in (job.videos_root, *job.pools.values())):
            first = dataclasses.replace(job, videos=tuple(group[0] for group in groups))
            fetched = FetchAhead(first, Path(job.scratch) / f"videos-{job.worker}")
            stack.callback(fetched.close)
        file = stack.enter_context(temporary.open("r+b" if job.start else "w+b"))
        tar = _HashingFile(file, job.start, temporary.with_name(job.shard))
        for number, group in enumerate(groups):
            emit(messages.VideoBegun())
            with contextlib.closing(_pack(tar, group, number, job, fetched, emit)) as rows:
                for packed, row in enumerate(rows, 1):
                    with _heartbeat(emit, row.num_frames):
                        file.flush()
                    emit(messages.VideoDone(row, tar.tell()))
                    if packed < len(group):
                        emit(messages.VideoBegun())
        write_end(tar)  # type: ignore[arg-type]  # it calls write and tell only
        with _heartbeat(emit, 0):
            file.flush()
            os.fsync(file.fileno())
        emit(messages.ShardDone(tar.digest.hexdigest(), tar.tell()))


@contextlib.contextmanager
def _heartbeat(emit: Emit, num_frames: int) -> Iterator[None]:
    """Send signs of life while a slow disk blocks this thread: no decoder is to blame for that."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(_HEARTBEAT_SECONDS):
            emit(messages.FramesDone(num_frames))

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _pack(
    tar: _HashingFile,
    group: Sequence[SourceVideo],
    number: int,
    job: messages.ShardJob,
    fetched: FetchAhead | None,
    emit: Emit,
) -> Generator[VideoRow, None, None]:
    """Append the samples of a group that is decoded together, and give the row of each as it is done."""
    root, name = job.place_of(group[0])
    last = time.monotonic()

    def on_frame(count: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _HEARTBEAT_SECONDS:
            last = now
            emit(messages.FramesDone(count))

    with ExitStack() as stack:
        try:
            if fetched is None or not is_url(root):
                path = find_below(Path(root), name)
            else:
                stack.callback(fetched.remove, number)
                path = fetched.get(number, lambda: on_frame(0))
                emit(messages.VideoBegun())  # its time limit counts from here: a slow store is not the decoder's fault
            results: Iterator[Sample | BaseException]
            if group[0].is_segment:
                results = encode_segments(group, path, job.settings, Path(job.scratch), stack, on_frame)
            else:
                results = iter([encode_video(group[0], path, job.settings, Path(job.scratch), stack, on_frame)])
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # a decoder may raise them; SIGINT is ignored here
            results = iter([error] * len(group))
        for source, result in zip(group, results, strict=True):
            if isinstance(result, BaseException):
                yield failed_row(source, _reason(result, source, job))
                continue
            encoded, row = result
            emit(messages.VideoEncoded(row.num_frames))
            with _heartbeat(emit, row.num_frames):
                offset, num_bytes, members = write_sample(tar, encoded)  # type: ignore[arg-type]  # as above
            yield dataclasses.replace(
                row, shard=job.shard, sample_offset=offset, sample_bytes=num_bytes, members=members
            )


def _reason(error: BaseException, source: SourceVideo, job: messages.ShardJob) -> str:
    """Why a video has no sample. Raises the error if the video is not to blame."""
    if isinstance(error, MemberTooLargeError):
        hint = "a smaller picture (--short-side 256), a lower --quality, or --store video makes it fit"
        if job.settings.store == "video":
            hint = "a smaller picture (--short-side) or a higher --crf makes it fit"
        return f"too large for a tar member: {error}; {hint}"
    if isinstance(error, MemoryError):
        return "out of memory while decoding"
    if isinstance(error, UnreachableError | InputError):
        raise error  # the store is to blame
    _raise_if_storage_gone(error, job.scratch, job.place_of(source)[0])
    if isinstance(error, DecodeError):
        return str(error)
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}"
    traceback.print_exception(error)
    return f"the decoder failed: {type(error).__name__}: {_text(error)}"


def _raise_if_storage_gone(error: BaseException, scratch: str, videos_root: str) -> None:
    """Raise OSError if the error is not this video's fault: the disk is full, or a folder has disappeared."""
    if isinstance(error, OSError) and error.errno in _CANNOT_WRITE:
        raise error
    if not Path(scratch).is_dir():
        raise FileNotFoundError(errno.ENOENT, "the folder was removed while it was written", scratch)
    if is_url(videos_root):
        if isinstance(error, FileNotFoundError):  # the decoder read our copy
            raise error
        return
    root = Path(videos_root)
    if not root.is_dir() or next(os.scandir(root), None) is None:  # an unmounted share leaves an empty folder
        raise FileNotFoundError(errno.ENOENT, "VIDEOS is no longer there", videos_root)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "its message cannot be shown"


def _header(path: Path, settings: ExtractSettings) -> messages.HeaderRead:
    try:
        video = open_video(path, decoder=settings.decoder, space=settings.space, short_side=0)
        with contextlib.closing(video):
            return messages.HeaderRead(max(0, video.num_frames_header), video.fps)
    except Exception:  # whatever the decoder raises, it cannot read the file
        return messages.HeaderRead(-1)


def _die_with(supervisor: int) -> None:
    """End with the supervisor even while a decoder hangs, and be the first that the kernel kills when memory runs out."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG = 1
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("800")
    if os.getppid() != supervisor:  # it ended before the line above
        sys.exit(1)


def main() -> None:
    """Serve jobs until standard input ends."""
    _die_with(int(sys.argv[1]))
    console.protect()
    cv2.setNumThreads(1)  # a worker uses one core
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor decides what an interrupt means
    # Decoders, and programs they start, may use standard input and output: jobs and answers move to other descriptors.
    jobs, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    lock = threading.Lock()

    def emit(answer: messages.Answer) -> None:
        with lock:
            answers.write(messages.encode(answer))
            answers.flush()

    stores.set_warning_handler(lambda store, text: emit(messages.StoreWarning(store, text)))
    if "fused" in sys.argv[2:]:
        from tgprep.encode.fused import compile_kernels  # imports numba, which the other encoder does not need

        compile_kernels()
    gc.collect()
    gc.freeze()  # the collector need not look at the imported modules again
    emit(messages.Ready())
    for line in jobs:
        try:
            job = messages.decode(line)
            if isinstance(job, messages.HeaderJob):
                for path in job.paths:
                    emit(_header(Path(path), job.settings))
            else:
                write_shard(job, emit)
        except OSError as error:
            emit(messages.JobFailed(f"cannot go on: {explained(error, getattr(job, 'scratch', None))}"))
        except InputError as error:
            emit(messages.JobFailed(str(error)))
        except Exception as error:
            traceback.print_exc()
            emit(messages.JobFailed(f"{type(error).__name__}: {_text(error)}"))


if __name__ == "__main__":
    main()
