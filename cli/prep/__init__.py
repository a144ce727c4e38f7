"""`tgprep`: videos in, data set out."""

from __future__ import annotations

import click

from cli.common import LazyGroup


@click.group(
    cls=LazyGroup,
    lazy={
        "sample": ("cli.prep.sample", "Render a small action data set as real video files."),
        "extract": ("cli.prep.extract", "Videos -> shards of RGB and temporal-gradient frames, and a manifest."),
        "plan": ("cli.prep.extract", "Estimate an extraction: frames, bytes, time, files."),
        "finalize": ("cli.prep.finalize", "Join the shards of array jobs to one data set."),
        "split": ("cli.prep.split", "Choose, import, show and compare the labelled videos."),
        "targets": ("cli.prep.targets", "Import, show and compare soft targets; find videos to label."),
        "info": ("cli.prep.info", "Show the content of a data set."),
        "check": ("cli.prep.check", "Verify a data set, and repair damaged shards."),
        "preview": ("cli.prep.preview", "One self-contained page to look at a data set."),
        "merge": ("cli.prep.merge", "Several data sets -> one, without decoding."),
        "drop": ("cli.prep.drop", "Take videos out of a data set, or put them back."),
        "relabel": ("cli.prep.relabel", "Give videos other classes, or none."),
        "card": ("cli.prep.card", "Write README.md and croissant.json, to share a data set."),
        "export": ("cli.prep.export", "Write a data set as a rawframes tree with lists."),
        "import-rawframes": ("cli.prep.import_rawframes", "Existing rawframes -> a data set, bytes unchanged."),
        "download": ("cli.prep.download", "Fetch a public data set or its lists."),
        "doctor": ("cli.prep.doctor", "Check that this machine can extract, with advice if it cannot."),
    },
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="tgprep", prog_name="tgprep")
def main() -> None:
    """Action videos -> WebDataset shards of RGB and temporal-gradient frames, a manifest and label splits.

    \b
    In a folder that holds videos/ :
      tgprep extract --threads 8
      tgprep split --percent 20
      tgtrain run
    """
