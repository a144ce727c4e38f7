"""The recipes as a table: what each is for, which it extends, and what of that it changes."""

from __future__ import annotations

from dataclasses import dataclass

from tgtrain.config import Config, flat_settings, load_recipe, parent_of, recipe_names

_SPOKEN = ("name", "description", "reproduces", "published", "data.dataset", "data.percent")


@dataclass(frozen=True, slots=True)
class RecipeRow:
    """One recipe. dataset "" and percent 0: made for any. parent: "" for a first one.

    changes: `section.key=value` wherever the resolved settings differ from the parent's (from the defaults without one),
    data set and percentage aside; () for a recipe that only bears another name.
    """

    name: str
    dataset: str
    percent: float
    parent: str
    changes: tuple[str, ...]
    description: str


def recipe_rows() -> tuple[RecipeRow, ...]:
    """All shipped recipes, by name, percentages in order of size."""
    return tuple(sorted((recipe_row(name) for name in recipe_names()), key=lambda row: _natural(row.name)))


def recipe_row(name: str) -> RecipeRow:
    """The row of one recipe, shipped or by path."""
    config, parent = load_recipe(name), parent_of(name)
    before = load_recipe(parent) if parent else Config()
    return RecipeRow(
        name=config.name,
        dataset=config.data.dataset,
        percent=config.data.percent,
        parent=parent,
        changes=changes(before, config),
        description=config.description,
    )


def changes(before: Config, now: Config) -> tuple[str, ...]:
    """`section.key=value` for every setting in which `now` differs."""
    old, new = flat_settings(before), flat_settings(now)
    return tuple(f"{key}={_short(value)}" for key, value in new.items() if key not in _SPOKEN and old[key] != value)


def told(row: RecipeRow) -> tuple[str, ...]:
    """The changes of a row without those that follow from others: a network of RGB alone has no alignment or contrast
    and gives each term its whole weight, and without contrast there is no projection head."""
    follow: set[str] = set()
    if "method.contrast=none" in row.changes:
        follow.add("model.projection=none")
    if "model.streams=rgb" in row.changes:
        follow |= {"method.align_stages=none", "method.contrast=none"}
        follow |= {"method.labelled_weight=1", "method.unlabelled_weight=1"}
    return tuple(change for change in row.changes if change not in follow)


def _short(value: object) -> str:
    if isinstance(value, list):
        return "[" + ",".join(map(str, value)) + "]" if value else "none"
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _natural(name: str) -> list[tuple[int, float, str]]:
    """ucf101-5 before ucf101-10: parts of the name that are numbers are compared as numbers."""
    return [(0, float(part), "") if part.replace(".", "", 1).isdigit() else (1, 0.0, part) for part in name.split("-")]
