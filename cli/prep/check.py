"""`tgprep check`: verify a data set."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.common import (
    EXIT_FAILURES,
    PlaceType,
    build,
    handled,
    human_bytes,
    human_seconds,
    interruptible,
    print_json,
    progress_lines,
    say,
)

if TYPE_CHECKING:
    from tgprep.check.check import CheckReport
    from tgprep.check.repair import RepairReport


_SHOWN = 20


@click.command()
@click.argument("out", type=PlaceType(text=True), default="dataset")
@click.option("--deep", is_flag=True, help="Check the structure of every sample, decode every frame, compute TG again.")
@click.option(
    "--quick",
    is_flag=True,
    help="Check only tables, splits and the sizes of shards: seconds, however large the data set.",
)
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    metavar="VIDEOS",
    help="Compare the source videos (of an import: the tree of frames) with their recorded sha256.",
)
@click.option("--repair", "mend", is_flag=True, help="Extract damaged shards again from VIDEOS (needs --against).")
@click.option("--threads", type=click.IntRange(0), default=0, help="Threads (0: one per core).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
@handled
def check(out: str, deep: bool, quick: bool, against: Path | None, mend: bool, threads: int, as_json: bool) -> None:
    """Verify the data set at OUT [default: ./dataset]: tables, shards, splits.

    The tables and splits are checked against each other, and the sha256 of every file (so that no changed byte is missed); if
    that of a shard differs, its damaged samples are named. --deep also checks the tar structure, facts and frame offsets of every
    sample, decodes every JPEG, and compares TG with the gradient of its frames, within the error that JPEG makes. --quick does not
    read the bytes of shards.

    \b
    Exit codes: 0 sound, 1 something is wrong (each finding names its place and its remedy), 2 wrong usage or no data set.
    """
    from manifests.files import is_url
    from manifests.records import InputError
    from tgprep.check.check import check as run_check

    if mend and against is None:
        raise InputError("--repair needs --against VIDEOS: the folder that the videos were extracted from.")
    if mend and is_url(out):
        raise InputError(
            f"--repair works on a local folder; {out} is remote. Copy it, repair the copy, and upload the shards."
        )
    if quick and (deep or against is not None):
        given = "--deep" if deep else "--against"
        raise InputError(f"--quick reads no bytes of shards or videos: it cannot be combined with {given}.")
    began = time.monotonic()
    with interruptible() as (stop, signals):
        try:
            report = run_check(
                out,
                deep=deep,
                quick=quick,
                against=against,
                threads=threads,
                stop=stop,
                on_progress=progress_lines("shards"),
            )
            repaired = None
            if mend and report.damaged_shards:
                from tgprep.check.repair import repair
                from tgprep.config import WorkerSettings
                from tgprep.extract.workers.shards import StoppedError

                assert against is not None
                say(f"extracting {len(report.damaged_shards)} shards again")
                try:
                    run = build(WorkerSettings, {"threads": threads})
                    repaired = repair(Path(out), against, report.damaged_shards, run=run, stop=stop)
                except StoppedError:
                    raise KeyboardInterrupt from None
                except InputError:
                    _tell(report, None, time.monotonic() - began, as_json)  # what was found, before the refusal
                    raise
                if not signals:
                    stop.clear()  # the engine sets it once it is done
                report = run_check(
                    out, deep=deep, against=against, threads=threads, stop=stop, on_progress=progress_lines("shards")
                )
        except KeyboardInterrupt:
            say("Interrupted: nothing was changed, except shards that were repaired whole.")
            sys.exit(128 + (signals[0] if signals else 2))
    _tell(report, repaired, time.monotonic() - began, as_json)
    sys.exit(0 if report.sound else EXIT_FAILURES)


def _tell(report: CheckReport, repaired: RepairReport | None, seconds: float, as_json: bool) -> None:
    if as_json:
        print_json(_facts(report, repaired))
    else:
        _show(report, repaired, seconds)


def _facts(report: CheckReport, repaired: RepairReport | None) -> dict[str, Any]:
    import dataclasses

    facts = {"sound": report.sound, **dataclasses.asdict(report)}
    if repaired is not None:
        facts["repaired"] = list(repaired.repaired)
        facts["not_repaired"] = [{"shard": name, "reason": reason} for name, reason in repaired.failed]
    return facts


def _show(report: CheckReport, repaired: RepairReport | None, seconds: float) -> None:
    if repaired is not None:
        for name in repaired.repaired:
            click.echo(f"repaired  {name}: extracted again, with the recorded sha256")
        for name, reason in repaired.failed:
            click.echo(f"not repaired  {name}: {reason}")
    for finding in report.findings[:_SHOWN]:
        click.echo(f"{finding.kind}  {finding.place}\n    {finding.message}")
    if len(report.findings) > _SHOWN:
        click.echo(f"and {len(report.findings) - _SHOWN} more (--json lists them all)")
    for note in report.notes[:_SHOWN]:
        say(f"note: {note}")
    if len(report.notes) > _SHOWN:
        say(f"and {len(report.notes) - _SHOWN} more notes (--json lists them all)")
    remedies = dict.fromkeys(finding.mend for finding in report.findings)
    for remedy in remedies:
        click.echo(f"To mend: {remedy}.")
    looked = f"{report.num_videos} videos, {report.num_shards} shards ({human_bytes(report.num_bytes)}), {report.num_splits} splits"
    looked += f", {report.num_frames} frames decoded" if report.deep else ""
    looked += f", {report.num_sources} source videos" if report.num_sources else ""
    looked += " (bytes of shards not read)" if report.quick else ""
    verdict = "sound" if report.sound else f"{len(report.findings)} findings"
    click.echo(f"{report.root}: {verdict}; {looked} in {human_seconds(seconds)}")
