"""README.md of a folder of shards: the card from which Hugging Face `datasets` knows the parts."""

from __future__ import annotations

from collections.abc import Mapping

from manifests.files import Location, atomic_write, below, exists

CARD_NAME = "README.md"


def write_card(folder: Location, parts: Mapping[str, str], text: str) -> None:
    """Write README.md, unless there is one, which may be the user's.

    parts: the pattern of the shards of each part, by its name. text: what the folder holds, in Markdown.
    """
    place = below(folder, CARD_NAME)
    if exists(place):
        return
    lines = ["---", "configs:", "- config_name: default", "  data_files:"]
    for part, pattern in parts.items():
        lines += [f"  - split: {part}", f"    path: {pattern}"]
    with atomic_write(place) as file:
        file.write("\n".join([*lines, "---", "", text, ""]).encode())
