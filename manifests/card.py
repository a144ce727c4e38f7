"""README.md of a folder of shards: the card from which Hugging Face `datasets` knows the parts."""

from __future__ import annotations

from collections.abc import Mapping

from manifests.files import Location, atomic_write, below, exists, read_bytes

CARD_NAME = "README.md"


def write_card(folder: Location, parts: Mapping[str, str], text: str, earlier: str = "") -> None:
    """Write README.md, unless there is one, which may be the user's.

    parts: the pattern of the shards of each part, by its name. text: what the folder holds, in Markdown. earlier: the text of a
    card of ours that this one replaces.
    """
    place = below(folder, CARD_NAME)
    replaces = earlier and earlier != text
    if exists(place) and not (replaces and read_bytes(place) == _card(parts, earlier)):
        return
    with atomic_write(place) as file:
        file.write(_card(parts, text))


def _card(parts: Mapping[str, str], text: str) -> bytes:
    lines = ["---", "configs:", "- config_name: default", "  data_files:"]
    for part, pattern in parts.items():
        lines += [f"  - split: {part}", f"    path: {pattern}"]
    return "\n".join([*lines, "---", "", text, ""]).encode()
