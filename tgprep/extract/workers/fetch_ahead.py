"""Videos of an object store as local files: each is brought just before its turn, while the one before is decoded."""

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


class ReadAhead:
    """Brings `videos` from below `root` (a URL) into `folder`, in order, at most one ahead. Use as a context."""

    def __init__(self, root: str, folder: Path, videos: Sequence[SourceVideo]) -> None:
        self.root = root
        self.folder = folder
        self.videos = videos
        self.pool = ThreadPoolExecutor(1)
        self.coming: dict[int, Future[Path]] = {}
        shutil.rmtree(folder, ignore_errors=True)  # of a worker that was killed
        folder.mkdir(parents=True)

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def get(self, index: int, alive: Callable[[], None]) -> Path:
        """The local file of video `index`; `alive` is called while it is waited for. The next one is begun.

        DecodeError where this video cannot be had, UnreachableError and InputError where the store cannot.
        """
        future = self._begin(index)
        while not wait([future], timeout=_POLL_SECONDS).done:
            alive()
        path = future.result()
        if index + 1 < len(self.videos):
            self._begin(index + 1)
        return path

    def forget(self, index: int) -> None:
        """Remove the file of a video that is done."""
        self.coming.pop(index, None)
        shutil.rmtree(self.folder / str(index), ignore_errors=True)

    def _begin(self, index: int) -> Future[Path]:
        if index not in self.coming:
            self.coming[index] = self.pool.submit(self._bring, index)
        return self.coming[index]

    def _bring(self, index: int) -> Path:
        source = self.videos[index]
        url = str(below(self.root, source.path))
        path = self.folder / str(index) / PurePosixPath(source.path).name[-_MAX_NAME:]
        path.parent.mkdir(exist_ok=True)
        for _ in range(2):
            try:
                download(url, path)
                arrived = path.stat().st_size
                if arrived == source.num_source_bytes or arrived == file_size(url):
                    return path
            except FileNotFoundError:
                if not list_folder(self.root):
                    raise FileNotFoundError(2, "VIDEOS is no longer there", self.root) from None
                raise DecodeError("the file is gone") from None
        raise DecodeError(
            f"{arrived} bytes arrived, the store lists {source.num_source_bytes}: it changes while it is read"
        )
