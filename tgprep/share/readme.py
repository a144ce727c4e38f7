"""README.md as a card: the keys and the section that `tgprep card` writes, within the text of its owner, which stays."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from manifests.records import InputError
from tgprep.share.tables import BEGIN, END
from tgprep.share.text import yaml_scalar

_KEY = re.compile(r"""(["']?)([A-Za-z_][\w.-]*)\1[ \t]*:(?=\s|$)(.*)""", re.DOTALL)
_MARKED = re.compile(rf"^{BEGIN}[^\n]*-->\n.*?^{END}$", re.MULTILINE | re.DOTALL)
_RESTORE = "Restore it, or replace the file as a whole with --force."


@dataclass(slots=True)
class Readme:
    """A README.md in its parts."""

    place: str  # for messages
    blocks: list[tuple[str, str]] = field(default_factory=list)
    """The front matter: its keys in order, each with its lines; comments between them have the key ""."""
    body: str = ""

    def scalar(self, key: str) -> str:
        """The value of a key of the front matter, if it is a text on one line; else ""."""
        lines = next((lines for name, lines in self.blocks if name == key), "")
        found = _KEY.match(lines)
        return yaml_scalar(found[3]) if found and "\n" not in lines.strip() else ""

    def has(self, key: str) -> bool:
        """Whether the front matter has a key."""
        return any(name == key for name, _ in self.blocks)

    def put(self, key: str, lines: str) -> None:
        """Set the lines of a key; "" removes it."""
        blocks = [(name, lines if name == key else before) for name, before in self.blocks]
        if lines and not self.has(key):
            blocks.append((key, lines))
        self.blocks = [(name, text) for name, text in blocks if text]

    def put_section(self, section: str, replaced: re.Pattern[str]) -> None:
        """Set the marked section, in place of the earlier one or of text that matches `replaced`, or behind all text.

        InputError if the marks of the earlier one are incomplete.
        """
        found = _MARKED.findall(self.body)
        counts = {mark: len(re.findall(rf"^{mark}", self.body, re.MULTILINE)) for mark in (BEGIN, END)}
        if len(found) > 1 or any(count != len(found) for count in counts.values()):
            raise InputError(
                f"{self.place}: {counts[BEGIN]} lines `{BEGIN} ... -->` and {counts[END]} lines `{END}`, expected one of each, in "
                f"this order, around what `tgprep card` wrote. {_RESTORE}"
            )
        pattern = _MARKED if found else replaced
        body, count = pattern.subn(lambda _: section, self.body, count=1)
        self.body = body if count else "\n\n".join(part for part in (self.body.strip("\n"), section) if part)

    def text(self) -> str:
        """The whole file."""
        front = "".join(lines for _, lines in self.blocks)
        return f"---\n{front}---\n\n{self.body.strip(chr(10))}\n"


def parse_readme(content: bytes, place: str) -> Readme:
    """Take a README.md apart. InputError if it is no UTF-8, or has front matter that is no list of keys at the left margin."""
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: byte {error.start} is no UTF-8. {_RESTORE}") from None
    lines = text.lstrip().split("\n")
    if lines[0].rstrip() != "---":
        return Readme(place, [], text)
    ends = [number for number, line in enumerate(lines) if number and line.rstrip() == "---"]
    if not ends:
        raise InputError(f"{place}: the front matter that begins with `---` has no second `---`. {_RESTORE}")
    blocks: list[tuple[str, str]] = []
    for number, line in enumerate(lines[1 : ends[0]], 2):
        key = _KEY.match(line)
        if key or line.startswith("#"):
            blocks.append((key[2] if key else "", f"{line}\n"))
        elif blocks and (not line.strip() or line[0] in " \t-"):
            blocks[-1] = (blocks[-1][0], f"{blocks[-1][1]}{line}\n")
        elif line.strip():
            raise InputError(f"{place}: line {number} of the front matter ({line[:60]!r}) has no `key:`. {_RESTORE}")
    return Readme(place, blocks, "\n".join(lines[ends[0] + 1 :]))


def set_front_matter(readme: Readme, ours: Mapping[str, str], given: Collection[str]) -> list[str]:
    """Add our keys (name -> lines, "": none) to the front matter, and return notes on what stays of the owner's.

    given: the keys to replace; of the others those that are there stay.
    """
    notes = []
    for key, lines in ours.items():
        if key in given or not readme.has(key):
            readme.put(key, lines)
        elif key == "configs":
            before = next(text for name, text in readme.blocks if name == key)
            if _bare(before) != _bare(lines):
                notes.append(
                    f"{readme.place}: its `configs` stay, though they are not those of the shards; --force replaces the file"
                )
    return notes


def _bare(lines: str) -> str:
    return re.sub(r"[\s\"']", "", lines)
