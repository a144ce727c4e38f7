"""Text of lists: encodings, line ends, and files that are no text."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.lists.text import MAX_BYTES, decode, read_lines, read_text
from manifests.records import InputError


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(tmp_path: Path, encoding: str, ends: str) -> None:
    text = f"caf\u00e9  {ends}{ends}\t\u65e5\u672c.avi 3{ends}  {ends}"
    (tmp_path / "list").write_bytes(text.encode(encoding))
    assert read_lines(tmp_path / "list") == [(1, "caf\u00e9"), (3, "\u65e5\u672c.avi 3")]


def test_marks_of_files_that_were_joined_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n")
    assert read_lines(tmp_path / "list") == [(1, "a"), (2, "b")]


def test_a_huge_line_is_no_line_of_a_list(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("a\n" + "b" * 20_000)
    with pytest.raises(InputError, match="line 2: has 20,000 characters"):
        read_lines(tmp_path / "list")


def test_separators_of_lines_in_unicode_stay_in_names(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("a\u2028b\x85c\x0bd\n", "utf-8")
    assert read_lines(tmp_path / "list") == [(1, "a\u2028b\x85c\x0bd")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\nbc caf\xe9\n", "line 2: byte 7 (0xe9) is not UTF-8. Save it as UTF-8"),
        (b"\xef\xbb\xbf\xff", "line 1: byte 1 (0xff) is not UTF-8"),
        ("a\n".encode("utf-16-le"), "line 1: holds a NUL byte"),
        (b"\xff\xfea\x00b", "line 1: byte 5 (0x62) is not UTF-16"),
        (b"a\nb\0\n", "line 2: holds a NUL byte"),
    ],
)
def test_what_is_no_text(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "list").write_bytes(content)
    with pytest.raises(InputError, match=re.escape(f"{tmp_path / 'list'}, {message}")):
        read_text(tmp_path / "list")


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    for name, message in (
        ("gone", "no such file"),
        (".", "is a folder"),
        ("pipe", "is no regular file"),
        ("large", "larger than 256 MiB"),
        ("n" * 300, "cannot be read"),
        ("nul\0", "cannot be read"),
    ):
        with pytest.raises(InputError, match=message):
            read_text(tmp_path / name)
    with pytest.raises(InputError, match="no regular file"):
        read_text(Path("/dev/zero"))


@given(st.binary(max_size=60))
def test_any_bytes_are_text_or_one_message(content: bytes) -> None:
    try:
        text = decode(content, Path("list"))
    except InputError as error:
        assert str(error).startswith("list, line ")
    else:
        assert "\r" not in text
        assert "\0" not in text
