"""`tgtrain recipes`: which there are, and what one says."""

from __future__ import annotations

import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import click

from cli.common import handled, print_json

if TYPE_CHECKING:
    from tgtrain.recipe_list import RecipeRow


@click.command()
@click.argument("name", required=False)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="change a setting, as in `tgtrain run`")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object on stdout")
@handled
def recipes(name: str | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """List the recipes with what each changes, or print all settings of one (NAME, or the path of a .toml file).

    With NAME also: which of the authors' configurations it stands for, and the published figure with its source, where
    there is one.
    """
    from tgtrain.config import load_recipe, recipe_names
    from tgtrain.recipe_list import recipe_row, recipe_rows

    if name is None:
        if as_json:
            print_json({each: load_recipe(each).to_dict() for each in recipe_names()})
            return
        # A pipe gets one line a recipe, so that grep finds it whole.
        click.echo("\n".join(_table(recipe_rows(), shutil.get_terminal_size().columns if sys.stdout.isatty() else 0)))
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
            click.echo(
                textwrap.fill(text, width, initial_indent=start, subsequent_indent="#   ", break_on_hyphens=False)
            )
    for section, values in plain.items():
        click.echo(f"\n[{section}]")
        for key, value in values.items():
            note = "  # from the data set, unless set" if (section, key) == ("model", "num_classes") else ""
            click.echo(f"{key} = {_toml(value)}{note}")


def _table(rows: tuple[RecipeRow, ...], width: int) -> list[str]:
    """name, data set, percent, and `parent: changes`; the last column is wrapped to the width (0: never)."""
    from tgtrain.recipe_list import told

    first = max(len(row.name) for row in rows)
    second = max(len(row.dataset or "any") for row in rows)
    before = first + second + 10
    lines = [f"{'recipe':<{first}}  {'data':<{second}}    %  extends: changes"]
    for row in rows:
        percent = f"{row.percent:g}" if row.percent else "any"
        lead = f"{row.name:<{first}}  {row.dataset or 'any':<{second}}  {percent:>3}"
        what = " ".join(told(row)) or ("another name" if row.parent and _renamed(row) else "")
        text = f"{row.parent}: {what}".removesuffix(": ") if row.parent else "the defaults"
        parts = textwrap.wrap(text, max(24, width - before), break_on_hyphens=False) if width else [text]
        lines.append(f"{lead}  {parts[0]}")
        lines += [" " * (before - 1) + part for part in parts[1:]]
    return lines


def _renamed(row: RecipeRow) -> bool:
    from tgtrain.config import load_recipe

    parent = load_recipe(row.parent).data
    return (parent.dataset, parent.percent) == (row.dataset, row.percent)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return repr(value)
