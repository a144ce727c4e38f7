"""`tgtrain recipes`: which there are, and what one says."""

from __future__ import annotations

from typing import Any

import click

from cli.common import handled, print_json


@click.command()
@click.argument("name", required=False)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="change a setting, as in `tgtrain run`")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object on stdout")
@handled
def recipes(name: str | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """List the recipes, or print all settings of one (NAME, or the path of a .toml file)."""
    from tgtrain.config import load_recipe, recipe_names

    if name is None:
        configs = [load_recipe(each) for each in recipe_names()]
        if as_json:
            print_json({config.name: config.to_dict() for config in configs})
            return
        width = max(len(config.name) for config in configs)
        for config in configs:
            click.echo(f"{config.name:<{width}}  {config.description}")
        return
    config = load_recipe(name, overrides)
    if as_json:
        print_json(config.to_dict())
        return
    plain = config.to_dict()
    click.echo(f"# {plain.pop('name')}: {plain.pop('description')}")
    published = plain.pop("published")
    if published:
        click.echo(f"# published: {published}")
    for section, values in plain.items():
        click.echo(f"\n[{section}]")
        for key, value in values.items():
            note = "  # from the data set, unless set" if (section, key) == ("model", "num_classes") else ""
            click.echo(f"{key} = {_toml(value)}{note}")


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return repr(value)
