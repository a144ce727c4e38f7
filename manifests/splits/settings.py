"""Settings of a label split, their defaults, and the name that follows from them. Imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from manifests.records import InputError

STRATEGIES = ("random", "stratified", "per-class")
UNLABELLED = ("all", "rest")
POOLS = ("official", "non-test")
PARTS = ("labelled", "unlabelled", "validation", "test")
LABELS = ("ours", "theirs")
EXPORT_FORMS = ("mmaction-rawframes", "mmaction-videos", "csv", "keys")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSettings:
    """How the labelled part is drawn from the train list."""

    percent: float | None = None  # label this share of the train list: 0 < percent <= 100
    per_class: int | None = None  # or this many videos of every class
    strategy: str = "random"
    """`random` draws floor(percent * n) of all videos, as the published UCF101 and HMDB51 lists; `stratified` gives every class
    its share and at least one; `per-class` takes per_class of each, as the Kinetics lists."""
    by_group: bool = False  # label all clips of one source or none of them
    nested: bool = True
    """With one seed, smaller percentages are parts of larger ones; if not, draws are independent, as published."""
    fold: int = 1  # official fold, from 1
    seed: int = 0  # any integer >= 0
    unlabelled: str = "all"  # all train videos, the labelled ones too (as the paper trains), or the `rest`
    pool: str = "official"  # train list, or every video outside the test part (`non-test`: HMDB51 as published)
    hold_out_percent: float = 0.0  # set aside for validation, by group, before labels are drawn
    test_percent: float = 0.0  # set aside for test, likewise
    name: str = ""  # "": see `split_name`

    def __post_init__(self) -> None:
        percent, per_class, by_class = self.percent or 0.0, self.per_class or 0, self.strategy == "per-class"
        fits = by_class == (self.per_class is not None) or self.strategy not in STRATEGIES
        valid_percent = self.percent is None or 0 < percent <= 100
        _check(
            "Split settings",
            ((self.percent is None) != (self.per_class is None), "give either --percent P or --per-class N"),
            (valid_percent, f"--percent {percent:g}: expected more than 0 and at most 100"),
            (self.per_class is None or per_class >= 1, f"--per-class {per_class}: expected 1 or more"),
            (fits, "--per-class N goes with --strategy per-class, --percent P with random or stratified"),
            _one_of("--strategy", self.strategy, STRATEGIES),
            (
                not (self.by_group and by_class),
                "--by-group labels whole groups, so it cannot give every class exactly N videos: use --percent",
            ),
            (self.seed >= 0, f"--seed {self.seed}: expected 0 or more"),
            (0 <= self.hold_out_percent < 100, f"--hold-out {self.hold_out_percent:g}: expected 0 to less than 100"),
            (0 <= self.test_percent < 100, f"--test-percent {self.test_percent:g}: expected 0 to less than 100"),
            *_common_rules(self),
        )

    @property
    def split_name(self) -> str:
        """The given name, or one that lists the settings: `p20-s0-f1`, plus a word for each that is not the default."""
        if self.name:
            return self.name
        parts = [f"k{self.per_class}" if self.per_class is not None else f"p{self.percent:g}"]
        parts += [self.strategy] * (self.strategy == "stratified") + ["group"] * self.by_group
        parts += ["redrawn"] * (not self.nested) + [f"s{self.seed}", f"f{self.fold}"]
        parts += ["rest"] * (self.unlabelled == "rest") + ["nontest"] * (self.pool == "non-test")
        parts += [f"v{self.hold_out_percent:g}"] * (self.hold_out_percent > 0)
        parts += [f"t{self.test_percent:g}"] * (self.test_percent > 0)
        return "-".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportSettings:
    """How lists are made into a split."""

    labels: str = "ours"  # from the class folder, or `theirs`: as in the labelled list, its mistakes included
    unlabelled: str = "all"  # all train videos or the `rest`; a list for that part overrides it
    pool: str | None = None
    """Train list: the `official` one, or all videos outside test (`non-test`). None: `non-test` if the labelled list names
    videos that the official lists leave unused, else `official`."""
    fold: int = 1  # official fold, from 1
    name: str = ""  # "": the name of the published list, or of the file

    def __post_init__(self) -> None:
        _check("Import settings", _one_of("--labels", self.labels, LABELS), *_common_rules(self))


_Rule = tuple[bool, str]  # whether it holds, and the problem if it does not


def _check(what: str, *rules: _Rule) -> None:
    if problems := [problem for holds, problem in rules if not holds]:
        raise InputError(f"{what}: {'; '.join(problems)}.")


def _one_of(option: str, value: str, choices: tuple[str, ...]) -> _Rule:
    return value in choices, f"{option} {value}: expected one of {', '.join(choices)}"


def _common_rules(settings: SplitSettings | ImportSettings) -> Iterator[_Rule]:
    yield _one_of("--unlabelled", settings.unlabelled, UNLABELLED)
    yield _one_of("--pool", settings.pool or POOLS[0], POOLS)
    yield settings.fold >= 1, f"--fold {settings.fold}: folds count from 1"
    yield not settings.name or is_split_name(settings.name), f"--name {settings.name!r}: {NAME_RULE}"


NAME_RULE = "expected letters, digits, `.`, `_` and `-`, at most 100, the first a letter or digit"


def is_split_name(name: str) -> bool:
    """Whether a split may have this name, which becomes a file name and a part of run folders."""
    return _NAME.fullmatch(name) is not None


KINETICS_PER_PERCENT = 6  # videos of every class in the published lists: 6 for 1 %, 60 for 10 %


def kinetics_per_class(dataset: str, percent: float) -> int:
    """Convert a percentage of Kinetics to videos per class, as in the published lists. InputError for other data sets."""
    if not dataset.startswith("kinetics"):
        raise InputError(
            f"--strategy per-class with --percent {percent:g}: only the Kinetics lists say how many videos that is (6 of every class "
            f"for each percent), and this is {dataset}. Give --per-class N, or --strategy stratified."
        )
    if not 0 < percent <= 100:
        raise InputError(f"--percent {percent:g}: expected more than 0 and at most 100.")
    count = Fraction(str(percent)) * KINETICS_PER_PERCENT
    if count.denominator != 1 or count < 1:
        raise InputError(
            f"--strategy per-class with --percent {percent:g}: {float(count):g} videos of every class, expected a whole number, at least 1."
        )
    return int(count)


def share(percent: float, count: int) -> int:
    """Compute floor(percent / 100 * count) exactly: 0.1 means one in a thousand, not its nearest binary fraction."""
    return int(Fraction(str(percent)) * count / 100)
