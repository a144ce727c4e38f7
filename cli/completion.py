"""What the shell offers after Tab besides commands, options and files: recipes, settings, splits, targets and runs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_MOST_FOLDERS = 2000  # that are looked at for runs


def recipes(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of recipes, then files."""
    from tgtrain.config import recipe_names

    return _items(recipe_names(), incomplete) or _files(incomplete)


def settings(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """`section.key=` of each setting."""
    from tgtrain.config import setting_names

    return _items((f"{name}=" for name in setting_names()), incomplete)


def splits(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of the splits of the data set that the command line names, or of ./dataset."""
    return _items(_tables(ctx, "splits"), incomplete)


def targets(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of the soft targets of that data set."""
    return _items(_tables(ctx, "targets"), incomplete)


def runs(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Folders of runs below ./runs, then files."""
    found, folders = [], [Path("runs")]
    for number, folder in enumerate(folders):
        if number >= _MOST_FOLDERS:
            break
        if (folder / "config.json").is_file():
            found.append(str(folder))
        elif len(folder.parts) < 4:
            folders += sorted(path for path in _entries(folder) if path.is_dir())
    return _items(found, incomplete) or _files(incomplete)


def _tables(ctx: click.Context, kind: str) -> list[str]:
    # Behind an option that still lacks its value, click leaves the arguments unread.
    out = ctx.args[0] if ctx.args else ctx.params.get("out")
    folder = Path(str(out or "dataset")) / kind
    return sorted(path.stem for path in _entries(folder) if path.suffix == ".parquet")


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _items(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _files(incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]
