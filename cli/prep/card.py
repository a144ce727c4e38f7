"""`tgprep card`: describe a data set for people, for the Hugging Face hub and for programs."""

from __future__ import annotations

import click

from cli.common import PlaceType, handled, plural, print_json, say


@click.command()
@click.argument("out", type=PlaceType(text=True), default="dataset")
@click.option("--name", help="name for people  [default: that of the folder]")
@click.option("--description", help="what it is, as plain text  [default: one sentence with its counts]")
@click.option(
    "--license",
    "--licence",
    "license",
    metavar="ID|URL",
    help="licence of the footage: an identifier of the hub such as cc-by-4.0, or the URL of its text. It is never guessed.",
)
@click.option("--homepage", metavar="URL", help="page of the data set")
@click.option("--citation", metavar="TEXT", help='how to cite it, best as BibTeX: --citation "$(cat cite.bib)"')
@click.option("--creator", metavar="NAME", help="who publishes it")
@click.option("--date-published", metavar="YYYY-MM-DD", help="when it was published")
@click.option("--data-version", metavar="1.0.0", help="version of the data set")
@click.option("--force", is_flag=True, help="replace README.md and croissant.json as a whole, whoever wrote them")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object on stdout")
@handled
def card(out: str, force: bool, as_json: bool, **values: str | None) -> None:
    """Write README.md and croissant.json into the data set at OUT [default: ./dataset].

    README.md begins with the front matter of the Hugging Face hub, from which its viewer finds the shards, and says what is in the data
    set, how it was made and how it is read. croissant.json says that to programs, with the sha256 of every file.

    In a README.md of your own, your text and keys stay: the command writes the part between its two marks, and the keys that are
    missing, and replaces `size_categories` and what you give as an option. Options that you gave before need not be given again.
    """
    from tgprep.share.card import card_json, write_card
    from tgprep.share.facts import cleaned

    written = write_card(out, cleaned(values), force=force)
    for note in written.notes:
        say(f"note: {note}")
    if as_json:
        print_json({"path": out, **card_json(written)})
        return
    counts = f"{plural(written.num_videos, 'video')}, {plural(written.num_shards, 'shard')}, {plural(written.num_splits, 'split')}"
    say(f"{counts}: {' and '.join(written.changed) or 'README.md and croissant.json (unchanged)'} in {out}")
