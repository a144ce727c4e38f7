"""`tgtrain predict`: which action a video shows."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli import completion
from cli.common import EXIT_FAILURES, echo, handled, print_json, quiet_threads, reader_is_gone, run_or_newest, say
from cli.train.scoring import Scoring, scoring_options

if TYPE_CHECKING:
    from cli.train.decode_children import ViewJob, ViewReply
    from tgtrain.evaluate.evaluate import EvalSettings
    from tgtrain.evaluate.predict import ClassScore
    from tgtrain.evaluate.score import VideoViews
    from tgtrain.run.trained import Trained


@click.command()
@click.argument("run", type=click.Path(path_type=Path), shell_complete=completion.runs)
@click.argument("videos", nargs=-1, required=True, metavar="VIDEO...", type=click.Path(path_type=Path))
@scoring_options
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="how many classes to name")
@click.option("--decoder", metavar="MODULE:FUNCTION", help="your own decoder that the data set of RUN was made with")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1")
@click.option("--workers", type=click.IntRange(min=1), help="decoding processes  [default: one less than cores]")
@click.option(
    "--deadline", type=click.FloatRange(min=1), default=600.0, show_default=True, help="seconds to decode one video"
)
@click.option("--json", "as_json", is_flag=True, help="print one JSON object on stdout")
@handled
def predict(
    run: Path,
    videos: tuple[Path, ...],
    scoring: Scoring,
    top: int,
    decoder: str | None,
    device: str,
    workers: int | None,
    deadline: float,
    as_json: bool,
) -> None:
    """Name the action in each VIDEO (video files, or folders of them) with the model of RUN: the most likely classes, best first.

    Views are cut as `tgtrain test` cuts them. A video that cannot be read is reported, the others are answered, and the
    exit code is 1.
    """
    quiet_threads()
    run = run_or_newest(run)
    paths = _files(videos)
    from cli.train.decode_children import read_all
    from tgtrain.data.loader import default_workers
    from tgtrain.evaluate.predict import best_classes
    from tgtrain.evaluate.score import Scorer
    from tgtrain.ranks.distributed import Ranks, choose_device
    from tgtrain.run.trained import read_trained

    missing = _missing(paths)
    trained = read_trained(run, scoring.checkpoint, scoring.teacher)
    settings = scoring.settings(run, trained.config)
    place, children = choose_device(device), min(len(paths), workers or default_workers())
    scoring.require_memory("The prediction", trained.config, settings, Ranks(0, 1, place), children)
    trained.model.to(place)
    job = _view_job(trained, settings, paths[0], decoder)
    replies = read_all(job, paths, children, deadline)
    num_frames: list[int] = []
    answers, failed = [], []
    slow = trained.config.data.gradient == "slow"
    scorer = Scorer(trained.model, place, settings.average, slow, settings.batch_views)
    # Results are printed as they come; JSON is one object at the end.
    for scored in scorer.score(_views(replies, num_frames, job)):
        path = paths[scored.position]
        if scored.scores is None:
            reason = "there is no such file" if path in missing else scored.bad
            failed.append({"video": str(path), "reason": reason})
            say(f"{path}: cannot be read: {reason}")
            continue
        best = best_classes(scored.scores, trained.classes, settings.average, top)
        named = [
            asdict(each) | {name: round(getattr(each, name), 6) for name in ("score", "probability")} for each in best
        ]
        answers.append({"video": str(path), "num_frames": num_frames[scored.position], "top": named})
        if not as_json:
            _show(path, best)
        if reader_is_gone():
            break
    if as_json:
        how = {"protocol": settings.protocol.protocol, "modality": settings.modality, "average": settings.average}
        print_json({**trained.origin, **how, "videos": answers, "failed": failed})
    sys.exit(EXIT_FAILURES if failed else 0)


def _view_job(trained: Trained, settings: EvalSettings, path: Path, decoder: str | None) -> ViewJob:
    """What to read of each video, decoded and cut like the data set that the run was trained on. decoder: as typed."""
    from cli.train.decode_children import ViewJob
    from manifests.sample import flow_method
    from tgprep.config import decoder_of
    from tgtrain.data.setup import clip_settings
    from tgtrain.run.folder import CONFIG_NAME

    extraction = trained.facts.data.extraction
    clip = clip_settings(trained.config)
    return ViewJob(
        path=path,
        # RGB alone may use the last frame too, and needs no second one.
        clip=clip if settings.modality != "rgb" else replace(clip, gradient="none"),
        num_clips=settings.protocol.num_clips,
        num_crops=settings.protocol.num_crops,
        rgb=settings.modality in ("rgb", "both"),
        tg=settings.modality in ("tg", "both"),
        short_side=int(extraction.get("short_side", 0)),
        decoder=decoder_of(extraction.get("decoder", "pyav"), decoder, trained.run / CONFIG_NAME),
        flow=flow_method(extraction),
        flow_compat=str(extraction.get("compat", "")),
    )


def _files(given: tuple[Path, ...]) -> list[Path]:
    """List the given files and the video files below the given folders, in order, each once; InputError if a folder has none."""
    from tgprep.scan.files import list_videos

    files: dict[Path, None] = {}
    for path in given:
        if not path.is_dir():
            files[path] = None
            continue
        listing = list_videos(path)
        for entry in listing.skipped:
            say(f"skipped: {path / entry.path}: {entry.reason}")
        files.update(dict.fromkeys(path / file.path for file in listing.videos))
    return list(files)


def _missing(paths: list[Path]) -> set[Path]:
    """Those that are not there. InputError if that are all of them."""
    from manifests.records import InputError

    missing = {path for path in paths if not path.exists()}
    if len(missing) == len(paths):
        raise InputError(f"{paths[0]}: there is no such file or folder. Name videos, or folders of them.")
    return missing


def _views(replies: Iterator[ViewReply], num_frames: list[int], job: ViewJob) -> Iterator[VideoViews]:
    """Turn replies into views to score; appends each video's number of frames to `num_frames`."""
    import numpy as np
    import torch

    from tgtrain.evaluate.score import VideoViews

    for position, reply in enumerate(replies):
        num_frames.append(reply.num_frames)
        if reply.bad:
            yield VideoViews(position, None, None, reply.bad)
        else:
            rgb = torch.from_numpy(np.stack([clip.rgb for clip in reply.clips])) if job.rgb else None
            tgs = [clip.tg for clip in reply.clips if clip.tg is not None]
            yield VideoViews(position, rgb, torch.from_numpy(np.stack(tgs)) if job.tg else None)


def _show(path: Path, best: tuple[ClassScore, ...]) -> None:
    echo(path)
    width = max(len(each.class_name) for each in best)
    for each in best:
        echo(f"  {100 * each.probability:5.1f} %  {each.class_name:<{width}}".rstrip())
