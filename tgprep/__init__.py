"""Videos in; shards of RGB and temporal-gradient frames, tables and label splits out.

As a library: `extract` makes a data set as `tgprep extract` does (docs/python.md). Importing it loads nothing heavy.
"""

from __future__ import annotations

import os
import sys

import tgprep.extract  # noqa: F401  # before the function of this name, which takes its place in this package

TYPE_CHECKING = False  # not that of typing, which `python -m` would take from the user's folder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import Any, Literal, Unpack

    from manifests.object_store import UnreachableError
    from manifests.records import InputError
    from tgprep.config import ExtractOptions
    from tgprep.extract.call import Extraction
    from tgprep.extract.pipeline import TooManyFailuresError
    from tgprep.extract.workers.shards import ShardError

__all__ = ["Extraction", "InputError", "ShardError", "TooManyFailuresError", "UnreachableError", "extract"]
_HOMES = {
    "Extraction": "tgprep.extract.call",
    "InputError": "manifests.records",
    "ShardError": "tgprep.extract.workers.shards",
    "TooManyFailuresError": "tgprep.extract.pipeline",
    "UnreachableError": "manifests.object_store",
}


def _own(name: str) -> None:
    """Import the package `name` that lies beside this one, whatever lies in the working folder or on PYTHONPATH.

    Of two packages of one name a process can hold only one: where the program has imported another one before, it ends with
    one message and exit code 2. (tgprep and tgtrain have a copy each: neither imports the other.)
    """
    root = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    sys.path.insert(0, root)
    try:
        found = os.path.realpath([*getattr(__import__(name), "__path__", ()), sys.modules[name].__file__ or ""][0])
    finally:
        sys.path.remove(root)
    if found != os.path.join(root, name):
        text = f"{__name__} needs its own package `{name}`, but this program has imported another one before: {found}."
        print(
            f"Error: {text} Rename that one, or use {__name__} in a program that does not import it.", file=sys.stderr
        )
        sys.exit(2)


_own("manifests")


def __getattr__(name: str) -> Any:
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def extract(
    videos: str | Path,
    out: str | Path,
    *,
    dataset: str = "auto",
    annotations: str | Path | None = None,
    classes: Literal["all", "present"] = "all",
    unlabelled: str | Path | Sequence[str | Path] = (),
    unlabelled_is_class: bool = False,
    add: bool = False,
    retry_failed: bool = False,
    log: Callable[[str], None] | None = None,
    **settings: Unpack[ExtractOptions],
) -> Extraction:
    """Turn the videos below `videos` into a data set at `out`, as `tgprep extract` does: the same engine, bytes and account.

    >>> account = extract("videos", "dataset", threads=1, videos_per_shard=8)
    >>> account.num_written, account.num_failed, account.num_skipped
    (12, 0, 0)
    >>> extract("videos", "dataset", videos_per_shard=8).already_finished
    True

    Keywords are the command's options, with `_` for `-`, and have their defaults (`tgprep extract --help`).

    Args:
        videos, out: folders, or URLs of object stores.
        dataset: how class, label, group and official split are inferred: auto, ucf101, hmdb51, kinetics400, folder or csv.
        annotations: folder of the official lists, or the csv file; None looks beside `videos`.
        classes: keep every class of the data set's list, or only those with videos, with new labels.
        unlabelled: folder, or folders, of videos without a label.
        unlabelled_is_class: whether folders named `unlabelled` are a class like others.
        add, retry_failed: what to do with a finished data set; without either it stays as it is.
        log: called with each note, warning about a store and failed video, perhaps from several threads; None: nothing is said.
        settings: `threads`, `store`, `quality`, `short_side` and all other fields of `tgprep.config.ExtractSettings`
            and `WorkerSettings`.

    Raises:
        InputError: a mistake in the arguments or the input; the message says what, where and what to do.
        ShardError: the data set cannot be written. TooManyFailuresError: more than `max_failures`. UnreachableError: a store
            does not answer. After these, and after a kill, the same call goes on where the work ended.
    """
    from tgprep.extract.call import run

    named = {"dataset": dataset, "annotations": annotations, "classes": classes, "reserved": not unlabelled_is_class}
    return run(videos, out, unlabelled, named, (add, retry_failed), settings, log)


# `tgprep.extract` is the room of that name, too: its modules are attributes of the function.
extract.__dict__ = vars(sys.modules["tgprep.extract"])
