"""`tgprep download`: fetch the public data sets."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from cli.common import EXIT_FAILURES, handled, human_bytes, plural, print_json, say, stoppable


@click.command()
@click.argument("name", type=click.Choice(["ucf101", "hmdb51", "kinetics400-annotations"]))
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path), default=".")
@click.option("--base", metavar="URL", default="", help="take the archives from this folder of another server")
@click.option("--unpack/--no-unpack", "unpack", default=True, help="unpack the archives  [default: unpack]")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object on stdout")
@handled
def download(name: str, folder: Path, base: str, unpack: bool, as_json: bool) -> None:
    """Fetch a public data set into DIR [default: .]: archives/, videos/ and annotations/.

    After an interruption, the same command resumes. Size and sha256 are checked if they are published. The videos of UCF101 and
    HMDB51 come as .rar, which needs `unar` or `bsdtar`.

    \b
    Exit codes: 0 success, 1 a file could not be fetched, 2 wrong usage or input, 130/143 interrupted.
    """
    from tgprep.obtain.download import SOURCES
    from tgprep.obtain.download import download as run
    from tgprep.obtain.fetch import DownloadError

    source = SOURCES[name]
    say(f"{name}: {source.terms}. {source.home}")
    printed = time.monotonic()

    def report(file: str, done: int, total: int) -> None:
        nonlocal printed
        if done == total or time.monotonic() - printed > 5:
            printed = time.monotonic()
            of_total = f" of {human_bytes(total)} ({100 * done // max(total, 1)} %)" if total >= 0 else ""
            say(f"{file}: {human_bytes(done)}{of_total}")

    with stoppable("Interrupted. What has arrived is kept; run the same command again to continue.") as stop:
        try:
            outcome = run(name, folder, base=base, unpack_archives=unpack, stop=stop, on_progress=report)
        except DownloadError as error:
            say(f"Error: {error}")
            sys.exit(EXIT_FAILURES)
    if as_json:
        print_json({"path": str(folder), "num_fetched": outcome.num_fetched, "num_files": outcome.num_files})
    else:
        say(f"{plural(outcome.num_fetched, 'archive')} fetched, {plural(outcome.num_files, 'file')} unpacked: {folder}")
        if unpack:
            say(f"Next: {outcome.next_step}")
