"""What `tgprep split` does in each of its modes; the command itself parses the options."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cli.common import EXIT_FAILURES, echo, human_bytes, plural, print_json, progress_lines, say, stoppable
from cli.prep.split_page import describe, describe_import, growth_page, import_page, import_table, overlap_page, page
from manifests.files import atomic_write, is_url, parse_location
from manifests.manifest_io import read_header, read_manifest
from manifests.records import InputError
from manifests.splits.check import class_counts, compare_splits
from manifests.splits.grow import grow_split
from manifests.splits.label_split import LabelSplit, list_splits, make_split, read_split, split_place, write_split
from manifests.splits.list_import import import_lists
from manifests.splits.lists import export_list
from manifests.splits.settings import PARTS, ImportSettings, SplitSettings, kinetics_per_class
from manifests.table import Manifest
from tgprep.convert.materialise import default_folder, materialise
from tgprep.duplicates.pairs import count_by_parts, parts_of, read_pairs, superfluous
from tgprep.extract.work_folder import exclusive

Options = dict[str, Any]
WAIT_SECONDS = 5.0


def run(mode: str, out: str, as_json: bool, options: Options) -> None:
    """Do what the options say with the data set at `out`. mode: `draw`, `import` or the like."""
    modes = {
        "draw": _draw,
        "import": _import,
        "export": _export,
        "materialise": _materialise,
        "grow": _grow,
        "show": _show,
        "compare": _compare,
        "list": _list,
    }
    read_header(out)  # nothing is written if there is no data set
    place = parse_location(out)
    with contextlib.ExitStack() as stack:
        if mode in ("draw", "import", "grow") and (is_url(place) or os.access(place, os.W_OK)):
            # Splits are short: one waits for another, and does not wait for an extraction.
            stack.enter_context(exclusive(place, wait_seconds=WAIT_SECONDS))
        modes[mode](out, read_manifest(out), as_json, options)


def _print(as_json: bool, facts: dict[str, Any], text: str, kept: str = "") -> None:
    if as_json:
        print_json(facts)
    else:
        echo(text, kept=kept)


def _draw(out: str, manifest: Manifest, as_json: bool, options: Options) -> None:
    percent, per_class, strategy = options["percent"], options["per_class"], options["strategy"]
    if strategy == "per-class" and percent is not None and per_class is None:
        per_class, percent = kinetics_per_class(manifest.header.dataset, percent), None
        say(
            f"per-class, --percent {options['percent']:g}: {plural(per_class, 'video')} of every class, as the published lists"
        )
    # Options without a default of their own: what is not given follows from the others.
    chosen = {"strategy": strategy or ("per-class" if per_class is not None else None), "pool": options["pool"]}
    same = ("by_group", "nested", "fold", "seed", "unlabelled", "hold_out_percent", "test_percent", "name")
    settings = SplitSettings(
        percent=percent,
        per_class=per_class,
        **{name: options[name] for name in same},
        **{name: value for name, value in chosen.items() if value is not None},
    )
    dropped: set[str] = set()
    if options["drop_duplicates"]:
        if (pairs := read_pairs(manifest)) is None:
            raise InputError(
                f"--drop-duplicates: near-copies were not looked for in this state of {out}. First: tgprep check {out} --duplicates"
            )
        dropped = superfluous(manifest, pairs)
    new = make_split(manifest, settings, dropped)
    if percent is not None and percent < 1:
        say(
            f"note: --percent {percent:g} is {percent:g} %, not a share of 1. Did you mean --percent {100 * percent:g}?"
        )
    if per_class is not None:
        _say_scarce(new, manifest, per_class)
    _write(out, manifest, new, options["overwrite"], as_json)


def _say_scarce(split: LabelSplit, manifest: Manifest, per_class: int) -> None:
    """Name the classes that have fewer train videos than were to be labelled."""
    counts = class_counts(split, "labelled", len(manifest.header.classes))
    scarce = [number for number, count in enumerate(counts) if 0 < count < per_class]
    if scarce:
        which = (
            "every class has"
            if len(scarce) == int((counts > 0).sum())
            else f"{plural(len(scarce), 'class', 'classes')} have"
        )
        most = max(int(counts[number]) for number in scarce)
        say(f"note: --per-class {per_class}: {which} fewer train videos (at most {most}), all of which are labelled")


def _import(out: str, manifest: Manifest, as_json: bool, options: Options) -> None:
    files = {"labelled": options["import_file"]}
    files |= {part: file for part in PARTS[1:] if (file := options[f"import_{part}"]) is not None}
    settings = ImportSettings(**{name: options[name] for name in ("labels", "unlabelled", "pool", "fold", "name")})
    imported, report = import_lists(manifest, files, settings)
    if options["report"] is not None:
        with atomic_write(options["report"]) as file:
            file.write(import_table(report).encode())
        say(f"report: {options['report']}")
    facts = {**describe_import(report), "labels": settings.labels}
    if not as_json:
        echo(import_page(facts) + "\n", kept="the provenance of the split")
    _write(out, manifest, imported, options["overwrite"], as_json, {"import": facts})


def _grow(out: str, manifest: Manifest, as_json: bool, options: Options) -> None:
    parent = read_split(out, options["parent"])
    grown, growth = grow_split(manifest, parent, options["grow"], options["labels"], options["name"])
    facts = asdict(growth)
    if not as_json:
        echo(growth_page(facts) + "\n", kept="the provenance of the split")
    _write(out, manifest, grown, options["overwrite"], as_json, {"grow": facts})


def _write(
    out: str, manifest: Manifest, new: LabelSplit, overwrite: bool, as_json: bool, more: dict[str, Any] | None = None
) -> None:
    existed = new.name in list_splits(out)
    changed = write_split(out, new, overwrite=overwrite)
    state = ("replaced" if existed else "written") if changed else "unchanged"
    path = split_place(out, new.name)
    facts = {
        **describe(new, manifest),
        "path": path,
        "state": state,
        "duplicates": _duplicates(manifest, new),
        **(more or {}),
    }
    _print(as_json, facts, page(facts), kept=str(path))
    if facts["num_without_label"] and facts["duplicates"] is None:
        say(f"the videos without a label were not compared with the test videos: tgprep check {out} --duplicates")
    elif crossing := [
        f"{names} {count}" for names, count in (facts["duplicates"] or {}).items() if len(set(names.split(", "))) > 1
    ]:
        say(f"near-copies in two parts: {'; '.join(crossing)} (--drop-duplicates leaves those without a label out)")
    if dropped := new.provenance.get("dropped_duplicates"):
        say(f"left out as near-copies of others: {dropped} of the videos without a label")
    say(f"{state}: {path}")


def _duplicates(manifest: Manifest, split: LabelSplit) -> dict[str, int] | None:
    """The near-copies among the videos of a split, by part; None if they were not looked for."""
    pairs, parts = read_pairs(manifest), parts_of(manifest, split)
    return (
        None if pairs is None else count_by_parts((p for p in pairs if p.first in parts and p.second in parts), parts)
    )


def _export(out: str, manifest: Manifest, as_json: bool, options: Options) -> None:
    chosen = read_split(out, options["name"] or None)
    text = export_list(chosen, manifest, options["export"], options["part"])
    count = text.count("\n") - (options["export"] == "csv")
    what = f"{options['part']} video"
    summary = f"{plural(count, what)} of split {chosen.name}"
    if not options["output"]:
        if as_json:
            raise InputError("--json with --export needs --output FILE: the list itself goes to stdout.")
        echo(text, end="", exact=True)
        say(summary)
        return
    target, content = Path(options["output"]), text.encode()
    write_output(target, content, options["overwrite"])
    say(f"{summary} in {target}")
    if as_json:
        facts = {"name": chosen.name, "part": options["part"], "form": options["export"]}
        print_json({**facts, "num_videos": count, "path": str(target)})


def write_output(target: Path, content: bytes, overwrite: bool) -> None:
    """Write the file of --output. One with this content keeps its time of change; InputError for another without `overwrite`."""
    if target.is_dir():
        raise InputError(f"--output {target} is a folder. Name a file.")
    if not target.parent.is_dir():
        raise InputError(f"--output {target}: the folder {target.parent} does not exist.")
    if target.exists() and target.read_bytes() == content:
        return
    if target.exists() and not overwrite:
        raise InputError(f"--output {target} exists with other content. Give another name, or --overwrite.")
    with atomic_write(target) as file:
        file.write(content)


def _materialise(out: str, manifest: Manifest, as_json: bool, options: Options) -> None:
    chosen = read_split(out, options["materialise"])
    folder = options["output"] or default_folder(out, chosen.name)
    with stoppable("Interrupted. Finished shards are kept; run the same command again to continue.") as stop:
        result = materialise(manifest, chosen, folder, stop=stop, on_progress=progress_lines(of_bytes=True))
    if as_json:
        print_json({"name": chosen.name, **asdict(result), "folder": str(result.folder)})
        return
    for part in result.parts:
        last = part.shards[-1].removesuffix(".tar").rpartition("-")[2]
        shards = part.shards[0] if len(part.shards) == 1 else f"{part.part}-{{000000..{last}}}.tar"
        echo(
            f"{part.part:<12}{part.num_videos:>9,} videos{human_bytes(part.num_bytes):>10}   {shards}",
            kept=str(result.folder),
        )
    if result.num_relabelled:
        say(
            f"{plural(result.num_relabelled, 'sample carries', 'samples carry')} another label than the class folder's (listed in split.json)"
        )
    kept = f" ({result.num_kept} of {plural(result.num_shards, 'shard')} existed)" if result.num_kept else ""
    say(f"split {chosen.name} as plain shards{kept}: {result.folder}")


def _show(out: str, manifest: Manifest, as_json: bool, options: Options) -> None:
    chosen = read_split(out, options["show"])
    facts = {**describe(chosen, manifest), "path": split_place(out, chosen.name)}
    _print(as_json, facts, page(facts))
    if any(problem["level"] == "error" for problem in facts["problems"]):
        sys.exit(EXIT_FAILURES)


def _compare(out: str, manifest: Manifest, as_json: bool, options: Options) -> None:
    first, second = (read_split(out, name) for name in options["compare"])
    overlaps = [asdict(overlap) for overlap in compare_splits(first, second)]
    facts = {"first": first.name, "second": second.name, "parts": overlaps}
    _print(as_json, facts, overlap_page(first.name, second.name, overlaps))


def _list(out: str, manifest: Manifest, as_json: bool, options: Options) -> None:
    rows: list[dict[str, Any]] = []
    for name in list_splits(out):
        chosen = read_split(out, name)
        rows.append({"name": name, **{part: int(chosen.part(part).sum()) for part in PARTS}})
    if not rows:
        raise InputError(f"{out} has no split yet. Make one: `tgprep split {out} --percent 20` (`--help` for more).")
    width = max(20, *(len(row["name"]) + 2 for row in rows))
    lines = [f"{'split, newest first':<{width}}" + "".join(f"{part:>12}" for part in PARTS)]
    lines += [f"{row['name']:<{width}}" + "".join(f"{row[part]:>12,}" for part in PARTS) for row in rows]
    _print(as_json, {"path": out, "splits": rows}, "\n".join(lines))
