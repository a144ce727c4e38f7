"""`tgprep check`: verify a data set."""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.common import (
    EXIT_FAILURES,
    PlaceType,
    echo,
    handled,
    human_bytes,
    human_seconds,
    plural,
    print_json,
    progress_lines,
    say,
    stoppable,
)

if TYPE_CHECKING:
    from tgprep.check.check import CheckReport
    from tgprep.check.repair import RepairReport


_SHOWN = 20


@click.command()
@click.argument("out", type=PlaceType(text=True), default="dataset")
@click.option("--deep", is_flag=True, help="check the structure of every sample, decode every frame, compute TG again")
@click.option(
    "--quick",
    is_flag=True,
    help="check only tables, splits and the sizes of shards: seconds, however large the data set",
)
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    metavar="VIDEOS",
    help="compare the source videos (of an import: the tree of frames) with their recorded sha256",
)
@click.option(
    "--unlabelled",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="DIR",
    help="with --against: a folder that `tgprep extract --unlabelled` took videos from",
)
@click.option("--repair", "mend", is_flag=True, help="extract damaged shards again from VIDEOS (needs --against)")
@click.option(
    "--decoder", metavar="MODULE:FUNCTION", help="your own decoder that the data set was made with, for --repair"
)
@click.option(
    "--duplicates",
    is_flag=True,
    help="instead: find near-copies (re-encoded, cropped, scaled, mirrored, cut) among the videos, and store the pairs for `tgprep split` and `tgprep preview`",
)
@click.option("--threads", type=click.IntRange(0), default=0, help="threads (0: one per core)")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object on stdout")
@handled
def check(
    out: str,
    deep: bool,
    quick: bool,
    against: Path | None,
    unlabelled: tuple[Path, ...],
    mend: bool,
    decoder: str | None,
    duplicates: bool,
    threads: int,
    as_json: bool,
) -> None:
    """Verify the data set at OUT [default: ./dataset]: tables, shards, splits.

    The tables and splits are checked against each other, and the sha256 of every file (so that no changed byte is missed); if
    that of a shard differs, its damaged samples are named. --deep also checks the tar structure, facts and frame offsets of every
    sample, decodes every JPEG, and compares TG with the gradient of its frames, within the error that JPEG makes. --quick does not
    read the bytes of shards.

    \b
    Exit codes: 0 sound, 1 something is wrong (each finding names its place and its remedy), 2 wrong usage or no data set.
    """
    from manifests.records import InputError
    from tgprep.check.check import check as run_check
    from tgprep.check.repair import repair
    from tgprep.config import WorkerSettings, build
    from tgprep.extract.workers.shards import WORK_FOLDER, StoppedError

    if duplicates and (deep or quick or against is not None):
        raise InputError("--duplicates compares the videos with each other: leave --deep, --quick and --against out.")
    _refuse_combinations(out, deep, quick, against, unlabelled, mend, decoder)
    if duplicates:
        return _duplicates(out, threads, as_json)
    began = time.monotonic()
    with stoppable("Interrupted: nothing was changed, except shards that were repaired completely.") as stop:
        options: dict[str, Any] = {"unlabelled": unlabelled, "threads": threads, "stop": stop}
        run = functools.partial(
            run_check, out, deep=deep, against=against, on_progress=progress_lines("shards"), **options
        )
        report, repair_report = run(quick=quick), None
        if against is not None and mend and (report.damaged_shards or Path(out, WORK_FOLDER).exists()):
            try:
                say(f"extracting {plural(len(report.damaged_shards), 'shard')} again")
                workers = build(WorkerSettings, {"threads": threads})
                how: dict[str, Any] = {"unlabelled": unlabelled, "decoder": decoder, "run": workers, "stop": stop}
                repair_report = repair(Path(out), against, report.damaged_shards, **how)
            except InputError:
                _print(report, None, time.monotonic() - began, as_json)  # the findings, before the error
                raise
            except StoppedError:
                raise KeyboardInterrupt from None
            report = run()
    _print(report, repair_report, time.monotonic() - began, as_json)
    sys.exit(0 if report.sound else EXIT_FAILURES)


def _duplicates(out: str, threads: int, as_json: bool) -> None:
    from manifests.manifest_io import read_manifest
    from manifests.splits.label_split import list_splits, read_split
    from tgprep.duplicates.pairs import count_by_parts, find_pairs, parts_of, superfluous, write_pairs

    began, manifest = time.monotonic(), read_manifest(out)
    split = read_split(out) if list_splits(out) else None
    with stoppable("Interrupted: nothing was written.") as stop:
        pairs = find_pairs(manifest, threads=threads, stop=stop, on_progress=progress_lines("videos"))
    write_pairs(manifest, pairs)
    parts = parts_of(manifest, split)
    counts, dropped = count_by_parts(pairs, parts), len(superfluous(manifest, pairs))
    if as_json:
        rows = [{**dataclasses.asdict(p), "parts": [parts.get(key, "") for key in (p.first, p.second)]} for p in pairs]
        print_json({"num_pairs": len(pairs), "num_superfluous": dropped, "counts": counts, "pairs": rows})
        return
    crossing = sorted(pairs, key=lambda pair: parts.get(pair.first) == parts.get(pair.second))
    for pair in crossing[:_SHOWN]:
        where = " = ".join(f"{key} ({parts.get(key, 'no part')})" for key in (pair.first, pair.second))
        echo(f"{where}  {pair.similarity:.2f}{', mirrored' * pair.mirrored}")
    if len(pairs) > _SHOWN:
        echo(f"and {plural(len(pairs) - _SHOWN, 'more pair')} (--json lists them all)")
    for names, count in counts.items():
        echo(f"near-copies in {names}: {count}")
    if dropped:
        echo(
            f"{plural(dropped, 'video without a label is', 'videos without a label are')} superfluous: `tgprep split ... --drop-duplicates` leaves such videos out"
        )
    scope = f"{plural(len(pairs), 'near-copy', 'near-copies')} among {plural(manifest.header.num_written, 'video')}"
    echo(f"{out}: {scope} in {human_seconds(time.monotonic() - began)}", kept="duplicates.parquet")


def _refuse_combinations(
    out: str,
    deep: bool,
    quick: bool,
    against: Path | None,
    unlabelled: tuple[Path, ...],
    mend: bool,
    decoder: str | None,
) -> None:
    """InputError for options that have no meaning together."""
    from manifests.files import is_url
    from manifests.records import InputError

    if mend and against is None:
        raise InputError("--repair needs --against VIDEOS: the folder that the videos were extracted from.")
    if mend and is_url(out):
        raise InputError(
            f"--repair works on a local folder; {out} is remote. Copy it, repair the copy, and upload the shards."
        )
    if unlabelled and against is None:
        raise InputError("--unlabelled names folders to compare with: add --against VIDEOS.")
    if decoder is not None and not mend:
        raise InputError("--decoder names the decoder of --repair: leave it out, or add --repair.")
    if quick and (deep or against is not None):
        other = "--deep" if deep else "--against"
        raise InputError(f"--quick reads no bytes of shards or videos: it cannot be combined with {other}.")


def _print(report: CheckReport, repair_report: RepairReport | None, seconds: float, as_json: bool) -> None:
    if as_json:
        facts = {"sound": report.sound, **dataclasses.asdict(report)}
        if repair_report is not None:
            facts["repaired"] = list(repair_report.repaired)
            facts["not_repaired"] = [{"shard": name, "reason": reason} for name, reason in repair_report.failed]
        print_json(facts)
        return
    if repair_report is not None:
        for name in repair_report.repaired:
            echo(f"repaired  {name}: extracted again, with the recorded sha256")
        for name, reason in repair_report.failed:
            echo(f"not repaired  {name}: {reason}")
    for finding in report.findings[:_SHOWN]:
        echo(f"{finding.kind}  {finding.place}\n    {finding.message}")
    if len(report.findings) > _SHOWN:
        echo(f"and {len(report.findings) - _SHOWN} more (--json lists them all)")
    for note in report.notes[:_SHOWN]:
        say(f"note: {note}")
    if len(report.notes) > _SHOWN:
        say(f"and {len(report.notes) - _SHOWN} more notes (--json lists them all)")
    for remedy in dict.fromkeys(finding.mend for finding in report.findings):
        echo(f"To mend: {remedy}.")
    scope = f"{plural(report.num_videos, 'video')}, {plural(report.num_shards, 'shard')} ({human_bytes(report.num_bytes)}), {plural(report.num_splits, 'split')}"
    scope += f", {plural(report.num_frames, 'frame')} decoded" if report.deep else ""
    scope += f", {report.num_sources} source videos" if report.num_sources else ""
    scope += " (bytes of shards not read)" if report.quick else ""
    verdict = "sound" if report.sound else f"{plural(len(report.findings), 'finding')}"
    echo(f"{report.root}: {verdict}; {scope} in {human_seconds(seconds)}", kept="the exit code")
