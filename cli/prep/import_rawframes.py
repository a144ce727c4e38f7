"""`tgprep import-rawframes`: import frames that were extracted elsewhere, unchanged."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from cli.common import EXIT_FAILURES, handled, plural, print_json, progress_lines, say, stoppable
from cli.prep.account import next_step, too_many_skipped


@click.command("import-rawframes")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path), default="dataset")
@click.option(
    "--dataset",
    type=click.Choice(["auto", "ucf101", "hmdb51", "kinetics400", "kinetics600", "kinetics700", "folder"]),
    default="auto",
    show_default=True,
    help="how class, label, group and official split are inferred from names and lists",
)
@click.option("--annotations", type=click.Path(path_type=Path), help="folder of the official lists")
@click.option("--tg/--no-tg", default=True, help="import the tempgrad files, or derive TG while reading  [default: tg]")
@click.option("--flow/--no-flow", default=True, help="import the flow_xym files, or leave them out  [default: flow]")
@click.option("--threads", type=click.IntRange(0), default=0, help="threads (0: one per core)")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object on stdout")
@handled
def import_rawframes(folder: Path, out: Path, as_json: bool, **options: Any) -> None:
    """Make the data set OUT [default: ./dataset] from DIR/Class/video/img_00001.jpg, tempgrad_00001.jpg, ...

    No frame is decoded: the JPEG bytes go into the shards unchanged. Videos with missing frames fail with the reason.

    \b
    Exit codes: 0 all well, 1 some videos failed or over a tenth of the inputs was skipped, 2 wrong usage or input, 130/143 interrupted.
    """
    from manifests.sample import flow_method
    from tgprep.convert.import_rawframes import import_rawframes as run

    with stoppable("Interrupted. Finished shards are kept; run the same command again to continue.") as stop:
        outcome = run(folder, out, **options, stop=stop, on_progress=progress_lines("shards"))
    for note in outcome.notes:
        say(note)
    header, num_videos = outcome.manifest.header, len(outcome.manifest.videos)
    rows = [row for row in outcome.manifest.videos if row.status != "written"]
    failed, skipped = [[row for row in rows if row.status == status] for status in ("failed", "skipped")]
    if as_json:
        counts = {name: getattr(header, name) for name in ("num_written", "num_failed", "num_skipped")}
        kinds = {"tg": header.gradient.stored, "flow": bool(flow_method(header.settings))}
        failures = [{"path": row.path, "error": row.error} for row in failed]
        reasons = [{"path": row.path, "reason": row.error} for row in skipped]
        facts = {"out": str(out), "num_videos": num_videos, **counts, **kinds}
        print_json({**facts, "failed": failures, "skipped": reasons})
    else:
        for row in [*failed, *skipped][:10]:
            say(f"  {row.status}: {row.path}: {row.error}")
        counted = f"{header.num_written} written + {header.num_failed} failed + {header.num_skipped} skipped"
        say(f"{plural(num_videos, 'input')} = {counted}: {out}")
        for line in next_step(outcome.manifest, out):
            say(line)
    sys.exit(EXIT_FAILURES if header.num_failed or too_many_skipped(outcome.manifest) else 0)
