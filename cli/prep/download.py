"""`tgprep download`: the public data sets."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from cli.common import EXIT_FAILURES, handled, human_bytes, print_json, say, stoppable


@click.command()
@click.argument("name", type=click.Choice(["ucf101", "hmdb51", "kinetics400-annotations"]))
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path), default=".")
@click.option("--base", metavar="URL", default="", help="Take the archives from this folder of another server.")
@click.option("--unpack/--no-unpack", "unpack", default=True, help="Unpack the archives.  [default: unpack]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
@handled
def download(name: str, folder: Path, base: str, unpack: bool, as_json: bool) -> None:
    """Fetch a public data set into DIR [default: .]: archives/, videos/ and annotations/.

    Interrupted or cut off: run the same command again, it goes on where it was. Size and sha256 are checked where they are
    published. The videos of UCF101 and HMDB51 come as .rar, which needs `unar` or `bsdtar`.

    \b
    Exit codes: 0 all well, 1 a file could not be had, 2 wrong usage or input, 130/143 interrupted.
    """
    from tgprep.obtain.download import SOURCES
    from tgprep.obtain.download import download as run
    from tgprep.obtain.fetch import DownloadError

    source = SOURCES[name]
    say(f"{name}: {source.terms}. {source.home}")
    said = time.monotonic()

    def tell(file: str, done: int, total: int) -> None:
        nonlocal said
        if done == total or time.monotonic() - said > 5:
            said = time.monotonic()
            say(
                f"{file}: {human_bytes(done)}"
                + (f" of {human_bytes(total)} ({100 * done // max(total, 1)} %)" if total >= 0 else "")
            )

    with stoppable("Interrupted. What has arrived is kept; run the same command again to continue.") as stop:
        try:
            outcome = run(name, folder, base=base, unpack_archives=unpack, stop=stop, on_progress=tell)
        except DownloadError as error:
            say(f"Error: {error}")
            sys.exit(EXIT_FAILURES)
    if as_json:
        print_json({"path": str(folder), "num_fetched": outcome.num_fetched, "num_files": outcome.num_files})
    else:
        say(f"{outcome.num_fetched} archives fetched, {outcome.num_files} files unpacked: {folder}")
        if unpack:
            say(f"Next: {outcome.next_step}")
