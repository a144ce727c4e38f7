"""Options that are no options but settings of the recipe: the answer is the `--set` line to type."""

from __future__ import annotations

import shlex
from typing import Any

import click

from manifests.spelling import british

_ALIASES = {
    "lr": ("optimiser.learning_rate",),
    "batch": ("batch.labelled", "batch.unlabelled"),
    "batch_size": ("batch.labelled", "batch.unlabelled"),
    "num_workers": ("runtime.workers",),
    "amp": ("runtime.precision",),
}


class SettingsCommand(click.Command):
    """A command with `--set`, which refuses `--epochs 30` with the line that has `--set optimiser.epochs=30` in its place."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            known = {name for parameter in self.params for name in (*parameter.opts, *parameter.secondary_opts)}
            changed, names = with_set(words, known)
            if not names or any(name.startswith(error.option_name) for name in known):
                raise
            are = (
                "is a setting of the recipe, and no option"
                if len(names) == 1
                else "are settings of the recipe, and no options"
            )
            line = f"{ctx.command_path} {shlex.join(changed)}"
            raise click.UsageError(f"{', '.join(names)} {are}. Type:\n  {line}", ctx) from None


def with_set(words: list[str], known: set[str]) -> tuple[list[str], list[str]]:
    """The words with `--set KEY=VALUE` for each option that is a setting, and these options; none if another is unknown, too."""
    changed: list[str] = []
    names: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if not word.startswith("--") or name in known or word == "--":
            changed.append(word)
            continue
        keys = keys_of(name)
        if not keys:
            return words, []
        if not equals:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else "true"
        names.append(name)
        for key in keys:
            changed += ["--set", f"{key}={value}"]
    return changed, names


def keys_of(option: str) -> tuple[str, ...]:
    """The settings that an option such as --lr, --learning-rate or --optimiser.learning_rate means; none if it means no one."""
    from tgtrain.config import setting_names

    name = british(option.removeprefix("--")).replace("-", "_")
    named: Any = _ALIASES.get(name) or tuple(key for key in setting_names() if name in (key, key.partition(".")[2]))
    return tuple(named) if name in _ALIASES or len(named) == 1 else ()
