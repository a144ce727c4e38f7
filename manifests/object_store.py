"""Calls to object stores through fsspec: tried again while a store does not answer, explained where it refuses.

While it does not answer there is one warning, pauses grow, and after `patience` seconds it is UnreachableError. What the user
can mend (credentials, names, packages) is an InputError with what to do.
"""

from __future__ import annotations

import errno
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

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
    """An object store did not answer for so long that waiting was given up; nothing is lost, the same command goes on."""


def explained(error: OSError) -> str:
    """What to tell the user of a store that does not answer, or of a path that cannot be used as it was asked for."""
    what_to_do = "Check the path, its permissions and its disk."
    if isinstance(error, UnreachableError):
        what_to_do = "Run the same command again once it answers."
    return f"{error.filename}: {error.strerror}. {what_to_do}"


def to_stderr(root: str, text: str) -> None:
    """How warnings about a store (scheme and bucket) are told unless `set_warning_handler` names another way."""
    print(f"note: {text}", file=sys.stderr, flush=True)


def set_warning_handler(handler: Callable[[str, str], None]) -> None:
    """Send this process's warnings about stores to handler(store, text)."""
    global _warning_handler
    _warning_handler = handler


def warn(root: str, text: str) -> None:
    """Warn about a store through this process's handler."""
    _warning_handler(root, text)


def deduplicate_warnings(heard: Callable[[str], bool]) -> None:
    """Have this process warn of a store only where no other has: heard(store) says so, and is told of every trouble."""
    global _heard
    _heard = heard
    with _lock:
        fresh = [root for root, last in _trouble.items() if time.monotonic() - last < _QUIET_SECONDS]
    for root in fresh:  # what this process has told of before it knew the others
        heard(root)


_warning_handler: Callable[[str, str], None] = to_stderr
_heard: Callable[[str], bool] | None = None
giving_up = threading.Event()  # set: no call waits any longer for a store that does not answer
_lock = threading.Lock()
_answered: set[str] = set()  # stores (scheme and bucket) that have answered to this process
_trouble: dict[str, float] = {}  # those that a warning was told of, and when they last failed


def filesystem(url: object) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path in it. InputError: unknown kind, or its package is not installed."""
    import fsspec

    kind = str(url).partition("://")[0]
    try:
        return fsspec.core.url_to_fs(str(url))  # type: ignore[no-any-return]
    except ImportError as error:
        how = _EXTRAS.get(_SAME.get(kind, kind), "install it")
        raise InputError(
            f"{url}: {kind}:// needs a package that is not installed ({_short(error)}). To have it: {how}."
        ) from None
    except ValueError as error:
        raise InputError(
            f"{url}: {kind}:// cannot be used ({_short(error)}). Known are s3://, gs://, az:// and the others of fsspec; a "
            f"local folder is given as a path."
        ) from None
    except Exception as error:
        raise _explained(url, error) from None


def call(url: object, function: Callable[[Any, str], Value]) -> Value:
    """function(file system, path), tried again while the store does not answer; what it refuses is explained.

    Errors that tell of the content (FileNotFoundError, FileExistsError) and those of the local disk are raised as they are.
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
            if not _passes(error):
                raise _explained(url, error) from None
            waited = time.monotonic() - began
            limit = patience if root in _answered else min(patience, _FIRST_PATIENCE_SECONDS)
            if waited >= limit or giving_up.is_set():
                reason = f"the store did not answer for {waited:.0f} s ({_short(error)})"
                if root in _answered:
                    raise UnreachableError(errno.EIO, reason, str(url)) from None
                raise InputError(f"{url}: {reason}. Check its address and the network.") from None
            warn_once(root, f"{root} does not answer ({_short(error)}): trying again for up to {limit:.0f} s")
            attempt += 1
            giving_up.wait(random.uniform(0.5, 1.0) * min(15.0, 0.25 * 2**attempt, max(0.1, limit - waited)))
        else:
            _answered.add(root)
            return value


def no_bucket(error: BaseException) -> bool:
    """Whether a FileNotFoundError means the bucket, not what is looked for in it."""
    text = str(error).lower()
    return isinstance(error, FileNotFoundError) and "bucket" in text and "exist" in text


def warn_once(root: str, text: str) -> None:
    """One warning for a time of trouble with a store, whatever the number of calls, threads and workers that meet it."""
    now = time.monotonic()
    with _lock:
        told = now - _trouble.get(root, -_QUIET_SECONDS) < _QUIET_SECONDS
        _trouble[root] = now
        if (
            _heard is not None
        ):  # within the lock: of two threads that meet it, the one that tells must be the first for both
            told = _heard(root) or told
    if not told:
        _warning_handler(root, text)


def _passes(error: Exception) -> bool:
    """Whether trying again may help: the store or the way to it is in trouble, not the request."""
    status = getattr(error, "status", 0)  # of an answer of a web server, as aiohttp has it
    if isinstance(status, int) and 400 <= status < 500 and status not in (408, 425, 429):
        return False
    if isinstance(error, OSError):
        return not isinstance(error, _REFUSED) and error.errno not in (*_LOCAL, *_PERMANENT)
    # Of botocore: aiohttp calls what happens to a connection a ClientError too.
    names = {kind.__name__ for kind in type(error).__mro__ if kind.__module__.startswith("botocore")}
    if _lacks_credentials(error) or names & {"ParamValidationError", "ClientError"}:
        return False
    return type(error).__module__.partition(".")[0] in _LIBRARIES


def _lacks_credentials(error: Exception) -> bool:
    return any(kind.__name__.startswith(_NO_CREDENTIALS) for kind in type(error).__mro__)


def _explained(url: object, error: Exception) -> Exception:
    """The error that a user is shown: InputError with what to do, where it is theirs to mend."""
    kind = str(url).partition("://")[0]
    kind = _SAME.get(kind, kind)
    if _lacks_credentials(error):
        what = _KEYS.get(kind, "Give them in the way that fsspec's file system of this kind documents")
        return InputError(f"{url}: no credentials for {kind}:// are set ({_short(error)}). {what}.")
    if isinstance(error, PermissionError):
        what = _KEYS.get(kind, "Check the credentials")
        return InputError(
            f"{url}: the store refuses access ({_short(error)}). Reading and listing must be allowed to these credentials, "
            f"for OUT writing and deleting too. {what}."
        )
    if no_bucket(error):
        more = ", and AWS_ENDPOINT_URL where the store is not Amazon's" if kind == "s3" else ""
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
