"""Local writing: names stay in their folder, refusals name the path and the remedy, leftovers of living writers stay."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from manifests.disk import (
    TEMPORARY_PREFIX,
    explained,
    held_folder,
    made_folder,
    path_inside,
    require_room,
    whole_file,
)
from manifests.locks import lock_file
from manifests.records import InputError


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/../../x", "/etc/x", "a//b", "a\0b", "n" * 256, "é" * 128])
def test_names_that_are_no_path_below_a_folder_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the header: .* cannot be the name of a file below"):
        path_inside(tmp_path, name, "the header")


def test_links_out_of_a_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in" / "real").mkdir(parents=True)
    (tmp_path / "in" / "inside").symlink_to("real")
    (tmp_path / "in" / "outside").symlink_to(tmp_path)
    assert path_inside(tmp_path / "in", "real/x", "it").parent.is_dir()
    assert path_inside(tmp_path / "in", "inside/x", "it").parent.is_dir()
    with pytest.raises(InputError, match="leads out of"):
        path_inside(tmp_path / "in", "outside/x", "it")


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, r"MB are free\)\. Make room, and run"),
        (errno.EDQUOT, "Make room within the quota"),
        (errno.EIO, "Look at the disk"),
        (errno.EROFS, "Name another place"),
        (errno.ENAMETOOLONG, "Give a shorter name"),
        (errno.EACCES, "Check the path, its permissions"),
    ],
)
def test_each_refusal_says_what_to_do(number: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught, whole_file(tmp_path / "x"):
        raise OSError(number, os.strerror(number), str(tmp_path / "x"))
    assert caught.match(os.strerror(number))
    text = explained(caught.value)
    assert text.startswith(f"{tmp_path / 'x'}: {os.strerror(number)}")
    assert re.search(message, text)
    assert not list(tmp_path.iterdir())


def test_leftovers_of_dead_writers_are_removed_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    dead = tmp_path / f"{TEMPORARY_PREFIX}{'0' * 32}-page.html"
    other = tmp_path / f"{TEMPORARY_PREFIX}{'0' * 32}-other.html"
    dead.write_text("half")
    other.write_text("half")
    with whole_file(tmp_path / "page.html") as first:
        with whole_file(tmp_path / "page.html") as second:
            assert not dead.exists()
            second.write(b"second")
        first.write(b"first")
    assert (tmp_path / "page.html").read_bytes() == b"first"
    assert {path.name for path in tmp_path.iterdir()} == {"page.html", other.name}


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    with whole_file(tmp_path / ("n" * 255)) as file:
        file.write(b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["n" * 255]


def test_errors_name_the_file_and_not_its_temporary_name(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path, kind in (
        (tmp_path / "none" / "x", FileNotFoundError),
        (tmp_path / "folder", IsADirectoryError),
        (tmp_path / ("n" * 256), OSError),
    ):
        with pytest.raises(kind) as caught, whole_file(path):
            pass
        assert caught.value.filename == str(path)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_folders_that_were_made_for_nothing_are_removed(tmp_path: Path) -> None:
    for fails in (True, False):
        try:
            with made_folder(tmp_path / "a" / "b"):
                if fails:
                    raise KeyError
        except KeyError:
            assert not list(tmp_path.iterdir())
    assert (tmp_path / "a" / "b").is_dir()
    with pytest.raises(InputError, match="MB are to be written"):
        require_room(tmp_path, 10**18)


def test_a_lock_is_no_way_to_a_file_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "lock").symlink_to("precious")
    with pytest.raises(OSError, match="symbolic links"), lock_file(tmp_path / "lock", "it"):
        pass
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_folder_is_held_by_one_process_at_a_time_though_the_lock_is_removed_each_time(tmp_path: Path) -> None:
    """Four processes add to a counter, which is read and written without any other protection."""
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "count").write_text("0")
    program = (
        "import sys, pathlib; from manifests.locks import lock_file; folder = pathlib.Path(sys.argv[1])\n"
        "for _ in range(20):\n"
        "    with lock_file(folder / 'lock', 'it', wait_seconds=60):\n"
        "        count = int((folder / 'count').read_text()); (folder / 'count').write_text(str(count + 1))\n"
        "        (folder / 'lock').unlink()\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "held")]
    processes = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait(timeout=120) for process in processes] == [0] * 4
    assert (tmp_path / "held" / "count").read_text() == "80"
    held = held_folder(tmp_path / "held")
    with held, pytest.raises(InputError, match=f"in use by process {os.getpid()}"), held_folder(tmp_path / "held"):
        pass
