"""Fetch one file from the network: resume after broken connections, verify before it gets its name."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import os
import re
import shutil
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.disk import is_storage_error, naming, publish
from manifests.files import atomic_write
from manifests.manifest_io import file_sha256, json_bytes

_PIECE_BYTES = 1024 * 1024
_TIMEOUT_SECONDS = 60.0
_MOST_BYTES = 50 * 10**9  # of a file whose size is not published
OnProgress = Callable[[int, int], None]


class DownloadError(Exception):
    """A file cannot be fetched, or is not the published one; the message says what to do."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file to fetch and what is published about it."""

    url: str
    num_bytes: int = -1  # -1: not published
    sha256: str = ""  # "": not published

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return self.url.rpartition("/")[2]


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a server to web servers alone, from the Internet only to the Internet, and from https only to https."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        here, there = (urllib.parse.urlsplit(url) for url in (req.full_url, newurl))
        reason = ""
        if there.scheme not in ("http", "https") or (here.scheme == "https" and there.scheme == "http"):
            reason = f"from {here.scheme}: to {there.scheme}:"
        elif _is_private(there.hostname) and not _is_private(here.hostname):
            reason = "to a machine of the local network"
        if reason:
            raise DownloadError(
                f"{req.full_url}: the server leads {reason} ({newurl[:200]}), which is not followed. Name another server with --base."
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _is_private(host: str | None) -> bool:
    """Whether a name stands for this machine or its network; not if it is unknown here, as behind a proxy."""
    try:
        found = socket.getaddrinfo(host or "localhost", None)
    except (OSError, UnicodeError):
        return False
    return any(not ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_global for entry in found)


_open = urllib.request.build_opener(_Redirects).open


def fetch(
    remote: RemoteFile,
    target: Path,
    *,
    attempts: int = 6,
    wait_seconds: float = 2.0,
    stop: threading.Event | None = None,
    on_progress: OnProgress = lambda done, total: None,
) -> bool:
    """Fetch the file to `target`; return False if it was there already. An unfinished download (`target`.part) is resumed.

    attempts: connections in a row without progress before it gives up; the wait between them doubles from wait_seconds.
    on_progress: called with bytes done and all bytes (-1 if unknown).
    Raises DownloadError, and KeyboardInterrupt if `stop` is set; the part is kept.
    """
    stop = stop or threading.Event()
    if target.exists():
        if not _difference(remote, target):
            return False
        advice = "Move it away, and run the same command again."
        raise DownloadError(f"{target} exists, but is not the published file. {advice}")
    part = target.with_name(target.name + ".part")
    failures, most_bytes = 0, _size(part)
    while reason := _attempt(remote, part, stop, on_progress):
        # Only bytes beyond all earlier attempts count as progress: a server that starts over and breaks off again must not
        # keep this loop going.
        failures = 0 if _size(part) > most_bytes else failures + 1
        most_bytes = max(most_bytes, _size(part))
        if failures >= attempts:
            raise DownloadError(
                f"{remote.url}: {reason} ({attempts} attempts in a row). {_size(part)} bytes are kept: run the same command again "
                "to resume, or name another server with --base."
            )
        if stop.wait(wait_seconds * 2 ** min(failures, 6)):
            raise KeyboardInterrupt
    if problem := _difference(remote, part):
        _discard(part)
        raise DownloadError(
            f"{remote.url}: {problem}. The damaged file was removed: run the same command again, or name another server with --base."
        )
    _version_file(part).unlink(missing_ok=True)
    with part.open("rb") as file:
        os.fsync(file.fileno())
    publish(part, target)
    return True


def _attempt(remote: RemoteFile, part: Path, stop: threading.Event, on_progress: OnProgress) -> str:
    """Try to complete the part with one connection; return why it failed for now, or ""."""
    try:
        _receive(remote, part, stop, on_progress)
        return ""
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # no bytes follow: the part is complete, or is not a part of this file
            published = remote.num_bytes >= 0 or remote.sha256
            if published and not _difference(remote, part):
                return ""
            _discard(part)
        elif error.code not in (408, 425, 429) and error.code < 500:
            raise DownloadError(
                f"{remote.url}: the server answers {error.code} {error.reason}. The file may have moved: fetch it from the data set's "
                f"home page into {part.parent}, or name another server with --base."
            ) from None
        return f"{error.code} {error.reason}"
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and not isinstance(error, urllib.error.URLError) and is_storage_error(error):
            raise  # of this machine's disk
        return str(getattr(error, "reason", "") or error or type(error).__name__)


def _receive(remote: RemoteFile, part: Path, stop: threading.Event, on_progress: OnProgress) -> None:
    """Receive what follows the part; OSError if the connection breaks off before the end."""
    start, version, version_file = _size(part), "", _version_file(part)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        version = str(json.loads(version_file.read_bytes())["version"])
    request = urllib.request.Request(remote.url, headers={"User-Agent": "tgprep", "Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
        if version:  # if the file has changed, the server sends all of it instead of the rest
            request.add_header("If-Range", version)
    with _open(request, timeout=_TIMEOUT_SECONDS) as answer:
        # A strong entity tag or a date identifies the bytes of this version of the file.
        tag, date = answer.headers.get("ETag") or "", answer.headers.get("Last-Modified") or ""
        new_version = date if not tag or tag.startswith("W/") else tag
        if not (new_version.isascii() and new_version.isprintable()):  # it cannot be sent back
            new_version = ""
        if answer.status == 206:
            span = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", answer.headers.get("Content-Range", ""))
            if span is None or int(span[1]) != start or new_version not in ("", version or new_version):
                _discard(part)
                raise OSError("the server sent another part than requested, or of another version")
            total = int(span[3]) if span[3] != "*" else -1
        else:
            length = answer.headers.get("Content-Length") or ""
            start, total = 0, int(length) if re.fullmatch(r"[0-9]{1,18}", length) else -1
        if remote.num_bytes >= 0 and total not in (-1, remote.num_bytes):
            raise DownloadError(
                f"{remote.url}: the server offers {total} bytes, published are {remote.num_bytes}. It is another file: name another server "
                "with --base, or fetch it from the data set's home page."
            )
        most_bytes = remote.num_bytes if remote.num_bytes >= 0 else _MOST_BYTES
        if total > most_bytes:
            raise DownloadError(
                f"{remote.url}: the server offers {total} bytes, which is more than any archive of a data set."
            )
        if total >= 0 and (free := shutil.disk_usage(part.parent).free) < total - start:
            room = f"{free} bytes are free, {total - start} are needed for {remote.name}"
            raise DownloadError(f"{part.parent}: {room}. Make room.")
        with atomic_write(version_file) as file:
            file.write(json_bytes({"version": new_version}))
        done = start
        with part.open("ab" if start else "wb") as content:
            while piece := answer.read(_PIECE_BYTES):
                with naming(part):
                    content.write(piece)
                    content.flush()
                done += len(piece)
                on_progress(done, total)
                if stop.is_set():
                    raise KeyboardInterrupt
                if 0 <= total < done:
                    break
                if done > most_bytes:
                    _discard(part)
                    raise DownloadError(
                        f"{remote.url}: the server sends more than {most_bytes} bytes. It is another file."
                    )
        if total >= 0 and done != total:
            raise OSError(f"the connection ended after {done} of {total} bytes")


def _version_file(part: Path) -> Path:
    """The file that holds the version of which `part` is a part."""
    return part.with_name(part.name + ".json")


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _discard(part: Path) -> None:
    for file in (part, _version_file(part)):
        file.unlink(missing_ok=True)


def _difference(remote: RemoteFile, file: Path) -> str:
    """How a file differs from what is published; "" if it does not, or nothing is published."""
    if remote.num_bytes not in (-1, _size(file)):
        return f"{_size(file)} bytes came, published are {remote.num_bytes}"
    if remote.sha256 and (digest := file_sha256(file)) != remote.sha256:
        return f"sha256 {digest[:16]}…, published is {remote.sha256[:16]}…"
    return ""
