"""Write the card of a data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from manifests.card import CARD_NAME, PLAIN_TEXT
from manifests.console import visible
from manifests.files import Location, atomic_write, below, is_url, parse_location, read_bytes
from manifests.manifest_io import read_header, read_manifest
from manifests.records import InputError
from manifests.table import Manifest
from tgprep.extract.work_folder import exclusive
from tgprep.share import text
from tgprep.share.croissant import CROISSANT_NAME, croissant_bytes, earlier_facts
from tgprep.share.facts import Facts, is_web_address, sound
from tgprep.share.page import DEFAULT_DESCRIPTION, default_description, page
from tgprep.share.readme import Readme, parse_readme, set_front_matter
from tgprep.share.tables import BEGIN, END, MAX_CARD_BYTES, state_of, table_files
from tgprep.view.contents import describe_manifest

WAIT_SECONDS = 5.0
_TASK = "video-classification"
_TAGS = ("action-recognition", "semi-supervised-learning", "temporal-gradient", "video", "webdataset")
_NO_LICENSE = "no licence is stated: that of the footage is its owner's to give. Ask the owner, then run this command with --license"
_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)


@dataclass(frozen=True, slots=True)
class Card:
    """What was written."""

    facts: Facts
    state: str  # digest of the tables that the card describes
    num_videos: int
    num_shards: int
    num_splits: int
    changed: tuple[str, ...]  # names of the files that are not as they were
    notes: tuple[str, ...]


def write_card(root: str, facts: Facts, *, force: bool = False) -> Card:
    """Write README.md and croissant.json into the data set at `root`.

    facts: what the owner says; what is not given stays as an earlier card, or the front matter of README.md, has it. Text of others in
    README.md stays, and a croissant.json of others is refused, unless `force` replaces both.
    InputError if a file is in the way, or another process holds the data set.
    """
    read_header(root)  # nothing is written if there is no data set
    out = parse_location(root)
    with exclusive(out, wait_seconds=WAIT_SECONDS):
        before = {name: _content(out, name, force) for name in (CARD_NAME, CROISSANT_NAME)}
        manifest, tables = read_manifest(root), table_files(root)
        place = str(below(out, CARD_NAME))
        readme = Readme(place) if force else parse_readme(before[CARD_NAME], place)
        given = facts.given()
        earlier = {} if force else earlier_facts(out)
        if DEFAULT_DESCRIPTION.fullmatch(earlier.get("description", "")):
            del earlier["description"]
        if readme.has("license"):  # that of its owner counts, also in a form that is not read here
            earlier.pop("license", None)
        facts = Facts(**_defaults(manifest, out) | earlier | _of_front_matter(readme) | given)
        notes = set_front_matter(readme, _front_matter(facts, manifest), _replaced(given))
        state = state_of(tables)
        marked = f"{BEGIN} {state}. From here to the end mark `tgprep card` writes anew; text of your own goes above or below. -->"
        contents = describe_manifest(manifest)
        readme.put_section(f"{marked}\n{page(contents, manifest, facts, readme)}\n{END}", PLAIN_TEXT)
        # README.md, which names the state, is written last: if it is up to date, both are.
        after = {CROISSANT_NAME: croissant_bytes(manifest, facts, tables), CARD_NAME: readme.text().encode()}
        for name, content in after.items():
            if content != before[name]:
                with atomic_write(below(out, name)) as file:
                    file.write(content)
    if not facts.license and not readme.has("license"):
        notes.append(_NO_LICENSE)
    changed = tuple(name for name in (CARD_NAME, CROISSANT_NAME) if after[name] != before[name])
    return Card(facts, state, len(manifest.videos), len(manifest.shards), len(contents.splits), changed, tuple(notes))


def _content(out: Location, name: str, force: bool) -> bytes:
    """The bytes of a file, none without one. InputError for a link, unless `force`: what it leads to would be published."""
    place = below(out, name)
    try:
        if isinstance(place, Path) and place.is_symlink():
            raise InputError(f"{place} is a link. Put the file in its place, or replace the link with --force.")
        return read_bytes(place, MAX_CARD_BYTES)
    except FileNotFoundError:
        return b""
    except (InputError, OSError):
        if force:
            return b""
        raise


def _defaults(manifest: Manifest, out: Location) -> dict[str, str]:
    """Facts that follow from the data set. It may be a part of a known one, or have its form alone: the name is that of the folder."""
    folder = str(out).rstrip("/").rpartition("/")[2] if is_url(out) else Path(out).resolve().name
    return sound({"name": visible(folder), "description": default_description(manifest)})


def _of_front_matter(readme: Readme) -> dict[str, str]:
    """Facts that the owner wrote into the front matter, perhaps on the hub's page."""
    found = {"name": readme.scalar("pretty_name"), "license": readme.scalar("license")}
    if found["license"] == "other":
        link = readme.scalar("license_link")
        found["license"] = link if is_web_address(link) else ""
    return sound(found)


def _front_matter(facts: Facts, manifest: Manifest) -> dict[str, str]:
    """Our keys of the hub's front matter, each with its lines."""
    license_lines = {"license": "", "license_name": "", "license_link": ""}
    if is_web_address(facts.license):
        license_lines = {
            "license": "license: other\n",
            "license_name": "license_name: other\n",
            "license_link": f"license_link: {text.yaml(facts.license)}\n",
        }
    elif facts.license:
        license_lines["license"] = f"license: {text.yaml(facts.license)}\n"
    num_written = manifest.header.num_written
    size = next((name for limit, name in _SIZES if num_written < limit), "10M<n<100M")
    return {
        "pretty_name": f"pretty_name: {text.yaml(facts.name)}\n",
        **license_lines,
        "task_categories": f"task_categories:\n- {_TASK}\n",
        "tags": "tags:\n" + "".join(f"- {tag}\n" for tag in _TAGS),
        "size_categories": f"size_categories:\n- {size}\n",
        "configs": "configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: shard-*.tar\n",
    }


def _replaced(given: Collection[str]) -> set[str]:
    """Keys of the front matter that are set even if they are there: those of options, and what follows from the data alone."""
    keys = {"size_categories"}
    if "name" in given:
        keys.add("pretty_name")
    if "license" in given:
        keys |= {"license", "license_name", "license_link"}
    return keys


def card_json(card: Card) -> dict[str, object]:
    """The object that `tgprep card --json` prints."""
    return dataclasses.asdict(card)
