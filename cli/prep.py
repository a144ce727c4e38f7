"""`tgprep`: videos in, data set out."""

from __future__ import annotations

import click

from cli.common import LazyGroup


@click.group(
    cls=LazyGroup,
    lazy={
        "sample": ("cli.sample:sample", "Render a small action data set as real video files."),
        "extract": ("cli.extract:extract", "Videos -> shards of RGB and temporal-gradient frames, and a manifest."),
        "plan": ("cli.extract:plan", "What an extraction would take: frames, bytes, time, files."),
        "finalize": ("cli.finalize:finalize", "Join the shards of array jobs to one data set."),
        "split": ("cli.split:split", "Choose, import, show and compare the labelled videos."),
        "info": ("cli.info:info", "What is in a data set."),
        "check": ("cli.check:check", "Verify a data set, and repair damaged shards."),
        "preview": ("cli.preview:preview", "One self-contained page to look at a data set."),
        "export": ("cli.export:export", "Write a data set as a rawframes tree with lists."),
        "import-rawframes": (
            "cli.import_rawframes:import_rawframes",
            "Existing rawframes -> a data set, bytes unchanged.",
        ),
        "download": ("cli.download:download", "Fetch a public data set or its lists."),
        "doctor": ("cli.doctor_prep:doctor", "Whether this machine can extract, and what to do where it cannot."),
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


if __name__ == "__main__":
    main()
