"""One file from the network: resumed where a connection broke, checked before it gets its name."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from manifests.manifest_io import atomic_write, file_sha256, json_bytes, publish

_PIECE_BYTES = 1024 * 1024
_TIMEOUT_SECONDS = 60.0
Tell = Callable[[int, int], None]


class DownloadError(Exception):
    """A file could not be had, or is not what was published; the message says what, and what to do."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file to fetch. num_bytes: -1, sha256: "" where nobody publishes them."""

    url: str
    num_bytes: int = -1
    sha256: str = ""

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.url.rpartition("/")[2]


@dataclass(slots=True)
class _Part:
    """The unfinished file and what the server said of the version that it is a part of."""

    path: Path
    version: str = ""

    @property
    def note(self) -> Path:
        return self.path.with_name(self.path.name + ".json")

    @property
    def num_bytes(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def fetch(
    remote: RemoteFile,
    target: Path,
    *,
    attempts: int = 6,
    wait_seconds: float = 2.0,
    stop: threading.Event | None = None,
    on_progress: Tell = lambda done, total: None,
) -> bool:
    """Have the file at `target`; False where it was there already. An unfinished download (`target`.part) is gone on with.

    attempts: connections in a row that bring nothing before it is given up; the wait between them doubles from wait_seconds.
    on_progress: called with bytes done and all bytes (-1 unknown). KeyboardInterrupt where `stop` is set; the part is kept.
    """
    stop = stop or threading.Event()
    if target.exists():
        if remote.sha256 and file_sha256(target) == remote.sha256:
            return False
        if not remote.sha256 and remote.num_bytes in (-1, target.stat().st_size):
            return False
        raise DownloadError(
            f"{target} is there, but is not the published file. Move it away, and run the same command again."
        )
    part = _Part(target.with_name(target.name + ".part"))
    failures, most = 0, part.num_bytes
    while True:
        before = part.num_bytes
        try:
            _receive(remote, part, stop, on_progress)
            break
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:  # nothing behind what we have: whole, or not a part of this file
                if remote.num_bytes == before or (remote.sha256 and file_sha256(part.path) == remote.sha256):
                    break
                part.drop()
            elif error.code not in (408, 425, 429) and error.code < 500:
                raise DownloadError(
                    f"{remote.url}: the server says {error.code} {error.reason}. The file may have moved: fetch it from the data set's "
                    f"home page into {target.parent}, or name another server with --base."
                ) from None
            reason = f"{error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", "") or error or type(error).__name__)
        # Only what no attempt had before counts: a server that begins anew and breaks off again must come to an end.
        failures = 0 if part.num_bytes > most else failures + 1
        most = max(most, part.num_bytes)
        if failures >= attempts:
            raise DownloadError(
                f"{remote.url}: {reason} ({attempts} attempts in a row). {part.num_bytes} bytes are kept: run the same command again "
                "to go on, or name another server with --base."
            )
        if stop.wait(wait_seconds * 2 ** min(failures, 6)):
            raise KeyboardInterrupt
    _verify(remote, part)
    part.note.unlink(missing_ok=True)
    with part.path.open("rb") as file:
        os.fsync(file.fileno())
    publish(part.path, target)
    return True


def _receive(remote: RemoteFile, part: _Part, stop: threading.Event, on_progress: Tell) -> None:
    """One connection; OSError where it breaks off before the end."""
    start = part.num_bytes
    request = urllib.request.Request(remote.url, headers={"User-Agent": "tgprep", "Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
        try:
            part.version = str(json.loads(part.note.read_bytes())["version"])
        except (OSError, ValueError, KeyError, TypeError):
            part.version = ""
        if part.version:
            request.add_header("If-Range", part.version)
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
        version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        if version.startswith("W/"):
            version = answer.headers.get("Last-Modified") or ""
        span = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", answer.headers.get("Content-Range", ""))
        if (
            answer.status == 206
            and span is not None
            and int(span[1]) == start
            and version in ("", part.version or version)
        ):
            total = int(span[3]) if span[3] != "*" else -1
        else:
            if answer.status == 206:
                part.drop()
                raise OSError("the server sent another part than asked, or of another version")
            start, total = 0, int(answer.headers.get("Content-Length") or -1)
        if remote.num_bytes >= 0 and total not in (-1, remote.num_bytes):
            raise DownloadError(
                f"{remote.url}: the server offers {total} bytes, published are {remote.num_bytes}. It is another file: name another server "
                "with --base, or fetch it from the data set's home page."
            )
        if total >= 0 and (free := shutil.disk_usage(part.path.parent).free) < total - start:
            raise DownloadError(
                f"{part.path.parent}: {free} bytes are free, {total - start} are needed for {remote.name}. Make room."
            )
        with atomic_write(part.note) as note:
            note.write(json_bytes({"version": version}))
        done = start
        with part.path.open("ab" if start else "wb") as file:
            while piece := answer.read(_PIECE_BYTES):
                file.write(piece)
                done += len(piece)
                on_progress(done, total)
                if stop.is_set():
                    raise KeyboardInterrupt
                if total >= 0 and done > total:
                    break
        if total >= 0 and done != total:
            raise OSError(f"the connection ended after {done} of {total} bytes")


def _verify(remote: RemoteFile, part: _Part) -> None:
    found = part.num_bytes
    if remote.num_bytes not in (-1, found):
        problem = f"{found} bytes came, published are {remote.num_bytes}"
    elif remote.sha256:
        with part.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest == remote.sha256:
            return
        problem = f"sha256 {digest[:16]}…, published is {remote.sha256[:16]}…"
    else:
        return
    part.drop()
    raise DownloadError(
        f"{remote.url}: {problem}. The damaged file was removed: run the same command again, or name another server with --base."
    )
