"""Read the text of a list, whatever program saved it: byte order marks and all line ends are passed over."""

from __future__ import annotations

import codecs
import stat
from pathlib import Path

from manifests.records import InputError

MAX_BYTES = 256 * 1024 * 1024  # of a list; that of Kinetics-700 has 40 MB
MAX_LINE = 16384
# The marks of UTF-32 begin with those of UTF-16.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_SAVE = "Save it as UTF-8 (`iconv -f LATIN1 -t UTF-8 OLD > NEW` if it is Latin-1)."


def read_text(file: Path) -> str:
    """Read a text file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark; every line end becomes a newline.

    InputError if there is no such file, it is no regular file, too large for a list, or no text.
    """
    return decode(read_file(file), file)


def read_lines(file: Path) -> list[tuple[int, str]]:
    """Read the lines that are not blank, without spaces at their ends, and their numbers from 1."""
    return lines_of(read_text(file), file)


def lines_of(text: str, file: Path) -> list[tuple[int, str]]:
    """Split a text into the lines that are not blank, without spaces at their ends, and their numbers from 1."""
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    for number, line in lines:
        if len(line) > MAX_LINE:
            raise InputError(f"{file}, line {number}: has {len(line):,} characters: no line of a list.")
    return lines


def shown(text: str) -> str:
    """A text of a list for messages: in quotes, long ones cut."""
    return repr(text if len(text) <= 120 else f"{text[:120]}...")


def read_file(file: Path) -> bytes:
    """Read the bytes of a list; InputError if it cannot be read or is none."""
    try:
        status = file.stat()
        # Reading a device or a named pipe may never end. A pipe of this process (`<(command)`) ends with its writer.
        piped = stat.S_ISFIFO(status.st_mode) and str(file).startswith("/dev/")
        if not stat.S_ISREG(status.st_mode) and not piped:
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
            raise InputError(f"{file} is {kind}; expected a text file.")
        with file.open("rb") as opened:
            # read(n) takes n bytes of memory first
            content = opened.read((MAX_BYTES if piped else min(status.st_size, MAX_BYTES)) + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise InputError(f"{file}: {reason}.") from None
    if len(content) > MAX_BYTES:
        raise InputError(f"{file} is larger than {MAX_BYTES >> 20} MiB: no list of videos.")
    return content


def decode(content: bytes, file: Path) -> str:
    """Decode the bytes of a list; InputError names the line and byte that is no text."""
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        before = error.object[: error.start]  # without the mark
        line, place = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        what = f"byte {place} (0x{error.object[error.start]:02x}) is not {encoding.removesuffix('-sig').upper()}"
        raise InputError(f"{file}, line {line}: {what}. {_SAVE}") from None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = text.replace("\n\ufeff", "\n")  # files with marks that were joined
    if (nul := text.find("\0")) >= 0:
        line = text.count("\n", 0, nul) + 1
        raise InputError(f"{file}, line {line}: holds a NUL byte: no text, or UTF-16 without its mark. {_SAVE}")
    return text


def read_keys(file: Path) -> list[str]:
    """The keys of a list with one a line, or of a csv that begins with the key, as `tgprep targets --least-sure` writes it."""
    firsts = [line.partition(",")[0].strip().strip('"') for _, line in read_lines(file)]
    return [key for key in (firsts[1:] if firsts[:1] == ["key"] else firsts) if key]
