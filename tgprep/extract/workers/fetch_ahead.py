"""Downloads videos of an object store, each just before its turn, while the one before it is decoded."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path, PurePosixPath

from manifests.files import below, download, file_size, list_folder
from manifests.records import SourceVideo
from tgprep.decode.frames import DecodeError

_POLL_SECONDS = 0.25
_MAX_NAME = 200  # characters; a file system takes 255 bytes


class FetchAhead:
    """Downloads `videos` from below `root` (a URL) into `folder`, in order, at most one ahead. Use as a context."""

    def __init__(self, root: str, folder: Path, videos: Sequence[SourceVideo]) -> None:
        self.root = root
        self.folder = folder
        self.videos = videos
        self.pool = ThreadPoolExecutor(1)
        self.downloads: dict[int, Future[Path]] = {}
        shutil.rmtree(folder, ignore_errors=True)  # of a worker that was killed
        folder.mkdir(parents=True)

    def __enter__(self) -> FetchAhead:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def get(self, index: int, on_wait: Callable[[], None]) -> Path:
        """Wait for the local file of video `index`, calling `on_wait` now and then; start the download of the next one.

        DecodeError if this video cannot be downloaded, UnreachableError and InputError if the store cannot be reached.
        """
        future = self._start(index)
        while not wait([future], timeout=_POLL_SECONDS).done:
            on_wait()
        path = future.result()
        if index + 1 < len(self.videos):
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
        source = self.videos[index]
        url = str(below(self.root, source.path))
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
                if not list_folder(self.root):
                    raise FileNotFoundError(2, "VIDEOS is no longer there", self.root) from None
                raise DecodeError("the file is gone") from None
        raise DecodeError(
            f"{num_bytes} bytes arrived, the store lists {source.num_source_bytes}: it changes while it is read"
        )
