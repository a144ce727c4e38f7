"""README.md of a folder of shards: the card from which Hugging Face `datasets` knows the parts."""

from __future__ import annotations

import re
from collections.abc import Mapping

from manifests.files import Location, atomic_write, below, exists, read_bytes

CARD_NAME = "README.md"
_PLAIN = """Videos as WebDataset shards, with every frame and its temporal gradient, written by `tgprep extract`.

`datasets.load_dataset("THIS FOLDER")` and any reader of WebDataset read them: all videos are one part. Which of them are labelled,
unlabelled or test is in `splits/`; `tgprep split --materialise` writes these as parts of their own."""
_WITHOUT_LABEL = "\n\n{} of the videos have no label: their `label` is -1, their `class_name` is empty."
# Any text of `plain_text`, in the card of which nobody has written yet.
PLAIN_TEXT = re.compile(re.escape(_PLAIN) + "(" + re.escape(_WITHOUT_LABEL).replace(r"\{\}", "[0-9,]+") + ")?")


def plain_text(num_unlabelled: int) -> str:
    """The text of the card that an extraction writes; num_unlabelled: the videos without a label."""
    return _PLAIN + (_WITHOUT_LABEL.format(f"{num_unlabelled:,}") if num_unlabelled else "")


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
