"""`tgtrain export`: a trained network as a file for other programs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from cli import completion
from cli.common import EXIT_FAILURES, echo, handled, human_bytes, print_json, quiet_threads, run_or_newest, say
from cli.train.scoring import check_output, checkpoint_option, teacher_option

if TYPE_CHECKING:
    from tgtrain.evaluate.export import Form
    from tgtrain.method.networks.settings import View


@click.command()
@click.argument("run", required=False, type=click.Path(path_type=Path), shell_complete=completion.runs)
@click.option(
    "--format",
    "form",
    type=click.Choice(["onnx", "torch"]),
    default="onnx",
    show_default=True,
    help="torch: torch.export",
)
@click.option(
    "--output", type=click.Path(path_type=Path), help="file to write  [default: model.onnx or model.pt2 in RUN]"
)
@checkpoint_option
@teacher_option
@click.option("--modality", type=click.Choice(["rgb", "tg"]), help="which network  [default: rgb]")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object on stdout")
@handled
def export(
    run: Path | None,
    form: str,
    output: Path | None,
    checkpoint: str,
    teacher: bool | None,
    modality: str | None,
    as_json: bool,
) -> None:
    """Write the RGB network of RUN [default: the newest below ./runs] for use without this package.

    It takes uint8 frames [batch, frames, height, width, 3] as they are decoded (normalisation is inside) and gives
    logits. Class names and how clips are cut are in its metadata. Its logits are compared with the model's.
    """
    quiet_threads()
    run = run_or_newest(run)
    check_output(output)
    from tgtrain.evaluate.export import SUFFIX, ExportError
    from tgtrain.evaluate.export import export as write
    from tgtrain.run.trained import read_trained

    trained = read_trained(run, checkpoint, teacher)
    path = output or run / f"model{SUFFIX[form]}"
    check_output(path)
    # The file keeps these statistics for good.
    if not trained.precise_bn:
        say("this checkpoint holds running averages: BatchNorm statistics were not recomputed when it was saved")
    try:
        done = write(trained, path, cast("Form", form), cast("View", modality or trained.views[0]))
    except ExportError as error:
        say(f"Error: {error}. Nothing was written.")
        sys.exit(EXIT_FAILURES)
    sides = (done.size, done.size) if done.one_size else ("height", "width")
    if as_json:
        print_json(
            {
                **trained.origin,
                "path": str(done.path),
                "format": form,
                "view": done.view,
                "input": ["batch", done.num_frames, *sides, 3],
                "size": done.size,
                "num_classes": done.num_classes,
                "num_bytes": done.num_bytes,
                "largest_difference": -1.0 if done.largest_difference is None else done.largest_difference,
            }
        )
        return
    say(
        f"{done.view} network of step {trained.step}: uint8[batch, {done.num_frames}, {sides[0]}, {sides[1]}, 3] -> "
        f"logits[batch, {done.num_classes}], trained at {done.size} pixels, {human_bytes(done.num_bytes)}"
    )
    say(
        done.note
        or f"checked: its logits differ from the model's by at most {done.largest_difference:.1g} of the largest logit"
    )
    echo(done.path, kept=str(done.path))
