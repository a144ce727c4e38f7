"""What only the owner of a data set knows: its name, licence, homepage, citation. Given once, kept in both files of the card."""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from manifests.console import visible
from manifests.records import InputError

_MAX_CHARACTERS = 20_000
_URL = re.compile(r"https?://[!#-;=?-Z\]_a-z~\[]+")
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,99}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Texts, "" if they are not given. Their options have the same names, with - for _."""

    name: str = ""
    description: str = ""
    license: str = ""  # an identifier such as cc-by-4.0, or the URL of its text
    homepage: str = ""  # URL
    citation: str = ""
    creator: str = ""
    date_published: str = ""  # YYYY-MM-DD
    data_version: str = ""  # MAJOR.MINOR.PATCH

    def __post_init__(self) -> None:
        problems = [
            f"--{name.replace('_', '-')} {value[:100]!r}: expected {rule}"
            for name, (holds, rule) in _RULES.items()
            if (value := getattr(self, name)) and not holds(value)
        ]
        problems += [
            f"--{name.replace('_', '-')}: {len(value)} characters, expected at most {_MAX_CHARACTERS}"
            for name, value in dataclasses.asdict(self).items()
            if len(value) > _MAX_CHARACTERS
        ]
        if problems:
            raise InputError(f"{'; '.join(problems)}.")

    def given(self) -> dict[str, str]:
        """Those that are not empty."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value}


def cleaned(values: dict[str, str | None]) -> Facts:
    """The facts of a command line: without spaces around them, the licence in lower case unless it is a URL."""
    texts = {name: (value or "").encode(errors="replace").decode().strip() for name, value in values.items()}
    if "://" not in texts.get("license", ""):
        texts["license"] = texts.get("license", "").lower()
    return Facts(**texts)


def sound(values: dict[str, Any]) -> dict[str, str]:
    """Those of the values, which an earlier card or anyone has written, that may stand in a card."""
    names = {field.name for field in dataclasses.fields(Facts)}
    kept = {}
    for name, value in values.items():
        if name in names and isinstance(value, str) and 0 < len(value) <= _MAX_CHARACTERS:
            holds = _RULES[name][0] if name in _RULES else bool
            if holds(value):
                kept[name] = value
    return kept


def is_web_address(text: str) -> bool:
    """Whether a text is a web address, without characters that could end it early."""
    return _URL.fullmatch(text) is not None


def _is_date(text: str) -> bool:
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _is_line(text: str) -> bool:
    return visible(text) == text and "\n" not in text


_RULES: dict[str, tuple[Callable[[str], bool], str]] = {
    "name": (_is_line, "one line without control characters"),
    "creator": (_is_line, "one line without control characters"),
    "license": (
        lambda text: _LICENSE.fullmatch(text) is not None or is_web_address(text),
        "an identifier such as cc-by-4.0, or the URL of its text (https://...)",
    ),
    "homepage": (is_web_address, "a URL (https://...)"),
    "data_version": (
        lambda text: re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9}){2}", text) is not None,
        "a version as 1.0.0",
    ),
    "date_published": (_is_date, "a date as YYYY-MM-DD"),
}
