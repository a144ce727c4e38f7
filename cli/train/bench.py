"""`tgtrain bench`: measure loader and training step, and how many loader processes the device needs."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import click

from cli import completion
from cli.common import PlaceType, cache_options, echo, force_option, handled, human_bytes, print_json, say
from cli.train.run import setup_of
from cli.train.settings import SettingsCommand
from manifests.machine import usable_cores

if TYPE_CHECKING:
    from manifests.splits.label_split import LabelSplit
    from manifests.table import Manifest
    from tgtrain.data.setup import Setup
    from tgtrain.ranks.distributed import Ranks
    from tgtrain.train.bench import Balance


_MAIN_RECIPE = "ucf101-20"


@click.command(cls=SettingsCommand)
@click.argument("out", default="dataset", type=PlaceType(text=True))
@click.option(
    "--recipe",
    shell_complete=completion.recipes,
    help="name or path of a recipe  [default: the published one of this data set]",
)
@click.option(
    "--split", "split_name", shell_complete=completion.splits, help="name of the split  [default: the newest]"
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    shell_complete=completion.settings,
    help="change a setting, as in `tgtrain run`",
)
@click.option(
    "--workers",
    type=click.IntRange(min=0, max=512),
    help="measure only this number of loader processes  [default: 0, 1, 2, 4 ... up to the cores]",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.1, max=3600),
    default=5.0,
    show_default=True,
    help="time for each figure; one batch is measured however long it takes",
)
@force_option
@cache_options
@click.option("--json", "as_json", is_flag=True, help="print one JSON object on stdout")
@handled
def bench(
    out: str,
    recipe: str | None,
    split_name: str | None,
    overrides: tuple[str, ...],
    workers: int | None,
    seconds: float,
    force: bool,
    cache_folder: str | None,
    cache_gb: float | None,
    as_json: bool,
) -> None:
    """Measure how many clips a second the loader reads from OUT [default: ./dataset] and the training step takes here.

    Reports which of the two is the bottleneck, and how many loader processes feed this device. Loader and step are those of
    `tgtrain run`; no file is written. A clip of the published recipes is 8 RGB and 8 TG frames at 224 x 224, cut and flipped
    as for training.
    """
    from manifests.records import InputError
    from tgtrain.ranks.placement import is_one_of_several

    if is_one_of_several(os.environ):
        raise InputError("tgtrain bench measures one process with one device: start it without torchrun or srun.")
    if workers is not None:
        overrides += (f"runtime.workers={workers}",)
    setup = setup_of(out, split_name, recipe, _published_recipe, overrides, cache_folder, cache_gb)
    from tgtrain.ranks.distributed import process_group
    from tgtrain.train.bench import measure, workers_to_try

    with process_group(setup.config.runtime.device) as ranks:
        counts = workers_to_try(setup.config) if workers is None else (workers,)
        balance = measure(setup, ranks, counts, seconds, say, force=force)
        if as_json:
            print_json(_facts(setup, ranks, balance))
        else:
            _show(setup, ranks, balance)


def _published_recipe(manifest: Manifest, split: LabelSplit) -> str:
    """The main recipe of this data set and percentage, else of the data set, else of UCF101, so that figures compare."""
    from tgtrain.config import load_recipe, recipe_names

    percent = split.provenance.get("percent", "")
    fitting = [
        (f"{config.data.percent:g}" != percent, len(name), name)
        for name, config in ((name, load_recipe(name)) for name in recipe_names())
        if config.method.method == "ltg" and config.data.dataset == manifest.header.dataset
    ]
    name = min(fitting)[2] if fitting else _MAIN_RECIPE
    say(f"Using recipe {name} (the published settings; --recipe chooses another).")
    return name


def _facts(setup: Setup, ranks: Ranks, balance: Balance) -> dict[str, Any]:
    """The JSON object. All rates are clips a second."""
    from tgtrain.data.build import wanted_views

    data, step = setup.config.data, balance.step
    return {
        "loader_clips_per_second": balance.loader.clips_per_second,
        "step_clips_per_second": step.clips_per_second,
        "workers": balance.workers,
        "bottleneck": balance.bottleneck,
        "waiting_share": balance.waiting_share(balance.loader),
        "workers_needed": balance.workers_needed,
        "recipe": setup.config.name,
        "split": setup.split.name,
        "device": _device(ranks),
        "cores": usable_cores(),
        "clip": {"frames": data.clip_frames, "size": data.size, "views": list(wanted_views(setup.config))},
        "step_clips": step.num_clips,
        "batch_clips": step.batch_clips,
        "loaders": [
            {
                **{name: getattr(figure, name) for name in ("workers", "clips_per_second", "first_batch_seconds")},
                "waiting_share": balance.waiting_share(figure),
            }
            for figure in balance.loaders
        ],
    }


def _show(setup: Setup, ranks: Ranks, balance: Balance) -> None:
    """One screen, as wide as the terminal."""
    from tgtrain.data.build import wanted_views

    config = setup.config
    frames = " + ".join(f"{config.data.clip_frames} {view.upper()}" for view in wanted_views(config))
    unlabelled = f" + {config.batch.unlabelled} unlabelled" if config.method.uses_unlabelled else ""
    echo(f"\n{config.name} on {setup.manifest.root}, split {setup.split.name}")
    echo(f"device: {_device(ranks)}")
    echo(f"clip: {frames} frames at {config.data.size} x {config.data.size}, cut and flipped as for training")
    each = f", {config.method.clips_per_video} clips of each" if config.method.clips_per_video > 1 else ""
    echo(f"batch: {config.batch.labelled} labelled{unlabelled} videos{each}\n")
    _show_table(balance)
    step = balance.step
    part = "" if step.num_clips == step.batch_clips else f", measured with {step.num_clips} of {step.batch_clips}"
    echo(f"\ntraining step on {ranks.device.type}: {_rate(step.clips_per_second)} clips/s{part}\n")
    width = shutil.get_terminal_size().columns
    for line in _verdict(setup, ranks, balance):
        echo(textwrap.fill(line, width, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False))


def _show_table(balance: Balance) -> None:
    names = ("loader processes", "clips/s", "first batch after", "the step waits")
    rows = [
        (
            f"{figure.workers} (in turn)" if not figure.workers else str(figure.workers),
            _rate(figure.clips_per_second),
            f"{figure.first_batch_seconds:.1f} s",
            f"{100 * balance.waiting_share(figure):.0f} %",
        )
        for figure in balance.loaders
    ]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table()
        for name in names:
            table.add_column(name, justify="right")
        for figure, row in zip(balance.loaders, rows, strict=True):
            table.add_row(*row, style="bold" if figure.workers == balance.workers else None)
        Console().print(table)
        return
    for row in (names, *rows):
        echo("  ".join(f"{text:>{len(name)}}" for text, name in zip(row, names, strict=True)))


def _verdict(setup: Setup, ranks: Ranks, balance: Balance) -> list[str]:
    slower, waits = ("the training step", "it") if balance.bottleneck == "step" else ("the loader", "the step")
    lines = [
        f"Bottleneck: {slower}. With {_processes(balance.workers)}, as training uses here, {waits} waits "
        f"{100 * balance.waiting_share(balance.loader):.0f} % of the time.",
        _advice(balance, usable_cores()),
    ]
    if ranks.device.type == "cpu":
        lines.append("Both were measured alone; on a CPU they share the cores, so each is slower in training.")
    if setup.reader.shards.by_ranges:
        lines.append("The data set is larger than the cache: clips came from the store, as ranges of its shards.")
    elif (cache := setup.reader.shards.cache) is not None:
        held = human_bytes(cache.num_held())
        lines.append(f"Shards came through the cache {cache.folder}, which holds {held} now: a second call is faster.")
    return lines


def _advice(balance: Balance, cores: int) -> str:
    """How many loader processes to use, never more than this process has cores."""
    needed, own = balance.workers_needed, balance.workers
    step_waits = balance.bottleneck == "loader"
    if needed == own:
        return "The loader has 20 % headroom."
    about = f"About {_processes(needed)}"
    if needed <= cores:
        does = f"feed{'s' * (needed == 1)} this device" if step_waits else "would have 20 % headroom"
        return f"{about} {does}: --set runtime.workers={needed}"
    lacks = f"{about} would {'feed this device' if step_waits else 'have 20 % headroom'}"
    lacks += f", but this process may use {cores} core{'s' * (cores != 1)}"
    if step_waits:
        lacks += ": it needs more of them, or smaller clips"
    return f"{lacks}. As many as cores: --set runtime.workers={cores}" if own < cores else f"{lacks}."


def _processes(count: int) -> str:
    return "1 loader process" if count == 1 else f"{count or 'no'} loader processes"


def _rate(clips_per_second: float) -> str:
    return f"{clips_per_second:.2f}" if clips_per_second < 10 else f"{clips_per_second:.0f}"


def _device(ranks: Ranks) -> str:
    import torch

    if ranks.device.type == "cuda":
        return torch.cuda.get_device_name(ranks.device)
    return f"CPU with {torch.get_num_threads()} threads"
