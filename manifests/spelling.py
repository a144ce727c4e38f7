"""American spellings of names that users type; the programs write the British ones."""

from __future__ import annotations

import re
from typing import Any

_BRITISH = {"labeled": "labelled", "materializ": "materialis", "optimizer": "optimiser"}
_AMERICAN = re.compile("|".join(_BRITISH))


def british(name: str) -> str:
    """The name of an option, a setting or a part of a split in the one spelling: unlabeled -> unlabelled."""
    return _AMERICAN.sub(lambda found: _BRITISH[found[0]], name)


def british_keys(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a recipe with all keys in the one spelling; ValueError if a key stands there in both."""
    renamed: dict[str, Any] = {}
    for key, value in values.items():
        if (name := british(key)) in renamed:
            raise ValueError(f"{name} stands there in two spellings")
        renamed[name] = british_keys(value) if isinstance(value, dict) else value
    return renamed
