"""`tgprep export`: write a data set in the form that other tools read."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from cli.common import handled, plural, print_json, progress_lines, say, stoppable


@click.command()
@click.argument("out")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--format", "form", type=click.Choice(["rawframes"]), default="rawframes", show_default=True, help="what to write"
)
@click.option("--tg/--no-tg", default=True, help="write the TG frames too  [default: tg]")
@click.option("--keys", metavar="KEY,...", default="", help="only these videos; no lists are written then")
@click.option("--threads", type=click.IntRange(0), default=0, help="threads (0: one per core)")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object on stdout")
@handled
def export(out: str, folder: Path, form: str, tg: bool, keys: str, threads: int, as_json: bool) -> None:
    """Write the data set at OUT into DIR as the reference code and mmaction read it.

    rawframes: DIR/Class/video/img_00001.jpg and tempgrad_00001.jpg, counted from 1, with the stored JPEG bytes (of a data set made
    with --store video: encoded with quality 95). Folders have the names of the keys: letters, digits, _ and -.

    Beside them: classInd.txt and lists `Class/video num_frames label` of the official folds and of every split, also under the
    reference's names (videossl_splits/ucf101_train_20_percent_labeled_split_1_rawframes.txt).
    """
    from tgprep.convert.export_rawframes import export_rawframes

    chosen = tuple(key.strip() for key in keys.split(",") if key.strip())
    with stoppable("Interrupted. Finished videos are kept; run the same command again to continue.") as stop:
        outcome = export_rawframes(
            out, folder, tg=tg, keys=chosen, threads=threads, stop=stop, on_progress=progress_lines("videos")
        )
    if as_json:
        print_json({"path": str(folder), **dataclasses.asdict(outcome)})
        return
    kept = f" ({outcome.num_kept} existed before)" if outcome.num_kept else ""
    say(
        f"{plural(outcome.num_videos, 'video')}{kept}, {plural(outcome.num_files, 'file')}, {plural(len(outcome.lists), 'list')}: {folder}"
    )
