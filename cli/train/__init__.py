"""`tgtrain`: shards and a split in, a trained model and a report out."""

from __future__ import annotations

import click

from cli.common import LazyGroup


@click.group(
    cls=LazyGroup,
    lazy={
        "run": ("cli.train.run", "Train a recipe on a data set, or resume a run."),
        "sweep": ("cli.train.sweep", "Train and test a grid of runs: recipes, splits, seeds, settings."),
        "test": ("cli.train.test", "Measure the accuracy of a run on its test videos, any clips x crops."),
        "predict": ("cli.train.predict", "Predict the action of raw video files: their likeliest classes."),
        "export": ("cli.train.export", "Export the RGB network as ONNX or torch.export, and check it."),
        "bench": ("cli.train.bench", "Measure whether the loader feeds this device, and with how many processes."),
        "info": ("cli.train.info", "Show a run: progress, accuracy, parameters, cost, data, split."),
        "report": ("cli.train.report", "Write one HTML page of a run, compare several, or print a table of settings."),
        "doctor": ("cli.train.doctor", "Check whether this machine can train, and what to do if it cannot."),
        "recipes": ("cli.train.recipes", "List the recipes, or print all settings of one."),
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
