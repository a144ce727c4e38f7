"""`tgprep finalize`: join the shards of array jobs to one data set."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from cli.common import EXIT_FAILURES, PlaceType, handled
from cli.prep.account import report, too_many_skipped
from cli.prep.progress import ExtractProgress

if TYPE_CHECKING:
    from manifests.files import Location


@click.command()
@click.argument("out", type=PlaceType(), default="dataset")
@click.option("--json", "as_json", is_flag=True, help="print the account as one JSON object on stdout")
@handled
def finalize(out: Location, as_json: bool) -> None:
    """Join the shards that `tgprep extract --num-tasks N --task-id I` wrote at OUT [default: ./dataset].

    The last task does it by itself; use this if that task was lost. Nothing changes while shards are missing.

    \b
    Exit codes: 0 all well, 1 some videos failed or shards are missing, 2 wrong usage or input.
    """
    from tgprep.extract.array_jobs import finalize as run_finalize
    from tgprep.extract.workers.shards import ShardError

    progress = ExtractProgress()
    began = time.monotonic()
    try:
        outcome = run_finalize(out)
    except ShardError as error:
        progress.log("error", f"Error: {error}")
        sys.exit(EXIT_FAILURES)
    report(outcome, None, out, progress, time.monotonic() - began, as_json)
    sys.exit(EXIT_FAILURES if outcome.manifest.header.num_failed or too_many_skipped(outcome.manifest) else 0)
