"""`tgtrain predict`: which action a video shows."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from cli.common import EXIT_FAILURES, handled, print_json, quiet_threads, say

if TYPE_CHECKING:
    from cli.train.decode_children import ViewReply
    from tgtrain.evaluate.predict import ClassScore
    from tgtrain.evaluate.score import Average, Modality, VideoViews


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("videos", nargs=-1, required=True, metavar="VIDEO...", type=click.Path(path_type=Path))
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
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="how many classes to name")
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
    views: str | None,
    modality: str | None,
    average: str | None,
    which: str,
    top: int,
    device: str,
    workers: int | None,
    deadline: float,
    as_json: bool,
) -> None:
    """Name the action in each VIDEO (video files, or folders of them) with the model of RUN: the likeliest classes, best first.

    Views are cut as `tgtrain test` cuts them. A video that cannot be read is named, the others are answered, and the
    exit code is 1.
    """
    quiet_threads()
    from cli.train.decode_children import ViewJob, read_all
    from cli.train.test import chosen_views
    from manifests.records import InputError
    from manifests.sample import flow_method
    from tgtrain.data.loader import default_workers
    from tgtrain.data.setup import clip_settings
    from tgtrain.evaluate.predict import best_classes
    from tgtrain.evaluate.score import score_videos
    from tgtrain.ranks.distributed import choose_device
    from tgtrain.run.trained import read_trained

    paths = _files(videos)
    trained = read_trained(run, which)
    config = trained.config
    asked = cast("Modality", modality or trained.views[0])
    if (asked != "both" and asked not in trained.views) or (asked == "both" and len(trained.views) == 1):
        raise InputError(f"--modality {asked}: {run} trained a network for {trained.views[0]} alone.")
    num_clips, num_crops = chosen_views(views, config.data.test_clips, config.data.test_crops)
    chosen = cast("Average", average or config.evaluate.average)
    extraction = trained.facts.data.extraction
    place = choose_device(device)
    trained.model.to(place)
    job = ViewJob(
        path=paths[0],
        # RGB alone may use the last frame too, and needs no second one.
        clip=clip_settings(config) if asked != "rgb" else replace(clip_settings(config), gradient="none"),
        num_clips=num_clips,
        num_crops=num_crops,
        rgb=asked in ("rgb", "both"),
        tg=asked in ("tg", "both"),
        short_side=int(extraction.get("short_side", 0)),
        decoder=str(extraction.get("decoder", "pyav")),
        flow=flow_method(extraction),
        flow_compat=str(extraction.get("compat", "")),
    )
    replies = read_all(job, paths, min(len(paths), workers or default_workers()), deadline)
    frames: list[int] = []
    answers, failed = [], []
    for scored in score_videos(
        trained.model, _views(replies, frames, job), place, average=chosen, slow=config.data.gradient == "slow"
    ):
        path = paths[scored.position]
        if scored.scores is None:
            failed.append({"video": str(path), "reason": scored.bad})
            say(f"{path}: cannot be read: {scored.bad}")
            continue
        best = best_classes(scored.scores, trained.classes, chosen, top)
        answers.append(_answer(path, frames[scored.position], best))
        if not as_json:
            _show(path, best)
    if as_json:
        print_json(
            {
                **trained.origin,
                "protocol": f"{num_clips}x{num_crops}",
                "modality": asked,
                "average": chosen,
                "videos": answers,
                "failed": failed,
            }
        )
    sys.exit(EXIT_FAILURES if failed else 0)


def _files(given: tuple[Path, ...]) -> list[Path]:
    """The files named, and the video files below the folders named, in order; each once. InputError where there are none."""
    from manifests.records import InputError
    from tgprep.scan.files import VIDEO_EXTENSIONS

    found: dict[Path, None] = {}
    for path in given:
        if not path.is_dir():
            found[path] = None
            continue
        below = [
            Path(folder) / name
            for folder, _, names in os.walk(path)
            for name in names
            if Path(name).suffix.lower().removeprefix(".") in VIDEO_EXTENSIONS
        ]
        if not below:
            raise InputError(f"{path} holds no video files (expected extensions such as .avi, .mp4, .mkv, .webm).")
        found.update(dict.fromkeys(sorted(below)))
    return list(found)


def _views(replies: Iterator[ViewReply], frames: list[int], job: Any) -> Iterator[VideoViews]:
    from tgtrain.evaluate.evaluate import stacked_views
    from tgtrain.evaluate.score import VideoViews

    for position, reply in enumerate(replies):
        frames.append(reply.num_frames)
        if reply.bad:
            yield VideoViews(position, None, None, reply.bad)
        else:
            yield stacked_views(position, reply.clips, rgb=job.rgb, tg=job.tg)


def _answer(path: Path, num_frames: int, best: tuple[ClassScore, ...]) -> dict[str, Any]:
    return {
        "video": str(path),
        "num_frames": num_frames,
        "top": [
            {
                "label": each.label,
                "class_name": each.class_name,
                "score": round(each.score, 6),
                "probability": round(each.probability, 6),
            }
            for each in best
        ],
    }


def _show(path: Path, best: tuple[ClassScore, ...]) -> None:
    click.echo(str(path))
    width = max(len(each.class_name) for each in best)
    for each in best:
        click.echo(f"  {100 * each.probability:5.1f} %  {each.class_name:<{width}}".rstrip())
