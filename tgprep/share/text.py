"""Texts of anyone as Markdown, YAML and JSON: they show as they are, and never become markup."""

from __future__ import annotations

import json
import re

from manifests.console import visible

_BREAKS = re.compile("[\t\n]")
# Punctuation at places where it means something in Markdown: `_` within a word does not, a full stop does in lists and addresses.
_MARKUP = re.compile(r"[\\`*{}\[\]<>#&|~$@^]|(?<![^\W_])_|_(?![^\W_])|:(?=\S)|(?<=[wW])\.|(?<=\d)[.)](?=\s)|^[-+=]")
_UNPRINTABLE = re.compile("[\ufffe\uffff]")


def markdown(text: str) -> str:
    """One line of Markdown, also within a table, that shows the text; control characters and marks of direction as codes."""
    line = _BREAKS.sub(lambda found: f"\\u{ord(found[0]):04x}", visible(text))
    return _MARKUP.sub(r"\\\g<0>", line.strip())


def code_block(text: str) -> str:
    """A block of Markdown that shows the lines of a text as they are; a comment does not begin in it."""
    shown = visible(text.strip("\n")).replace("<!--", "<! --")
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", shown)), default=0))
    return f"{fence}text\n{shown}\n{fence}"


def yaml(text: str) -> str:
    """A text as a scalar of YAML: plain if it can be nothing else, else in double quotes on one line."""
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9 .-]*[A-Za-z0-9]", text) and text.lower() not in _YAML_WORDS:
        return text
    quoted = visible(json.dumps(text, ensure_ascii=False))
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", quoted)


_YAML_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}


def yaml_scalar(value: str) -> str:
    """Read what stands behind the colon of a key on one line; "" if it is no plain or quoted scalar."""
    value = value.strip()
    if value.startswith('"'):
        try:
            found = json.loads(value)
        except ValueError:
            return ""
        return found if isinstance(found, str) else ""
    if len(value) > 1 and value[0] == value[-1] == "'":
        return value[1:-1].replace("''", "'")
    return "" if value[:1] in set("[]{}|>&*!%@`'#-?:,") else value.partition(" #")[0].strip()
