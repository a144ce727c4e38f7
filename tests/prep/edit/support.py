"""What tests of edits share: edits that are killed at each of their steps, and the samples as tables and tars have them."""

from __future__ import annotations

import json
import os
import sys
import tarfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_STEPS = ("os.rename", "os.link", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")


def killed_at_each_step(edit: Callable[[], object], prepare: Callable[[], object], every: int = 1) -> Iterator[int]:
    """Run an edit in a child that ends, as kill -9 ends it, before its first change of a folder, then before the second and so on.

    prepare: called before each child. Gives the number of the step after each child, until one comes to its end. every: how many
    steps to go forward.
    """
    for step in range(0, 1000, every):
        prepare()
        child = os.fork()
        if not child:
            _end_at(step)
            try:
                edit()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 9), code
        if code == 0:
            return
        yield step


def _end_at(step: int) -> None:
    num_left = step

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal num_left
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in _STEPS or writes:
            if not num_left:
                os._exit(9)
            num_left -= 1

    sys.addaudithook(count)


def facts_in_tars(root: Path) -> dict[str, dict[str, Any]]:
    """The .json member of every sample, by key, as any reader of tars finds it."""
    facts = {}
    for path in sorted(root.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".json") and (file := tar.extractfile(member)) is not None:
                    facts[member.name.removesuffix(".json")] = json.load(file)
    return facts
