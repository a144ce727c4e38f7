"""`tgtrain test`: accuracy of a run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli import completion
from cli.common import (
    PartType,
    cache_options,
    echo,
    handled,
    plural,
    print_json,
    progress_lines,
    quiet_threads,
    run_or_newest,
    say,
)
from cli.train.launch import devices_option, end, launched
from cli.train.scoring import Scoring, check_output, data_options, scoring_options

if TYPE_CHECKING:
    from tgtrain.data.setup import Setup
    from tgtrain.evaluate.evaluate import EvalSettings
    from tgtrain.evaluate.results import Result
    from tgtrain.run.trained import Trained

_MEASURED = {"batch_norm": "measured for this test"}
_SHOWN_CLASSES = 101  # of more, the weakest


@click.command()
@click.argument("run", required=False, type=click.Path(path_type=Path), shell_complete=completion.runs)
@scoring_options
@click.option(
    "--part",
    type=PartType(["test", "validation", "unlabelled"]),
    default="test",
    show_default=True,
    help="which videos of the split; with --predictions the unlabelled ones get scores to make soft targets of",
)
@data_options
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1")
@click.option(
    "--predictions", type=click.Path(path_type=Path), help="also write the scores of every video to this file"
)
@click.option("--features", type=click.Path(path_type=Path), help="write the features of every video to this file")
@click.option(
    "--precise-bn",
    is_flag=True,
    help="recompute BatchNorm statistics over training clips first, as the reference's test on several GPUs does",
)
@devices_option
@cache_options
@click.option("--json", "as_json", is_flag=True, help="print one JSON object on stdout")
@handled
def test(
    run: Path | None,
    scoring: Scoring,
    part: str,
    data: str,
    shards: str,
    device: str,
    predictions: Path | None,
    features: Path | None,
    precise_bn: bool,
    devices: str | None,
    cache_folder: str | None,
    cache_gb: float | None,
    as_json: bool,
) -> None:
    """Measure the accuracy of RUN [default: the newest below ./runs] on the test videos of its split.

    Prints top1@VIEWS, top5@VIEWS (with more than 5 classes), the mean over classes, every class and the most frequent
    confusions; writes test-VIEWS.json and .parquet (scores of every video) into the run. With --devices,
    or under torchrun or srun, the processes share the videos.
    """
    launched(devices)
    quiet_threads()
    run = run_or_newest(run)
    for path in (predictions, features):
        check_output(path)
    from manifests.records import InputError
    from tgtrain.data.stores.cache import CacheSettings
    from tgtrain.evaluate.results import write_features, write_predictions
    from tgtrain.run.folder import Typed, read_setup
    from tgtrain.run.trained import read_trained

    setup = read_setup(run, Typed(data, shards, CacheSettings(cache_folder or "", round((cache_gb or 0) * 1e9))))
    # The better network is often not RGB, so one pass over the videos scores both.
    shows_all = scoring.modality is None and setup.config.model.streams == "two"
    scoring = replace(scoring, modality="both") if shows_all else scoring
    settings = replace(scoring.settings(run, setup.config), features=features is not None)
    videos, trained = _videos_of(setup, part), read_trained(run, scoring.checkpoint, scoring.teacher)
    result = _measure(trained, setup, videos, settings, scoring, device, precise_bn)
    if result is None:
        end(0)  # with any other code, torchrun and srun end the first process, which is still writing
    if not result.keys:
        raise InputError(f"None of the {plural(len(videos), f'{part} video')} could be read: {result.bad[0]}.")
    facts: dict[str, Any] = {"checkpoint": trained.path.name, "rule": scoring.rule, "step": trained.step, "part": part}
    facts |= {"average": settings.average, **trained.kind, **(_MEASURED if precise_bn else {})}
    origin = {"run": str(run), **facts, **_learnt_from(setup)}
    results = [result.network("rgb"), result.network("tg"), result] if shows_all else [result]
    for file, write in ((predictions, write_predictions), (features, write_features)):
        if file is not None:
            write(file, results[0], origin)
    _report(run, results, facts, origin, as_json)
    end(1 if result.bad else 0)


def _report(run: Path, results: list[Result], facts: dict[str, Any], origin: dict[str, Any], as_json: bool) -> None:
    """Write the accuracy over the videos whose label is known, and print it."""
    from tgtrain.evaluate.results import write_test

    known = [each.known() for each in results if (each.labels >= 0).any()]
    written = [write_test(run, each, facts) for each in known]
    for reason in results[0].bad:
        say(f"not counted, damaged: {reason}")
    if not known:
        videos = plural(len(results[0].keys), f"{facts['part']} video")
        say(f"No label of the {videos} is known: no accuracy is measured.")
    if as_json:
        named = {each.modality: each.named() for each in known[1:]}
        print_json({**origin, **(known[0].to_dict() if known else {"num_videos": 0}), **named})
    elif known:
        _show(known, written, facts.get("model") == "teacher")


def _learnt_from(setup: Setup) -> dict[str, str]:
    """Whose labels the run has seen, for targets that are made of its scores."""
    identity, targets = setup.identity, setup.config.method.targets
    facts = {"dataset_digest": identity.data_digest, "split": setup.split.name, "split_digest": identity.split_digest}
    return {**facts, **({"targets": targets, "targets_digest": identity.targets_digest} if targets else {})}


def _videos_of(setup: Setup, part: str) -> list[int]:
    """The videos of a part. InputError if it has none."""
    from manifests.records import InputError

    if videos := setup.videos(part):
        return videos
    advice = {
        "test": " `tgprep split --test-percent P` sets some aside.",
        "validation": " `tgprep split --hold-out P` sets some aside.",
    }
    raise InputError(f"Split {setup.split.name} has no {part} videos.{advice.get(part, '')}")


def _measure(
    trained: Trained,
    setup: Setup,
    videos: list[int],
    settings: EvalSettings,
    scoring: Scoring,
    device: str,
    precise_bn: bool,
) -> Result | None:
    """Score the videos with the processes of all ranks; None in all but the first. precise_bn: recompute BatchNorm first."""
    from manifests.records import InputError
    from tgtrain.data.build import measured_views, training_workers
    from tgtrain.evaluate.batch_norm import recompute_batch_norm
    from tgtrain.evaluate.evaluate import evaluate
    from tgtrain.ranks.distributed import process_group
    from tgtrain.train.health import left_out

    if precise_bn and not measured_views(setup.config):
        raise InputError(
            "--precise-bn: the run's settings leave its networks their running averages "
            f"(precise_bn.batches is {setup.config.precise_bn.batches}, precise_bn.tg is {setup.config.precise_bn.tg})."
        )
    workers = training_workers(setup.config)
    with process_group(device) as ranks:
        scoring.require_memory("The test", setup.config, settings, ranks, workers, precise_bn=precise_bn)
        trained.model.to(ranks.device)
        if precise_bn:
            measured = recompute_batch_norm(trained.model, setup, ranks, workers=workers)
            if measured.bad and ranks.is_main:
                say(left_out("precise BatchNorm", measured.bad))
            # The same on every rank, so all of them stop here.
            if not measured.num_batches:
                raise InputError(
                    "--precise-bn: no two training videos of a batch can be read, so there is nothing to measure."
                )
        elif ranks.is_main and not trained.precise_bn:
            say("this checkpoint holds running averages of BatchNorm statistics (--precise-bn recomputes them first)")
        on_progress = progress_lines("videos", seconds=10 if ranks.is_main else math.inf)
        result = evaluate(trained.model, setup, videos, settings, ranks, workers=workers, on_progress=on_progress)
    return result if ranks.is_main else None


def _show(results: list[Result], paths: list[Path], is_teacher: bool) -> None:
    """Print classes and confusions of the first result, and the metrics of all."""
    result, path = results[0], paths[0]
    facts = result.to_dict()
    classes = sorted(facts["per_class"], key=lambda entry: entry["accuracy"])
    width = max([len(entry["class_name"]) for entry in classes] + [15])
    for entry in classes[:_SHOWN_CLASSES]:
        bar = "#" * math.floor(20 * entry["accuracy"] + 0.5)
        accuracy = f"{100 * entry['accuracy']:6.1f} %"
        echo(f"{entry['class_name']:<{width}} {accuracy}  {entry['videos']:>5} videos  {bar}")
    if len(classes) > _SHOWN_CLASSES:
        echo(f"... and {len(classes) - _SHOWN_CLASSES} better ones, in {path.name}")
    confusions = result.top_confusions(3)
    if confusions:
        echo("-" * (width + 9))
        for truth, predicted, count, total in confusions:
            echo(f"{truth} taken for {predicted}: {count} of {total}")
    echo("-" * (width + 9))
    if len(results) > 1:
        echo(" " * width + "".join(f"{each.modality:>9}" for each in results))
    for name in result.named():
        if not name.startswith("top5") or len(result.classes) > 5:
            echo(f"{name:<{width}} " + " ".join(f"{100 * each.named()[name]:6.2f} %" for each in results))
    of_first = f"classes and confusions of {result.modality}" if len(results) > 1 else result.modality
    of_first += " of the teacher" * is_teacher
    echo(f"{plural(len(result.keys), 'video')}, {of_first}; written to {path}", kept=str(path))
    for other in paths[1:]:
        echo(f"  and {other}", kept=str(other))
