"""`tgtrain sweep`: train and test a grid of runs."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli import completion
from cli.common import (
    EXIT_FAILURES,
    PlaceType,
    cache_options,
    echo,
    force_option,
    handled,
    plural,
    print_json,
    quiet_threads,
    say,
)
from cli.train.launch import count_gpus, devices_option, number_of
from cli.train.scoring import check_views
from cli.train.settings import SettingsCommand

if TYPE_CHECKING:
    from cli.train.sweep_children import Commands
    from manifests.splits.label_split import LabelSplit
    from manifests.table import Manifest
    from tgtrain.sweep import Cell, Grid

_STATES = {"new": "not begun", "begun": "begun", "trained": "trained", "tested": "tested"}


@click.command(cls=SettingsCommand)
@click.argument("out", default="dataset", type=PlaceType(text=True))
@click.option(
    "--recipe",
    "recipes",
    multiple=True,
    shell_complete=completion.recipes,
    help="name or path of a recipe; repeatable  [default: selected as by `tgtrain run`]",
)
@click.option(
    "--split",
    "splits",
    multiple=True,
    shell_complete=completion.splits,
    metavar="NAME",
    help="name of a split; repeatable (a fold is a split)  [default: the newest]",
)
@click.option("--seeds", metavar="N,N,...", help="values of runtime.seed  [default: the recipe's]")
@click.option(
    "--vary",
    multiple=True,
    shell_complete=completion.settings,
    metavar="KEY=V,V,...",
    help="a setting with several values; repeatable, for all combinations",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    shell_complete=completion.settings,
    help="change a setting of all runs",
)
@click.option(
    "--test",
    "views",
    metavar="CLIPSxCROPS",
    callback=check_views,
    help="how each run is tested, such as 10x3  [default: the recipe's]",
)
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("runs/sweep"),
    show_default=True,
    help="folder of the sweep: one run folder a cell, RECIPE_SPLIT_sSEED[_KEY-VALUE]",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="cells at a time on this machine; they share its GPUs and cores",
)
@devices_option
@click.option("--list", "only_list", is_flag=True, help="check everything, print the numbered cells, and end")
@click.option("--task", type=click.IntRange(0), metavar="I", help="only cell I of --list, as in a Slurm array")
@force_option
@cache_options
@click.option("--json", "as_json", is_flag=True, help="print the cells as one JSON object on stdout")
@handled
def sweep(
    out: str,
    recipes: tuple[str, ...],
    splits: tuple[str, ...],
    seeds: str | None,
    vary: tuple[str, ...],
    overrides: tuple[str, ...],
    views: str | None,
    folder: Path,
    jobs: int,
    devices: str | None,
    only_list: bool,
    task: int | None,
    force: bool,
    cache_folder: str | None,
    cache_gb: float | None,
    as_json: bool,
) -> None:
    """Train and test a grid of runs on the data set at OUT [default: ./dataset]: recipe x split x setting x seed.

    Each cell is `tgtrain run`, then `tgtrain test`. The same command again resumes after a signal or a kill, and skips what is
    done. A cell that fails does not stop the others. Mistakes in any cell are found before the first begins.

    \b
    Then: tgtrain report runs/sweep --table markdown
    Exit codes: 0 all cells are tested, 1 some failed, 2 wrong usage or input, 130, 143 or 129 after SIGINT, SIGTERM or SIGHUP
    (saved), 0 after SIGUSR1 (saved).
    """
    from tgtrain.ranks.signals import EXIT_CODES, note_signals

    seen: list[int] = []
    if not only_list:
        note_signals(seen)  # before anything slow
    quiet_threads()
    num_processes = _processes(devices, jobs)
    asked = _Asked(out, recipes, splits, seeds, vary, overrides, views, cache_folder, cache_gb, jobs, force)
    cells = _checked(asked, folder, num_processes, task)
    if only_list:
        _print(cells, folder, {}, as_json)
        return
    from cli.train.sweep_children import work

    words = [*(("--cache", cache_folder) if cache_folder else ())]
    words += [*(("--cache-gb", str(cache_gb)) if cache_gb is not None else ())]
    words += ["--force"] if force else []
    words += ["--devices", str(num_processes)] if num_processes > 1 else []
    failed = work(_commands(out, folder, cells, jobs, num_processes, words), cells, seen)
    _print(cells, folder, failed, as_json)
    for name, reason in failed.items():
        say(f"failed: {name}: {reason}")
    if seen:
        say("Stopped; the same command goes on.")
        sys.exit(EXIT_CODES[signal.Signals(seen[0])])
    if failed:
        say(f"{len(failed)} of {plural(len(cells), 'cell')} failed; the same command tries them again.")
        sys.exit(EXIT_FAILURES)
    say(f"Next: tgtrain report {folder} --table markdown")


@dataclass(frozen=True, slots=True)
class _Asked:
    """The grid as given on the command line."""

    out: str
    recipes: tuple[str, ...]
    splits: tuple[str, ...]
    seeds: str | None
    vary: tuple[str, ...]
    overrides: tuple[str, ...]
    views: str | None
    cache_folder: str | None
    cache_gb: float | None
    jobs: int
    force: bool

    def grid(self, manifest: Manifest, splits: Sequence[LabelSplit]) -> Grid:
        """The grid, with what was left open filled in. InputError if an option cannot be read."""
        from cli.train.run import fitting_recipe
        from cli.train.scoring import parse_views
        from tgtrain.sweep import Grid, parse_seeds, parse_vary

        return Grid(
            seeds=() if self.seeds is None else parse_seeds(self.seeds),
            vary=tuple(map(parse_vary, self.vary)),
            views=None if self.views is None else parse_views("--test", self.views),
            overrides=self.overrides,
            pairs=tuple((recipe, split.name) for recipe in self.recipes for split in splits)
            or tuple((fitting_recipe(manifest, split), split.name) for split in splits),
        )


def _processes(devices: str | None, jobs: int) -> int:
    """Processes of each run. InputError for an invalid number, and under torchrun or srun."""
    from manifests.records import InputError
    from tgtrain.ranks.placement import is_one_of_several

    if is_one_of_several(os.environ):
        raise InputError("tgtrain sweep starts the processes of its runs: start it once, without torchrun or srun.")
    return max(1, count_gpus() // jobs) if devices == "auto" else number_of(devices or "1")


def _checked(asked: _Asked, folder: Path, num_processes: int, task: int | None) -> tuple[Cell, ...]:
    """All cells, or the one that is asked for, checked against data set, splits and their folders. InputError with all mistakes."""
    from manifests.manifest_io import read_manifest
    from manifests.records import InputError
    from manifests.splits.label_split import read_split

    manifest = read_manifest(asked.out)
    splits = {split.name: split for split in (read_split(asked.out, name) for name in asked.splits or (None,))}
    try:
        from tgtrain.run.folder import CONFIG_NAME
        from tgtrain.sweep import make_cells
    except ModuleNotFoundError as error:
        raise InputError(f"Training needs {error.name}: pip install 'tgprep[train]'.") from None
    if (folder / CONFIG_NAME).exists():
        raise InputError(f"{folder} is the folder of a run. Name another for the sweep with --out.")
    cells = make_cells(asked.grid(manifest, tuple(splits.values())), len(manifest.header.classes))
    if task is not None:
        if task >= len(cells):
            raise InputError(f"--task {task}: this sweep has {plural(len(cells), 'cell')}, 0 to {len(cells) - 1}.")
        cells = cells[task : task + 1]
    problems: dict[str, None] = {}
    for group in _by_setting(cells):
        try:
            _check(asked, folder, group, manifest, splits[group[0].split], num_processes)
        except InputError as error:
            problems[f"{group[0].name}: {error}" if len(cells) > 1 else str(error)] = None
    if problems:
        raise InputError("\n".join(problems))
    return cells


def _by_setting(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells that differ by seed alone."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        settings = replace(cell.config, runtime=replace(cell.config.runtime, seed=0))
        groups.setdefault((str(settings), cell.split), []).append(cell)
    return list(groups.values())


def _check(
    asked: _Asked, folder: Path, cells: Sequence[Cell], manifest: Manifest, split: LabelSplit, num_processes: int
) -> None:
    """Check cells that differ by seed alone, as `tgtrain run` and `tgtrain test` would. InputError if one cannot begin."""
    import torch

    from cli.train.run import require_memory_of
    from manifests.records import InputError
    from tgtrain.data.setup import prepare
    from tgtrain.ranks.distributed import Ranks
    from tgtrain.run.folder import CONFIG_NAME, check_folder
    from tgtrain.run.weights import identify, read_initial
    from tgtrain.train.preflight import require_settings

    runtime = cells[0].config.runtime
    runtime = replace(runtime, cache=asked.cache_folder or runtime.cache, cache_gb=asked.cache_gb or runtime.cache_gb)
    setup = prepare(asked.out, split, manifest, replace(cells[0].config, runtime=runtime))
    require_settings(setup.config, Ranks(0, num_processes, torch.device("cpu")))
    # Each run looks at its GPU itself.
    if setup.config.runtime.device == "cpu" or not torch.cuda.is_available():
        alone, sharing = Ranks(0, 1, torch.device("cpu")), asked.jobs * num_processes
        require_memory_of(setup, alone, num_processes=num_processes, sharing=sharing, force=asked.force)
    if not split.test.any():
        raise InputError(f"Split {split.name} has no test videos. `tgprep split --test-percent P` sets some aside.")
    for cell in cells:
        runtime = replace(setup.config.runtime, seed=cell.config.runtime.seed)
        own = identify(replace(setup, config=replace(setup.config, runtime=runtime)), folder / cell.name)
        check_folder(folder / cell.name, own)
        if cell is cells[0] and not (folder / cell.name / CONFIG_NAME).exists():
            read_initial(own)  # the others start from the same files


def _commands(
    out: str, folder: Path, cells: Sequence[Cell], jobs: int, num_processes: int, words: Sequence[str]
) -> Commands:
    """How the cells are run: several at a time share cores and GPUs. InputError if the GPUs do not suffice."""
    from cli.train.sweep_children import Commands, environments
    from manifests.machine import usable_cores

    jobs, cores = min(jobs, len(cells)), usable_cores()
    on_gpus = jobs > 1 and any(cell.config.runtime.device in ("auto", "cuda") for cell in cells)
    number = count_gpus() if on_gpus else 0
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    gpus = (named or [str(place) for place in range(number)])[:number]
    # As tgtrain.data.loader.default_workers, for the share of one cell.
    workers = max(1, min(16, cores // (jobs * num_processes) - 1)) if jobs > 1 else None
    shares = environments(jobs, num_processes, gpus, cores, say)
    return Commands(folder, out, tuple(words), shares, workers)


def _print(cells: Sequence[Cell], folder: Path, failed: dict[str, str], as_json: bool) -> None:
    """Print each cell with its state and, if it is tested, its accuracy."""
    from cli.train.sweep_children import figures
    from manifests.records import InputError
    from tgtrain.sweep import Progress, progress_of

    facts = []
    width = len(str(cells[-1].number))
    for cell in cells:
        try:
            progress = progress_of(cell, folder / cell.name)
        except InputError:  # one of those that failed
            progress = Progress("begun")
        state = _STATES[progress.state]
        tests = {result.modality: dict(result.metrics) for result in progress.results}
        facts.append({"number": cell.number, "name": cell.name, "run": str(folder / cell.name), "state": state})
        facts[-1] |= {"tests": tests, "failed": failed.get(cell.name, "")}
        if not as_json:
            shown = "failed" if cell.name in failed else state
            echo(f"{cell.number:>{width}}  {shown:<9}  {cell.name}  {figures(progress)}".rstrip())
    if as_json:
        print_json({"folder": str(folder), "cells": facts})
