"""`tgprep sample`: render a small data set as real video files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.common import handled, plural, say
from manifests.machine import usable_cores


@click.command()
@click.argument("out", type=click.Path(path_type=Path), default="videos")
@click.option("--num-classes", type=int, default=None, help="classes, 2 to 8  [default: 8]")
@click.option("--num-groups", type=int, default=None, help="actors of each class  [default: 10]")
@click.option("--clips-per-group", type=int, default=None, help="videos of each actor  [default: 2]")
@click.option("--videos-per-class", type=int, default=None, help="instead of the two above, which are chosen to fit")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--width", type=int, default=None, help="pixels  [default: 160]")
@click.option("--height", type=int, default=None, help="pixels  [default: 120]")
@click.option(
    "--container",
    type=click.Choice(["mixed", "avi", "mp4"]),
    default=None,
    help="MPEG-4 in .avi, H.264 in .mp4, or both in turn  [default: mixed]",
)
@click.option(
    "--annotations",
    type=click.Path(path_type=Path),
    help="write lists in UCF101's form here  [default: annotations/ beside OUT]",
)
@click.option("--threads", type=int, default=0, help="processes (0: one per core)")
@handled
def sample(out: Path, videos_per_class: int | None, annotations: Path | None, threads: int, **options: Any) -> None:
    """Render a small action data set into OUT [default: ./videos] whose classes differ only in motion.

    The same seed gives the same bytes. No single frame shows the class, and a horizontal flip does not change it. Files are named
    like those of UCF101, with train and test lists that share no group.
    """
    from manifests.lists.ucf_hmdb import read_class_index
    from manifests.records import InputError
    from tgprep.obtain.sample import SampleSettings, groups_and_clips, render_sample, write_annotations

    if videos_per_class is not None:
        if options["num_groups"] is not None or options["clips_per_group"] is not None:
            raise InputError(
                "--videos-per-class chooses --num-groups and --clips-per-group itself: give one or the others."
            )
        options["num_groups"], options["clips_per_group"] = groups_and_clips(videos_per_class)
    settings = SampleSettings(**{name: value for name, value in options.items() if value is not None})
    lists = annotations or out.resolve().parent / "annotations"
    class_list = lists / "classInd.txt"
    if class_list.exists() and read_class_index(class_list) != tuple(settings.class_names):
        raise InputError(f"{lists} holds the lists of another data set. Name another folder with --annotations.")
    paths = render_sample(out, settings, num_workers=threads or usable_cores())
    list_text = "; one group cannot be train and test: no lists"
    if settings.num_groups > 1:
        write_annotations(lists, settings)
        list_text = f", lists in {lists}"
    say(f"{plural(len(paths), 'video')} of {plural(settings.num_classes, 'class', 'classes')} in {out}{list_text}")
    say("Next: tgprep extract" + ("" if str(out) == "videos" else f" {out} OUT"))
