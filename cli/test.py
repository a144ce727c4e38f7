"""`tgtrain test`: accuracy of a run."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from cli.common import handled, print_json, quiet_threads, say

if TYPE_CHECKING:
    from tgtrain.evaluate import Average, Modality, Result


@click.command()
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option("--views", help="clips x crops of every video, such as 10x3 or 1x1  [default: the recipe's]")
@click.option(
    "--modality",
    type=click.Choice(["rgb", "tg", "both"]),
    help="which network answers; both: the mean of the two  [default: rgb]",
)
@click.option(
    "--average",
    type=click.Choice(["logits", "probabilities"]),
    help="what is averaged over views and networks  [default: the recipe's]",
)
@click.option(
    "--checkpoint", "which", default="last", show_default=True, metavar="last|best|PATH", help="which state of the run"
)
@click.option(
    "--part",
    type=click.Choice(["test", "validation"]),
    default="test",
    show_default=True,
    help="which videos of the split",
)
@click.option("--data", help="where the data set is now  [default: where the run found it]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object on stdout")
@handled
def test(
    run: Path | None,
    views: str | None,
    modality: str | None,
    average: str | None,
    which: str,
    part: str,
    data: str | None,
    device: str,
    as_json: bool,
) -> None:
    """Measure the accuracy of RUN [default: the newest below ./runs] on the test videos of its split.

    Prints top1@VIEWS, top5@VIEWS, the mean over classes and every class; writes test-VIEWS.json and .parquet
    (scores of every video) into the run.
    """
    quiet_threads()
    from manifests.records import InputError
    from tgtrain import checkpoint as checkpoints
    from tgtrain.batch import default_workers
    from tgtrain.distributed import joined
    from tgtrain.evaluate import Views, evaluate, write_predictions, write_result
    from tgtrain.model import build_model
    from tgtrain.run import newest_run, read_setup

    if run is None:
        run = newest_run()
        say(f"run {run}")
    setup = read_setup(run, data)
    config = setup.config
    chosen = _views(views, config.data.test_clips, config.data.test_crops)
    streams = config.model.streams
    asked = cast("Modality", modality or ("tg" if streams == "tg" else "rgb"))
    if streams in ("rgb", "tg") and asked != streams:
        raise InputError(f"--modality {asked}: {run} trained a network for {streams} alone.")
    average = average or config.evaluate.average
    places = setup.places(part)
    if not places:
        raise InputError(
            f"Split {setup.split.name} has no {part} videos. `tgprep split {'--test-percent' if part == 'test' else '--hold-out'} P` sets some aside."
        )
    path = checkpoints.find(run, which)
    loaded = checkpoints.load(path)
    different = loaded.identity.differences(setup.identity)
    if different:
        raise InputError(f"{path} is no checkpoint of {run}: {'; '.join(different)}.")
    if config.precise_bn.batches and not loaded.extra.get("precise_bn"):
        say("saved between two evaluations: BatchNorm statistics are running averages, not measured anew")
    model = build_model(config.model)
    model.load_state_dict(loaded.model)
    with joined(device) as ranks:
        model.to(ranks.device)
        show = _progress(ranks.is_main)
        result = evaluate(
            model,
            setup.reader,
            places,
            setup.labels(places),
            setup.classes,
            setup.clip,
            Views(*chosen),
            ranks,
            modality=asked,
            average=cast("Average", average),
            workers=default_workers() if config.runtime.workers < 0 else config.runtime.workers,
            tell=show,
        )
        is_main = ranks.is_main
    if not is_main:
        return
    if not result.keys:
        raise InputError(f"None of the {len(places)} {part} videos could be read: {result.bad[0]}.")
    name = (
        f"test-{result.views.protocol}"
        + ("" if asked == "rgb" else f"-{asked}")
        + ("" if part == "test" else f"-{part}")
    )
    facts = {"checkpoint": path.name, "step": loaded.step, "part": part, "average": average}
    write_predictions(run / f"{name}.parquet", result)
    write_result(run / f"{name}.json", result, facts)
    for reason in result.bad:
        say(f"not counted, damaged: {reason}")
    if as_json:
        print_json({"run": str(run), **facts, **result.to_dict()})
    else:
        _show(result, run / f"{name}.json")
    sys.exit(1 if result.bad else 0)


def _views(text: str | None, clips: int, crops: int) -> tuple[int, int]:
    from manifests.records import InputError

    if text is None:
        return clips, crops
    match = re.fullmatch(r"(\d+)x(1|3)", text)
    if not match or int(match[1]) < 1:
        raise InputError(f"--views {text}: expected CLIPSxCROPS with 1 or 3 crops, such as 10x3 or 1x1.")
    return int(match[1]), int(match[2])


def _progress(is_main: bool) -> Any:
    import time

    said = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal said
        if is_main and time.monotonic() - said > 10:
            said = time.monotonic()
            say(f"{done} of {total} videos")

    return tell


def _show(result: Result, path: Path) -> None:
    facts = result.to_dict()
    width = max([len(entry["class_name"]) for entry in facts["per_class"]] + [12])
    for entry in sorted(facts["per_class"], key=lambda entry: entry["accuracy"]):
        bar = "#" * math.floor(20 * entry["accuracy"] + 0.5)
        click.echo(
            f"{entry['class_name']:<{width}} {100 * entry['accuracy']:6.1f} %  {entry['videos']:>5} videos  {bar}"
        )
    click.echo("-" * (width + 9))
    for name, value in result.named().items():
        click.echo(f"{name:<{width}} {100 * value:6.2f} %")
    click.echo(f"{len(result.keys)} videos, {result.modality}; written to {path}")
