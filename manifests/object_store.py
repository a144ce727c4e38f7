"""Calls to object stores through fsspec: retried while a store does not answer; refusals are explained to the user.

While a store does not answer, pauses between attempts grow, one warning is given, and after `patience` seconds UnreachableError
is raised. What the user can correct (credentials, names, packages) is an InputError that says how.
"""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from manifests.console import say
from manifests.records import InputError

patience = float(os.environ.get("TGPREP_PATIENCE_SECONDS", "600"))
_FIRST_PATIENCE_SECONDS = 30.0  # until a store has answered once: the address may be wrong
_QUIET_SECONDS = 60.0  # without trouble: what comes then is a new one
_PERMANENT = (errno.EINVAL, errno.EPERM, errno.ENOSYS, errno.EREMCHG, errno.ENAMETOOLONG, errno.EMSGSIZE)
_LOCAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EMFILE, errno.ENFILE)
_REFUSED = (FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError)
_LIBRARIES = frozenset("botocore aiobotocore aiohttp urllib3 requests gcsfs azure google http asyncio".split())  # noqa: SIM905
_NO_CREDENTIALS = ("NoCredential", "PartialCredential", "CredentialRetrieval", "ProfileNotFound", "DefaultCredentials")
_EXTRAS = {"s3": "pip install 'tgprep[s3]'", "gs": "pip install gcsfs", "az": "pip install adlfs"}
_KEYS = {
    "s3": "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for a store that is not Amazon's also "
    "AWS_ENDPOINT_URL",
    "gs": "Set GOOGLE_APPLICATION_CREDENTIALS, or run `gcloud auth application-default login`",
}
_SAME = {"s3a": "s3", "gcs": "gs", "abfs": "az"}
Value = TypeVar("Value")


class UnreachableError(OSError):
    """An object store did not answer for `patience` seconds. Nothing is lost; the same command resumes."""


def to_stderr(root: str, text: str) -> None:
    """Print a warning about a store (scheme and bucket): the default handler."""
    say(f"note: {text}")


def set_warning_handler(handler: Callable[[str, str], None]) -> Callable[[str, str], None]:
    """Send this process's warnings about stores to handler(store, text); gives the handler that had them before."""
    global _warning_handler
    before, _warning_handler = _warning_handler, handler
    return before


def warn(root: str, text: str) -> None:
    """Warn about a store through this process's handler."""
    _warning_handler(root, text)


def deduplicate_warnings(already_warned: Callable[[str], bool]) -> None:
    """Suppress a warning about a store that another process has already given.

    already_warned(store) is called at every failure: it returns whether a process has warned, and records that one has now.
    """
    global _already_warned
    _already_warned = already_warned
    with _lock:
        recent = [root for root, last in _last_failure.items() if time.monotonic() - last < _QUIET_SECONDS]
    for root in recent:  # warnings of this process from before this call
        already_warned(root)


_warning_handler: Callable[[str, str], None] = to_stderr
_already_warned: Callable[[str], bool] | None = None
giving_up = threading.Event()  # if set, no call waits for a store that does not answer
_lock = threading.Lock()
_answered: set[str] = set()  # stores (scheme and bucket) that have answered this process
_last_failure: dict[str, float] = {}  # by store: the time of its last failure


def filesystem(url: object) -> tuple[Any, str]:
    """Open fsspec's file system for a URL; return it and the path. InputError: unknown scheme, or its package is missing."""
    import fsspec

    kind = str(url).partition("://")[0]
    try:
        return fsspec.core.url_to_fs(str(url))  # type: ignore[no-any-return]
    except ImportError as error:
        how = _EXTRAS.get(_SAME.get(kind, kind), "install it")
        raise InputError(
            f"{url}: {kind}:// needs a package that is not installed ({_short(error)}). To install it: {how}."
        ) from None
    except ValueError as error:
        raise InputError(
            f"{url}: {kind}:// cannot be used ({_short(error)}). Known are s3://, gs://, az:// and the others of fsspec; a "
            f"local folder is given as a path."
        ) from None
    except Exception as error:
        raise _explained(url, error) from None


def call(url: object, function: Callable[[Any, str], Value]) -> Value:
    """Call function(file system, path), with retries while the store does not answer; refusals become InputError.

    Errors about the content (FileNotFoundError, FileExistsError) and about the local disk are raised unchanged.
    """
    files, path = filesystem(url)
    began = time.monotonic()
    root = "/".join(str(url).split("/")[:3])
    attempt = 0
    while True:
        try:
            files.invalidate_cache()  # others write there too
            value = function(files, path)
        except Exception as error:
            if not _is_temporary(error):
                raise _explained(url, error) from None
            # A store that has never answered may have a wrong address: give up sooner, with another message.
            waited = time.monotonic() - began
            limit = patience if root in _answered else min(patience, _FIRST_PATIENCE_SECONDS)
            if waited >= limit or giving_up.is_set():
                reason = f"the store did not answer for {waited:.0f} s ({_short(error)})"
                if root in _answered:
                    raise UnreachableError(errno.EIO, reason, str(url)) from None
                raise InputError(f"{url}: {reason}. Check its address and the network.") from None
            warn_once(root, f"{root} does not answer ({_short(error)}): retrying for up to {limit:.0f} s")
            attempt += 1
            giving_up.wait(random.uniform(0.5, 1.0) * min(15.0, 0.25 * 2**attempt, max(0.1, limit - waited)))
        else:
            _answered.add(root)
            return value


def no_bucket(error: BaseException) -> bool:
    """Whether a FileNotFoundError is about the bucket and not an object in it."""
    text = str(error).lower()
    return isinstance(error, FileNotFoundError) and "bucket" in text and "exist" in text


def warn_once(root: str, text: str) -> None:
    """Warn once about a store in trouble, whatever the number of calls, threads and workers that fail."""
    now = time.monotonic()
    with _lock:
        is_repeated = now - _last_failure.get(root, -_QUIET_SECONDS) < _QUIET_SECONDS
        _last_failure[root] = now
        if _already_warned is not None:  # inside the lock, so that of two threads exactly one warns
            is_repeated = _already_warned(root) or is_repeated
    if not is_repeated:
        _warning_handler(root, text)


def _is_temporary(error: Exception) -> bool:
    """Whether a retry may help: the store or the network is at fault, not the request."""
    status = getattr(error, "status", 0)  # of a web server's answer (aiohttp)
    if isinstance(status, int) and 400 <= status < 500 and status not in (408, 425, 429):
        return False
    if isinstance(error, OSError):
        return not isinstance(error, _REFUSED) and error.errno not in (*_LOCAL, *_PERMANENT)
    # Names of botocore only: in aiohttp, ClientError is a connection error.
    names = {kind.__name__ for kind in type(error).__mro__ if kind.__module__.startswith("botocore")}
    if _lacks_credentials(error) or names & {"ParamValidationError", "ClientError"}:
        return False
    return type(error).__module__.partition(".")[0] in _LIBRARIES


def _lacks_credentials(error: Exception) -> bool:
    return any(kind.__name__.startswith(_NO_CREDENTIALS) for kind in type(error).__mro__)


def _explained(url: object, error: Exception) -> Exception:
    """The error to show: an InputError that says what to do, if the user can correct it."""
    kind = str(url).partition("://")[0]
    kind = _SAME.get(kind, kind)
    if _lacks_credentials(error):
        what = _KEYS.get(kind, "See the documentation of fsspec's file system for this scheme")
        return InputError(f"{url}: no credentials for {kind}:// are set ({_short(error)}). {what}.")
    if isinstance(error, PermissionError):
        what = _KEYS.get(kind, "Check the credentials")
        return InputError(
            f"{url}: the store refuses access ({_short(error)}). Reading and listing must be allowed to these credentials, "
            f"for OUT writing and deleting too. {what}."
        )
    if no_bucket(error):
        more = ", and AWS_ENDPOINT_URL if the store is not Amazon's" if kind == "s3" else ""
        return InputError(f"{url}: there is no bucket {str(url).split('/')[2]}. Make it, or check its name{more}.")
    permanent = isinstance(error, OSError) and error.errno in _PERMANENT
    if permanent or type(error).__module__.partition(".")[0] in _LIBRARIES:
        return InputError(
            f"{url}: the store refuses the request ({_short(error)}). Check the address and the settings."
        )
    return error


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}…"
