"""`tgtrain recipes`: list the recipes, or print one."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from cli import completion
from cli.common import echo, handled, print_json

if TYPE_CHECKING:
    from tgtrain.config import Config

_TEXTS = ("name", "description", "reproduces", "published", "data.dataset", "data.percent")


@click.command()
@click.argument("name", required=False, shell_complete=completion.recipes)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="change a setting, as in `tgtrain run`",
    shell_complete=completion.settings,
)
@click.option("--json", "as_json", is_flag=True, help="print one JSON object on stdout")
@handled
def recipes(name: str | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """List the recipes with what each changes, or print all settings of one (NAME, or the path of a .toml file).

    With NAME also: which of the authors' configurations it stands for, and the published figure with its source, if there
    is one.
    """
    from tgtrain.config import load_recipe, recipe_names

    if name is None:
        if as_json:
            print_json({each: load_recipe(each).to_dict() for each in recipe_names()})
            return
        # A pipe gets one line a recipe, so that grep finds all of it.
        echo("\n".join(_table(recipe_rows(), shutil.get_terminal_size().columns if sys.stdout.isatty() else 0)))
        return
    config = load_recipe(name, overrides)
    plain = config.to_dict()
    if as_json:
        print_json(plain)
        return
    row = recipe_row(name)
    facts = {
        "": f"{plain.pop('name')}: {plain.pop('description')}",
        "extends": f"{row.parent}, changes: {', '.join(row.changes) or 'data set or name alone'}" if row.parent else "",
        "reproduces": plain.pop("reproduces") or "none of the authors' configurations",
        "published": plain.pop("published") or "no figure whose source is known",
    }
    width = shutil.get_terminal_size().columns
    for label, text in facts.items():
        if text:
            start = f"# {label}: " if label else "# "
            echo(textwrap.fill(text, width, initial_indent=start, subsequent_indent="#   ", break_on_hyphens=False))
    for section, values in plain.items():
        echo(f"\n[{section}]")
        for key, value in values.items():
            note = "  # from the data set, unless set" if (section, key) == ("model", "num_classes") else ""
            echo(f"{key} = {json.dumps(value, ensure_ascii=False)}{note}")


@dataclass(frozen=True, slots=True)
class RecipeRow:
    """One recipe of the list."""

    config: Config
    parent: str  # "" for a recipe that extends none
    changes: tuple[str, ...]
    """`section.key=value` for each setting that differs from the parent's (without one: from the defaults), besides data set
    and percentage; () for a recipe that only has another name."""


def recipe_rows() -> tuple[RecipeRow, ...]:
    """All shipped recipes, by name, percentages in order of size."""
    from tgtrain.config import recipe_names

    return tuple(sorted((recipe_row(name) for name in recipe_names()), key=lambda row: _natural(row.config.name)))


def recipe_row(name: str) -> RecipeRow:
    """The row of one recipe, shipped or by path."""
    from tgtrain.config import Config, flat_settings, load_recipe, parent_of

    config, parent = load_recipe(name), parent_of(name)
    before, now = flat_settings(load_recipe(parent) if parent else Config()), flat_settings(config)
    changed = [key for key, value in now.items() if key not in _TEXTS and before[key] != value]
    return RecipeRow(config, parent, tuple(f"{key}={_short(now[key])}" for key in changed))


def main_changes(row: RecipeRow) -> tuple[str, ...]:
    """The changes of a row without those that follow from others.

    A network of RGB alone has no alignment or contrast and gives each term its full weight; without contrast there is no
    projection head; positions of a transformer are those of its clips.
    """
    follow: set[str] = set()
    if "method.contrast=none" in row.changes:
        follow.add("model.projection=none")
    if "model.streams=rgb" in row.changes:
        follow |= {"method.align_stages=none", "method.contrast=none"}
        follow |= {"method.labelled_weight=1", "method.unlabelled_weight=1"}
    model, data = row.config.model, row.config.data
    if (model.position_frames, model.position_size) == (data.clip_frames, data.size):
        follow |= {f"model.position_frames={data.clip_frames}", f"model.position_size={data.size}"}
    return tuple(change for change in row.changes if change not in follow)


def _table(rows: tuple[RecipeRow, ...], width: int) -> list[str]:
    """name, data set, percent, and `parent: changes`; the last column is wrapped to the width (0: never)."""
    from tgtrain.config import load_recipe

    first = max(len(row.config.name) for row in rows)
    second = max(len(row.config.data.dataset or "any") for row in rows)
    indent = first + second + 10
    lines = [f"{'recipe':<{first}}  {'data':<{second}}    %  extends: changes"]
    for row in rows:
        data = row.config.data
        percent = f"{data.percent:g}" if data.percent else "any"
        lead = f"{row.config.name:<{first}}  {data.dataset or 'any':<{second}}  {percent:>3}"
        text = "the defaults"
        if row.parent:
            parent = load_recipe(row.parent).data
            is_renamed = (parent.dataset, parent.percent) == (data.dataset, data.percent)
            what = " ".join(main_changes(row)) or ("another name" if is_renamed else "")
            text = f"{row.parent}: {what}".removesuffix(": ")
        parts = textwrap.wrap(text, max(24, width - indent), break_on_hyphens=False) if width else [text]
        lines.append(f"{lead}  {parts[0]}")
        lines += [" " * (indent - 1) + part for part in parts[1:]]
    return lines


def _short(value: object) -> str:
    if isinstance(value, list):
        return "[" + ",".join(map(str, value)) + "]" if value else "none"
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _natural(name: str) -> list[tuple[int, float, str]]:
    """ucf101-5 before ucf101-10: parts of the name that are numbers are compared as numbers."""
    return [(0, float(part), "") if part.replace(".", "", 1).isdigit() else (1, 0.0, part) for part in name.split("-")]
