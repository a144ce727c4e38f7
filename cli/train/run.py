"""`tgtrain run`: train."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli import completion
from cli.common import (
    PlaceType,
    cache_options,
    force_option,
    handled,
    human_bytes,
    plural,
    print_json,
    quiet_option,
    quiet_threads,
    say,
)
from cli.train.launch import devices_option, end, launched
from cli.train.live import following
from cli.train.settings import SettingsCommand

if TYPE_CHECKING:
    from manifests.splits.label_split import LabelSplit
    from manifests.table import Manifest
    from tgtrain.config import Config
    from tgtrain.data.setup import Setup
    from tgtrain.ranks.distributed import Ranks
    from tgtrain.train.observer import Observer
    from tgtrain.train.trainer import Outcome

_NOT_BEGUN = "Stopped before the first step; the same command starts again."


@click.command(cls=SettingsCommand)
@click.argument("out", default="dataset", type=PlaceType(text=True))
@click.option(
    "--recipe",
    shell_complete=completion.recipes,
    help="name or path of a recipe  [default: selected from data set, split and machine]",
)
@click.option(
    "--out",
    "run_folder",
    type=click.Path(path_type=Path),
    help="folder of the run  [default: ./runs/RECIPE-SPLIT, with -seedN for another seed than 0]",
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
    help="change a setting: --set optimiser.epochs=90",
)
@click.option(
    "--resume",
    default="auto",
    show_default=True,
    metavar="auto|never|PATH",
    help="auto: resume from the newest valid checkpoint; never: fail if one exists; PATH: roll back to it (newer ones "
    "are archived)",
)
@click.option(
    "--init",
    metavar="PATH",
    help="start from the weights of a run, a checkpoint, or a file of torchvision, MMAction2 or safetensors, or a folder of "
    "transformers  [default: model.init]",
)
@devices_option
@click.option(
    "--max-steps",
    type=click.IntRange(min=1),
    help="stop after N steps in total; does not change the learning-rate schedule",
)
@force_option
@cache_options
@quiet_option
@click.option("--json", "as_json", is_flag=True, help="print the outcome as one JSON object on stdout")
@handled
def run(
    out: str,
    recipe: str | None,
    run_folder: Path | None,
    split_name: str | None,
    overrides: tuple[str, ...],
    resume: str,
    init: str | None,
    devices: str | None,
    max_steps: int | None,
    force: bool,
    cache_folder: str | None,
    cache_gb: float | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Train on the data set at OUT [default: ./dataset], a folder or a URL of an object store (s3://bucket/dataset).

    Interrupted or killed: run the same command again. It resumes from the newest checkpoint and reaches the same weights, bit for
    bit on CPU. SIGUSR1 (as Slurm sends before a requeue) saves and exits 0. Several processes: --devices N, torchrun, or the
    tasks of a Slurm step (srun); the run is the same for any number of them.

    \b
    Exit codes: 0 success, 1 the training failed, 2 wrong usage or input, 130, 143 or 129 after SIGINT, SIGTERM or SIGHUP
    (saved).
    """
    from tgtrain.ranks.placement import rank_placement
    from tgtrain.ranks.signals import EXIT_CODES, note_signals

    seen: list[int] = []
    note_signals(seen)  # before anything slow: a signal counts while the run is prepared, too
    launched(devices, seen)
    if init is not None:
        overrides += (f"model.init={json.dumps(init, ensure_ascii=False)}",)
    is_main = rank_placement(os.environ).rank == 0
    try:
        with following(quiet=quiet, is_main=is_main, stops=seen) as observer:
            choose = partial(fitting_recipe, log=observer.news)
            setup = setup_of(out, split_name, recipe, choose, overrides, cache_folder, cache_gb, observer.doing)
            folder = run_folder or Path("runs") / run_name(setup)
            from tgtrain.ranks.distributed import process_group
            from tgtrain.train.trainer import num_steps_of, train

            with process_group(setup.config.runtime.device, lambda: bool(seen)) as ranks:
                if ranks.is_main:
                    _announce(setup, ranks, folder, observer)
                observer.doing("estimating memory and time")
                num_steps = min(num_steps_of(setup)[0], max_steps or sys.maxsize)
                figures = require_memory_of(setup, ranks, num_steps=num_steps, force=force)
                observer.news(f"estimate: {figures}")
                how: dict[str, Any] = {"resume": resume, "max_steps": max_steps, "observer": observer}
                outcome = train(setup, folder, ranks, should_stop=ranks.stop_requested, **how)
    except KeyboardInterrupt:  # while it waited for the other processes
        say(_NOT_BEGUN)
        end(EXIT_CODES[signal.Signals(seen[0])])
    if is_main:
        _print_outcome(outcome, folder, quiet, as_json)
    end(EXIT_CODES[signal.Signals(seen[0])] if outcome.interrupted and seen else 0)


def setup_of(
    out: str,
    split_name: str | None,
    recipe: str | None,
    default_recipe: Callable[[Manifest, LabelSplit], str],
    overrides: tuple[str, ...],
    cache_folder: str | None,
    cache_gb: float | None,
    doing: Callable[[str], None] = lambda what: None,
) -> Setup:
    """Read data set and split, load the recipe, and check all against each other. InputError without torch, too.

    doing: called with what takes long.
    """
    quiet_threads()
    from manifests.manifest_io import read_manifest
    from manifests.records import InputError
    from manifests.splits.label_split import read_split

    # Read before torch is imported: most mistakes show here, at once.
    from tgtrain.config import load_recipe
    from tgtrain.ranks.signals import start_helpers

    manifest = read_manifest(out)
    split = read_split(out, split_name)
    num_classes = len(manifest.header.classes)
    settings = _known_settings(recipe, overrides, num_classes)
    doing("loading PyTorch")
    if settings.runtime.workers:
        start_helpers()  # they import it at the same time
    try:
        from tgtrain.data.setup import prepare
    except ModuleNotFoundError as error:
        raise InputError(f"Training needs {error.name}: pip install 'tgprep[train]'.") from None
    if cache_folder is not None:
        overrides += (f"runtime.cache={json.dumps(cache_folder)}",)
    if cache_gb is not None:
        overrides += (f"runtime.cache_gb={cache_gb}",)
    config = load_recipe(recipe or default_recipe(manifest, split), overrides, num_classes)
    doing("reading the data set")
    return prepare(out, split, manifest, config)


def _known_settings(recipe: str | None, overrides: tuple[str, ...], num_classes: int) -> Config:
    """Those of the recipe, or of one that may be chosen. InputError if a setting cannot hold in any. Needs no torch."""
    from manifests.records import InputError
    from tgtrain.config import load_recipe

    try:
        return load_recipe(recipe or "demo", overrides, num_classes)
    except InputError:
        if recipe is not None:
            raise
        # The published settings, which are chosen on a machine with a GPU, may agree with them.
        return load_recipe("ucf101-20", overrides, num_classes)


def run_name(setup: Setup) -> str:
    """The folder of a run below ./runs: RECIPE-SPLIT, and with another seed than 0 RECIPE-SPLIT-seedN."""
    name, seed = setup.config.name, setup.config.runtime.seed
    return f"{name}-{setup.split.name}{f'-seed{seed}' if seed else ''}"


def _print_outcome(outcome: Outcome, folder: Path, quiet: bool, as_json: bool) -> None:
    if as_json:
        names = ("step", "num_steps", "interrupted", "already_finished")
        facts = {"run": str(folder), **{name: getattr(outcome, name) for name in names}}
        print_json({**facts, **(outcome.last.named() if outcome.last else {})})
    if outcome.interrupted and outcome.step:
        say(f"Saved at step {outcome.step} of {outcome.num_steps}; the same command resumes from there.")
    elif outcome.interrupted:
        say(_NOT_BEGUN)
    elif not quiet:
        if outcome.already_finished:
            say(f"{folder} has already done {outcome.step} of {plural(outcome.num_steps, 'step')}: nothing to do.")
        if outcome.step < outcome.num_steps:
            say(
                f"Stopped at step {outcome.step} of {outcome.num_steps} (--max-steps); the same command without it goes on."
            )
        say(f"Next: tgtrain test {folder}; tgtrain report {folder}")


def _announce(setup: Setup, ranks: Ranks, folder: Path, observer: Observer) -> None:
    """Print what is about to be trained, and the warnings and notes about it."""
    from tgtrain.ranks.placement import unused_tasks_note
    from tgtrain.train.preflight import notes
    from tgtrain.train.trainer import num_steps_of

    config, split = setup.config, setup.split
    num_steps, per_epoch = num_steps_of(setup)
    observer.news(
        f"{config.name} on {setup.manifest.header.dataset}, split {split.name}: {int(split.labelled.sum())} labelled, "
        f"{int(split.unlabelled.sum())} unlabelled, {plural(int(split.test.sum()), 'test video')}"
        + (
            f" ({num_unknown} of the unlabelled without a label)"
            if (num_unknown := int((split.label < 0).sum()))
            else ""
        )
    )
    on = ranks.device.type if ranks.world_size == 1 else f"{ranks.world_size} processes, {ranks.device.type}"
    observer.news(
        f"{plural(num_steps, 'step')} ({plural(config.optimiser.epochs, 'epoch')} of {per_epoch}) on {on}, run folder {folder}"
    )
    if (cache := setup.reader.shards.cache) is not None:
        observer.news(
            f"shards come through the cache {cache.folder}: {human_bytes(cache.num_held())} of at most "
            f"{human_bytes(cache.num_bytes)} held; {plural(config.data.block_shards, 'shard is', 'shards are')} shuffled together"
        )
    if not split.validation.any() and split.test.any():
        observer.news(
            "accuracy is followed on the test part (no validation part: choosing by it would be test selection)"
        )
    for warning in setup.warnings:
        observer.warn(f"warning: split {split.name}: {warning}")
    unused_tasks = unused_tasks_note(os.environ) if ranks.world_size == 1 else ""
    for note in filter(None, (*notes(setup), unused_tasks)):
        observer.warn(f"note: {note}")


def require_memory_of(
    setup: Setup, ranks: Ranks, *, num_steps: int = 0, num_processes: int = 0, sharing: int = 0, force: bool = False
) -> str:
    """What the run takes, as a line; "" on ranks other than the first. InputError if it does not fit into memory.

    num_processes: of the run, if these ranks are not yet all of them. sharing: of all runs on this machine.
    """
    from tgtrain.data.build import training_workers
    from tgtrain.train.estimate import cheaper, of_training, require_memory
    from tgtrain.train.preflight import require_settings

    config, world_size = setup.config, num_processes or ranks.world_size
    require_settings(config, replace(ranks, world_size=world_size))
    unlabelled = f" + {config.batch.unlabelled}" if config.method.uses_unlabelled else ""
    return require_memory(
        f"A step of {config.name} on {config.batch.labelled}{unlabelled} videos",
        ranks,
        training_workers(config),
        lambda: of_training(config, world_size),
        lambda fits: cheaper(config, world_size, fits),
        num_steps=num_steps,
        sharing=sharing,
        force=force,
    )


def fitting_recipe(manifest: Manifest, split: LabelSplit, log: Callable[[str], None] = say) -> str:
    """The published recipe of this data set and percentage if there is a GPU and the split fills a batch, else demo."""
    import torch

    from tgtrain.config import load_recipe, recipe_names

    dataset = manifest.header.dataset
    percent = split.provenance.get("percent", "")
    for name in sorted(recipe_names(), key=len):  # the plain recipe before its ablations
        config = load_recipe(name)
        if config.method.method != "ltg" or config.data.dataset != dataset or f"{config.data.percent:g}" != percent:
            continue
        small = int(split.unlabelled.sum()) < config.batch.unlabelled
        if torch.cuda.is_available() and not small:
            log(f"Using recipe {name} (selected from data set and split; --recipe chooses another).")
            return name
        reason = f"the split has fewer than {config.batch.unlabelled} unlabelled videos" if small else "no GPU here"
        log(f"Using recipe demo ({reason}; --recipe {name} takes the published settings all the same).")
        return "demo"
    log(
        f"Using recipe demo (none exists for {dataset} at {percent or 'this'} %; --recipe chooses another, "
        "`tgtrain recipes` lists them)."
    )
    return "demo"
