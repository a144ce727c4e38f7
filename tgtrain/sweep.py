"""A sweep: the grid of recipe x split x setting x seed as numbered cells, and how far the run of each has come.

Each cell is one run folder below the folder of the sweep, named RECIPE_SPLIT_sSEED[_KEY-VALUE...], so that the folder's names
say what is in it, and the same command finds them again.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from manifests.console import plural
from manifests.records import InputError
from manifests.spelling import british
from tgtrain.config import Config, load_recipe
from tgtrain.evaluate.results import EvalProtocol, TestResult, read_results
from tgtrain.run.checkpoint import every_checkpoint, list_checkpoints, step_of
from tgtrain.run.folder import CONFIG_NAME, read_facts

State = Literal["new", "begun", "trained", "tested"]
_MOST_SEEDS, _MOST_CELLS = 1000, 10_000
_MOST_CHARACTERS = 180  # of the name of a cell, which becomes that of a folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """What the cells of a sweep are made of."""

    pairs: tuple[tuple[str, str], ...]
    """Recipe and split of each."""
    seeds: tuple[int, ...] = ()
    """Values of runtime.seed; (): the recipe's."""
    vary: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """`section.key` and its values, as after --set."""
    overrides: tuple[str, ...] = ()
    """--set KEY=VALUE of all cells."""
    views: EvalProtocol | None = None
    """How each is tested; None: as its recipe says."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a sweep."""

    number: int
    """From 0, in the order of the grid; a further seed adds cells at the end."""
    name: str
    recipe: str
    split: str
    overrides: tuple[str, ...]
    """All of --set, the seed included."""
    config: Config
    views: EvalProtocol

    @property
    def networks(self) -> tuple[str, ...]:
        """What `tgtrain test` answers with."""
        streams = self.config.model.streams
        return ("rgb", "tg", "both") if streams == "two" else ("tg",) if streams == "tg" else ("rgb",)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the run of a cell has come."""

    state: State
    results: tuple[TestResult, ...] = ()
    """The tests of its last state by the protocol of the sweep, if it is tested."""

    @property
    def num_bad(self) -> int:
        """Test videos that could not be read."""
        return max((result.num_bad for result in self.results), default=0)


def parse_seeds(text: str) -> tuple[int, ...]:
    """The seeds of `1,2,3`; InputError if it is no list of different whole numbers."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and len(word) < 19 for word in words):
        raise InputError(f"--seeds {text:.100}: expected whole numbers with commas between them, such as 1,2,3.")
    seeds = tuple(map(int, words))
    if len(set(seeds)) < len(seeds) or len(seeds) > _MOST_SEEDS:
        raise InputError(f"--seeds {text:.100}: expected different numbers, at most {_MOST_SEEDS}.")
    return seeds


def parse_vary(text: str) -> tuple[str, tuple[str, ...]]:
    """The key and the values of `KEY=V1,V2`; commas within brackets or quotes belong to a value. InputError otherwise."""
    key, equals, rest = text.partition("=")
    key = british(key.strip())
    values = tuple(value.strip() for value in _split(rest))
    if not equals or "." not in key or not all(values):
        raise InputError(f"--vary {text:.100}: expected section.key=VALUE,VALUE, for example method.threshold=0.6,0.8.")
    if key == "runtime.seed":
        raise InputError("--vary runtime.seed: give the seeds as --seeds 1,2,3.")
    return key, values


def _split(text: str) -> Iterator[str]:
    """The parts between the commas that are in no brackets and no quotes."""
    depth, quote, part = 0, "", ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        else:
            depth += (character in "[{") - (character in "]}")
        if character == "," and depth <= 0 and not quote:
            yield part
            part = ""
        else:
            part += character
    yield part


def make_cells(grid: Grid, num_classes: int) -> tuple[Cell, ...]:
    """All cells, in the order: seed, recipe and split, settings. The first seed of everything comes first.

    InputError with all mistakes: unknown recipes, keys and values, settings that are given twice, cells that are the same.
    """
    keys = [key for key, _ in grid.vary]
    fixed = {text.partition("=")[0].strip() for text in grid.overrides}
    problems = [f"--vary {key}: it is given twice" for key in sorted({key for key in keys if keys.count(key) > 1})]
    problems += [f"--vary {key}: --set gives it, too" for key in keys if key in fixed]
    if grid.seeds and "runtime.seed" in fixed:
        problems.append("--set runtime.seed: --seeds gives it, too")
    combinations = list(itertools.product(*([(key, value) for value in values] for key, values in grid.vary)))
    seeds: Sequence[int | None] = grid.seeds or (None,)
    if (number := len(grid.pairs) * len(combinations) * len(seeds)) > _MOST_CELLS:
        problems.append(f"the grid has {plural(number, 'cell')}, expected at most {_MOST_CELLS}")
    if problems:
        raise InputError(f"This sweep cannot start: {'; '.join(problems)}.")
    configs: dict[tuple[str, tuple[str, ...]], Config] = {}
    for (recipe, _), combination in itertools.product(grid.pairs, combinations):
        overrides = (*grid.overrides, *(f"{key}={value}" for key, value in combination))
        try:
            configs[recipe, overrides] = load_recipe(recipe, overrides, num_classes)
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError("\n".join(dict.fromkeys(problems)))
    cells = []
    for number, (seed, (recipe, split), combination) in enumerate(itertools.product(seeds, grid.pairs, combinations)):
        overrides = (*grid.overrides, *(f"{key}={value}" for key, value in combination))
        config = configs[recipe, overrides]
        if seed is not None:
            overrides = (*overrides, f"runtime.seed={seed}")
            config = replace(config, runtime=replace(config.runtime, seed=seed))
        views = grid.views or EvalProtocol(config.data.test_clips, config.data.test_crops)
        name = _name(config.name, split, config.runtime.seed, combination)
        cells.append(Cell(number, name, recipe, split, overrides, config, views))
    _require_different(cells)
    return tuple(cells)


def _name(recipe: str, split: str, seed: int, combination: Sequence[tuple[str, str]]) -> str:
    words = [recipe, split, f"s{seed}", *(f"{key}-{value}" for key, value in combination)]
    name = "_".join(re.sub(r"[^A-Za-z0-9.,+_-]", "", word) for word in words).lstrip(".-")
    if len(name) > _MOST_CHARACTERS:
        name = f"{name[:_MOST_CHARACTERS]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return name


def _require_different(cells: Sequence[Cell]) -> None:
    """InputError if two cells would be the same run, or have the same folder."""
    by_name: dict[str, Cell] = {}
    by_content: dict[tuple[str, str], Cell] = {}
    for cell in cells:
        for other in (
            by_name.setdefault(cell.name.casefold(), cell),
            by_content.setdefault((str(cell.config), cell.split), cell),
        ):
            if other is not cell:
                raise InputError(
                    f"Two cells of the grid are the same, or would have the same folder: {other.name} and {cell.name} "
                    f"({' '.join(other.overrides)} and {' '.join(cell.overrides)}). Name each recipe, split and value once."
                )


def progress_of(cell: Cell, folder: Path) -> Progress:
    """How far the run in a folder has come. InputError if its config.json is damaged."""
    if not (folder / CONFIG_NAME).is_file():
        return Progress("new")
    num_steps = read_facts(folder).num_steps
    every, complete = every_checkpoint(folder), list_checkpoints(folder)
    if not complete or every[-1:] != complete[-1:] or step_of(complete[-1]) < num_steps:
        return Progress("begun" if every else "new")
    found: Mapping[str, TestResult] = {
        result.modality: result
        for result in read_results(folder, [])
        if (result.protocol, result.part, result.step) == (cell.views.protocol, "test", num_steps)
        and result.rule in ("last", "")
        and result.average in (cell.config.evaluate.average, "")
        and not result.batch_norm
        and result.is_teacher == cell.config.method.tests_teacher
    }
    if all(network in found for network in cell.networks):
        return Progress("tested", tuple(found[network] for network in cell.networks))
    return Progress("trained")
