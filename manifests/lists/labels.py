"""Labels as lists write them: class names, or whole numbers that other programs may have turned into `2.0`."""

from __future__ import annotations

import re

from manifests.datasets import SUBSET_NAMES, subset_of_folder, words_of
from manifests.lists.text import shown
from manifests.records import InputError

MAX_LABEL = 999_999
UNUSED = "unused"  # subset of videos that are in no part
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_MISSING = frozenset(("", "nan", "<na>", "n/a", "#n/a", "null", "-nan"))


def is_missing(label: str) -> bool:
    """Whether a cell holds no label: empty, or a program's word for that (`nan`)."""
    return label.strip().lower() in _MISSING


def number_of(label: str) -> float | None:
    """The number that a label is (`3`, `03`, `3.0`, `3e0`, `-1`); None if it is a name."""
    return float(label) if _NUMBER.fullmatch(label.strip()) else None


def whole_number(label: str) -> int | None:
    """The class number that a label is; None if it is a name. InputError for numbers that no class can have."""
    number = number_of(label)
    if number is None:
        return None
    if not number.is_integer() or not 0 <= number <= MAX_LABEL:
        raise InputError(
            f"label {shown(label)}; expected a class name, or a whole number from 0 to {MAX_LABEL:,}. "
            "Take videos without a label out of the list"
        )
    return int(number)


def subset_of_word(word: str) -> str:
    """The subset that a cell or a folder names (`Test`, ` validate `, `val_256`); "" for words that name none."""
    text = word.strip()
    return UNUSED if text.lower() == UNUSED else subset_of_folder(text)


def subset_in_name(name: str) -> str:
    """The subset that the name of a list speaks of (`kinetics_val`, `holdout_test`, `holdouts`: unused); "" if it is none or not sure.

    A name with a word for held-out videos beside `train` is not sure: train is never a guess.
    """
    words = [word for word in words_of(re.sub("[^A-Za-z]+", " ", name)) if word]
    found = {SUBSET_NAMES[word] for word in words if word in SUBSET_NAMES}
    held_out = any(word.startswith(("hold", "held", "unused", "exclu")) for word in words)
    if held_out and not found:
        return UNUSED
    return found.pop() if len(found) == 1 and not (held_out and found == {"train"}) else ""
