"""`tgtrain`: shards and a split in, a trained model and a report out."""

from __future__ import annotations

import click

from cli.common import LazyGroup


@click.group(
    cls=LazyGroup,
    lazy={
        "run": ("cli.train.run:run", "Train a recipe on a data set, or go on with a run."),
        "test": ("cli.train.test:test", "Accuracy of a run on its test videos, any clips x crops."),
        "predict": (
            "cli.train.predict:predict",
            "Which action a video shows: the likeliest classes of raw video files.",
        ),
        "export": ("cli.train.export:export", "The RGB network alone, as ONNX or torch.export, checked."),
        "bench": ("cli.train.bench:bench", "Whether the loader feeds this device, and with how many processes."),
        "info": ("cli.train.info:info", "What a run is: progress, accuracy, parameters, cost, data, split."),
        "report": ("cli.train.report:report", "One self-contained HTML page of a run, or of several compared."),
        "doctor": ("cli.train.doctor:doctor", "Whether this machine can train, and what to do where it cannot."),
        "recipes": ("cli.train.recipes:recipes", "The recipes, and what one of them says in full."),
    },
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="tgprep", prog_name="tgtrain")
def main() -> None:
    """Semi-supervised action recognition from shards made by tgprep (Learning from Temporal Gradient, CVPR 2022).

    \b
    In a folder that holds dataset/ with a split:
      tgtrain run
      tgtrain test
      tgtrain report
    """
