"""`tgtrain test`: accuracy of a run."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from cli.common import EXIT_FAILURES, cache_options, handled, print_json, quiet_threads, say
from cli.train.launch import devices_option, launched

if TYPE_CHECKING:
    from tgtrain.evaluate.results import Result
    from tgtrain.evaluate.score import Average, Modality


_SHOWN_CLASSES = 101  # of more, the weakest


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
@click.option(
    "--batch-views",
    type=click.IntRange(min=1),
    help="views that go through the network together; less memory with fewer  [default: 32]",
)
@click.option(
    "--predictions", type=click.Path(path_type=Path), help="also write the scores of every video to this file"
)
@click.option("--features", type=click.Path(path_type=Path), help="write the features of every video to this file")
@click.option(
    "--precise-bn",
    is_flag=True,
    help="measure BatchNorm statistics over training clips first, as the reference's test on several GPUs does",
)
@devices_option
@cache_options
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
    batch_views: int | None,
    predictions: Path | None,
    features: Path | None,
    precise_bn: bool,
    devices: str | None,
    cache_folder: str | None,
    cache_gb: float | None,
    as_json: bool,
) -> None:
    """Measure the accuracy of RUN [default: the newest below ./runs] on the test videos of its split.

    Prints top1@VIEWS, top5@VIEWS (with more than 5 classes), the mean over classes, every class and what is most often
    confused; writes test-VIEWS.json and .parquet (scores of every video) into the run. With --devices,
    or under torchrun or srun, the processes share the videos.
    """
    launched(devices)
    quiet_threads()
    from manifests.records import InputError
    from tgtrain.data.build import training_workers
    from tgtrain.data.stores.cache import CacheSettings
    from tgtrain.evaluate.batch_norm import recompute_batch_norm
    from tgtrain.evaluate.evaluate import evaluate
    from tgtrain.evaluate.results import EvalProtocol, write_features, write_predictions, write_result
    from tgtrain.evaluate.score import BATCH_VIEWS
    from tgtrain.ranks.distributed import LostError, joined
    from tgtrain.run.folder import newest_run, read_setup
    from tgtrain.run.trained import read_trained
    from tgtrain.train.damage import left_out

    if run is None:
        run = newest_run()
        say(f"run {run}")
    for path in (predictions, features):
        if path is not None and (not path.absolute().parent.is_dir() or path.is_dir()):
            raise InputError(f"{path}: expected a file name in a folder that exists.")
    setup = read_setup(run, data, CacheSettings(cache_folder or "", round((cache_gb or 0) * 1e9)))
    config = setup.config
    chosen = chosen_views(views, config.data.test_clips, config.data.test_crops)
    streams = config.model.streams
    asked = cast("Modality", modality or ("tg" if streams == "tg" else "rgb"))
    if streams in ("rgb", "tg") and asked != streams:
        raise InputError(f"--modality {asked}: {run} trained a network for {streams} alone.")
    average = average or config.evaluate.average
    places = setup.videos(part)
    if not places:
        raise InputError(
            f"Split {setup.split.name} has no {part} videos. `tgprep split {'--test-percent' if part == 'test' else '--hold-out'} P` sets some aside."
        )
    trained = read_trained(run, which)
    if precise_bn and not config.precise_bn.batches:
        raise InputError(
            f"--precise-bn: {run} was trained with precise_bn.batches 0, and so says not how many to take."
        )
    try:
        with joined(device) as ranks:
            is_main = ranks.is_main
            trained.model.to(ranks.device)
            if precise_bn:
                batch_norm = recompute_batch_norm(trained.model, setup, ranks, workers=training_workers(config))
                if batch_norm.bad and is_main:
                    say(left_out("precise BatchNorm", batch_norm.bad))
                if not batch_norm.num_batches:
                    raise InputError(
                        "--precise-bn: no two training videos of a batch can be read, so there is nothing to measure."
                    )
            elif is_main and not trained.precise_bn:
                say("this checkpoint holds running averages of BatchNorm statistics (--precise-bn measures them first)")
            result = evaluate(
                trained.model,
                setup.reader,
                places,
                setup.labels(places),
                setup.classes,
                setup.clip,
                EvalProtocol(*chosen),
                ranks,
                modality=asked,
                average=cast("Average", average),
                workers=training_workers(config),
                batch_views=batch_views or BATCH_VIEWS,
                features=features is not None,
                on_progress=_progress(is_main),
            )
    except LostError as error:
        say(f"Error: {error}")
        sys.exit(EXIT_FAILURES)
    if not is_main:
        return  # with 0: torchrun and srun end the first process, which still writes, once another one ends with anything else
    if not result.keys:
        raise InputError(f"None of the {len(places)} {part} videos could be read: {result.bad[0]}.")
    name = (
        f"test-{result.views.protocol}"
        + ("" if asked == "rgb" else f"-{asked}")
        + ("" if part == "test" else f"-{part}")
        + ("-precise-bn" if precise_bn else "")
    )
    facts = {"checkpoint": trained.path.name, "step": trained.step, "part": part, "average": average}
    if precise_bn:
        facts["batch_norm"] = "measured for this test"
    for path in (run / f"{name}.parquet", predictions):
        if path is not None:
            write_predictions(path, result, {"run": str(run), **facts})
    if features is not None:
        write_features(features, result, {"run": str(run), **facts})
    write_result(run / f"{name}.json", result, facts)
    for reason in result.bad:
        say(f"not counted, damaged: {reason}")
    if as_json:
        print_json({"run": str(run), **facts, **result.to_dict()})
    else:
        _show(result, run / f"{name}.json")
    sys.exit(1 if result.bad else 0)


def chosen_views(text: str | None, clips: int, crops: int) -> tuple[int, int]:
    """(clips, crops) of a `--views` option, or the recipe's. InputError where it is none."""
    from manifests.records import InputError

    if text is None:
        return clips, crops
    match = re.fullmatch(r"(\d+)x(1|3)", text)
    if not match or int(match[1]) < 1:
        raise InputError(f"--views {text}: expected CLIPSxCROPS with 1 or 3 crops, such as 10x3 or 1x1.")
    return int(match[1]), int(match[2])


def _progress(is_main: bool) -> Any:
    import time

    began = said = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal said
        if is_main and time.monotonic() - said > 10:
            said = time.monotonic()
            rate = done / (said - began)
            say(f"{done} of {total} videos  {rate:.1f} a second  {(total - done) / rate:.0f} s left")

    return tell


def _show(result: Result, path: Path) -> None:
    facts = result.to_dict()
    classes = sorted(facts["per_class"], key=lambda entry: entry["accuracy"])
    width = max([len(entry["class_name"]) for entry in classes] + [12])
    for entry in classes[:_SHOWN_CLASSES]:
        bar = "#" * math.floor(20 * entry["accuracy"] + 0.5)
        click.echo(
            f"{entry['class_name']:<{width}} {100 * entry['accuracy']:6.1f} %  {entry['videos']:>5} videos  {bar}"
        )
    if len(classes) > _SHOWN_CLASSES:
        click.echo(f"... and {len(classes) - _SHOWN_CLASSES} better ones, in {path.name}")
    confusions = result.top_confusions(3)
    if confusions:
        click.echo("-" * (width + 9))
        for truth, predicted, count, total in confusions:
            click.echo(f"{truth} taken for {predicted}: {count} of {total}")
    click.echo("-" * (width + 9))
    for name, value in result.named().items():
        if not name.startswith("top5") or len(result.classes) > 5:
            click.echo(f"{name:<{width}} {100 * value:6.2f} %")
    click.echo(f"{len(result.keys)} videos, {result.modality}; written to {path}")
