"""What `tgprep targets` does in each of its modes; the command itself parses the options."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import os
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cli.common import echo, plural, print_json, say
from cli.prep.split_modes import WAIT_SECONDS, write_output
from manifests.files import is_url, parse_location
from manifests.manifest_io import read_header, read_manifest
from manifests.parquet import sealed_table_bytes
from manifests.records import InputError
from manifests.splits.label_split import LabelSplit, list_splits, read_split
from manifests.splits.settings import NAME_RULE, is_split_name
from manifests.table import Manifest
from manifests.targets.import_targets import TargetSettings, import_targets
from manifests.targets.measure import Unsure, compare, least_sure, measure_parts
from manifests.targets.origins import leaks, runs_of
from manifests.targets.target_file import (
    Targets,
    list_targets,
    read_targets,
    target_table,
    targets_digest,
    targets_place,
    write_targets,
)
from tgprep.extract.work_folder import exclusive

Options = dict[str, Any]
_SHOWN_UNSURE = 50
_LOOKS_LIKE_LABELS = 0.995


def run(mode: str, out: str, as_json: bool, options: Options) -> None:
    """Do what the options say with the data set at `out`. mode: `import`, `export`, `show`, `compare` or `list`."""
    modes = {"import": _import, "export": _export, "show": _show, "compare": _compare, "list": _list}
    read_header(out)  # nothing is written if there is no data set
    place = parse_location(out)
    with contextlib.ExitStack() as stack:
        if mode == "import" and (is_url(place) or os.access(place, os.W_OK)):
            stack.enter_context(exclusive(place, wait_seconds=WAIT_SECONDS))
        modes[mode](out, read_manifest(out), as_json, options)


def _import(out: str, manifest: Manifest, as_json: bool, options: Options) -> None:
    files: Sequence[Path] = options["import_files"]
    name = options["name"] or re.sub(r"[^A-Za-z0-9._-]", "-", files[0].stem).lstrip("._-")[:80]
    if not is_split_name(name):
        raise InputError(f"--name {name!r}: {NAME_RULE}.")
    if options["split"] is not None:
        read_split(out, options["split"])  # refused before anything is written
    settings = TargetSettings(
        name=name, scores=options["scores"], temperature=options["temperature"], skip_unknown=options["skip_unknown"]
    )
    made = import_targets(manifest, files, settings)
    existed = made.name in list_targets(out)
    changed = write_targets(out, made, overwrite=options["overwrite"])
    state = ("replaced" if existed else "written") if changed else "unchanged"
    split = _split(out, options["split"], made)
    facts = {**_describe(out, made, manifest, split), "path": targets_place(out, made.name), "state": state}
    _print(as_json, facts, _page(facts))
    say(f"{state}: {facts['path']}")


def _export(out: str, manifest: Manifest, as_json: bool, options: Options) -> None:
    chosen = read_targets(out, options["export"], manifest.header.classes)
    target: Path | None = options["output"]
    if target is None or target.suffix.lower() == ".csv":
        text = io.StringIO(newline="")
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["key", *chosen.classes])
        for key, values in zip(chosen.key, chosen.probabilities, strict=True):
            rows.writerow([key, *(format(value, ".9g") for value in values.tolist())])  # 9 digits give the same float32
        if target is None:
            if as_json:
                raise InputError("--json with --export needs --output FILE: the table itself goes to stdout.")
            echo(text.getvalue(), end="", exact=True)
            return
        content = text.getvalue().encode()
    else:
        content = sealed_table_bytes(target_table(chosen))
    write_output(target, content, options["overwrite"])
    say(f"targets {chosen.name} of {plural(len(chosen), 'video')} in {target}")
    if as_json:
        print_json({"name": chosen.name, "num_videos": len(chosen), "path": str(target)})


def _show(out: str, manifest: Manifest, as_json: bool, options: Options) -> None:
    most = options["least_sure"]
    if most is None and (given := [option for option in ("per_class", "output") if options[option]]):
        raise InputError(f"--{given[0].replace('_', '-')}: give --least-sure N too.")
    chosen = read_targets(out, options["show"], manifest.header.classes)
    split = _split(out, options["split"], chosen)
    facts = {**_describe(out, chosen, manifest, split), "path": targets_place(out, chosen.name)}
    if most is None:
        _print(as_json, facts, _page(facts))
        return
    found = least_sure(chosen, split, most, options["by"], options["per_class"])
    of = f"the unlabelled videos of split {split.name}" if split else "all videos with targets (there is no split yet)"
    if not found:
        raise InputError(f"Targets {chosen.name} name none of {of}.")
    if options["output"] is not None:
        write_output(options["output"], _list_file(options["output"], found), options["overwrite"])
    listed = {"name": chosen.name, "split": split.name if split else None, "by": options["by"]}
    _print(as_json, {**listed, "videos": [asdict(each) for each in found]}, _unsure_page(found))
    say(
        f"{len(found)} of {of}, the least sure first by {options['by']}"
        + (f": {options['output']}" if options["output"] else "")
    )


def _list_file(target: Path, found: Sequence[Unsure]) -> bytes:
    """Keys, one a line; a csv also says what the targets are. Both are lists for `split --grow` and `preview --keys @FILE`."""
    if target.suffix.lower() != ".csv":
        return "".join(f"{each.key}\n" for each in found).encode()
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["key", "predicted", "confidence", "entropy", "margin"])
    rows.writerows((e.key, e.predicted, f"{e.confidence:.4f}", f"{e.entropy:.4f}", f"{e.margin:.4f}") for e in found)
    return text.getvalue().encode()


def _compare(out: str, manifest: Manifest, as_json: bool, options: Options) -> None:
    first, second = (read_targets(out, name, manifest.header.classes) for name in options["compare"])
    facts = asdict(compare(first, second, manifest))
    lines = [
        f"{'':<28}{first.name:>14}{second.name:>14}",
        f"{'videos':<28}{facts['num_first']:>14,}{facts['num_second']:>14,}",
        f"{'agree with known labels':<28}{_percent(facts['agreement_first']):>14}{_percent(facts['agreement_second']):>14}",
        "",
        f"{plural(facts['num_shared'], 'video is', 'videos are')} in both, {facts['num_known']:,} of them with a known label.",
        f"Same most likely class: {_percent(facts['same_class'])}. Mean distance (0 equal, 1 disjoint): {facts['mean_distance']:.3f}.",
    ]
    _print(as_json, {"first": first.name, "second": second.name, **_finite(facts)}, "\n".join(lines))


def _list(out: str, manifest: Manifest, as_json: bool, options: Options) -> None:
    rows: list[dict[str, Any]] = []
    for name in list_targets(out):
        chosen = read_targets(out, name, manifest.header.classes)
        rows.append(
            {"name": name, "num_videos": len(chosen), "digest": targets_digest(chosen), **_of_all(chosen, manifest)}
        )
    if not rows:
        raise InputError(
            f"{out} has no targets yet. `tgtrain test --part unlabelled --predictions FILE` scores the videos, and "
            f"`tgprep targets {out} --import FILE --name NAME` makes targets of the scores."
        )
    width = max(24, *(len(row["name"]) + 2 for row in rows))
    lines = [f"{'targets, newest first':<{width}}{'videos':>10}{'entropy':>10}{'agreement':>12}"]
    lines += [
        f"{row['name']:<{width}}{row['num_videos']:>10,}{row['entropy']:>10.3f}{_percent(row['agreement']):>12}"
        for row in rows
    ]
    _print(as_json, {"path": out, "targets": [_finite(row) for row in rows]}, "\n".join(lines))


def _of_all(chosen: Targets, manifest: Manifest) -> dict[str, float]:
    part = measure_parts(chosen, manifest, None)[0]
    return {"entropy": part.mean_entropy, "agreement": part.agreement}


def _split(out: str, name: str | None, chosen: Targets) -> LabelSplit | None:
    """The named split; else that of the first run that the targets come from, or the newest. None if there is none."""
    existing = list_splits(out)
    if name is None:
        of_runs = (run.split for run in runs_of(chosen) if run.split in existing)
        name = next(of_runs, None)
    return read_split(out, name) if name is not None or existing else None


def _describe(out: str, chosen: Targets, manifest: Manifest, split: LabelSplit | None) -> dict[str, Any]:
    errors, doubts = leaks(out, chosen, split) if split else ([], [])
    return {
        "name": chosen.name,
        "digest": targets_digest(chosen),
        "num_classes": len(chosen.classes),
        "split": split.name if split else None,
        "parts": [_finite(asdict(part)) for part in measure_parts(chosen, manifest, split)],
        "leaks": errors,
        "doubts": doubts,
        "provenance": chosen.provenance,
    }


def _page(facts: dict[str, Any]) -> str:
    most = math.log(max(facts["num_classes"], 2))
    lines = [
        f"targets {facts['name']}  ({plural(facts['num_classes'], 'class', 'classes')}, digest {facts['digest'][:12]})",
        "",
    ]
    lines.append(
        f"{'part':<12}{'videos':>10}{'targets':>10}{'entropy':>10}{'of most':>9}{'highest':>9}{'agreement':>22}"
    )
    for part in facts["parts"]:
        lines.append(f"{part['part']:<12}{part['num_videos']:>10,}{part['num_targets']:>10,}" + _figures(part, most))
    lines += [
        "",
        *(f"{name}: {text[:400]}" for name, text in facts["provenance"].items() if name.startswith(("file", "num"))),
    ]
    held = sum(part["num_targets"] for part in facts["parts"] if part["part"] in ("validation", "test"))
    if facts["split"]:
        lines.append(f"Parts are those of split {facts['split']}.")
    if held:
        lines.append(f"{held:,} targets are of validation and test videos: no run with this split learns from them.")
    lines += [f"{word}: {text}" for word, level in (("leak", "leaks"), ("note", "doubts")) for text in facts[level]]
    everything = facts["parts"][0]
    if everything["num_known"] and everything["agreement"] >= _LOOKS_LIKE_LABELS and not everything["mean_entropy"]:
        lines.append(
            "warning: these targets are one class a video, and nearly all are the labels of the data set. If they are its labels, "
            "a run with them is a supervised one."
        )
    return "\n".join(lines)


def _figures(part: dict[str, Any], most: float) -> str:
    if not part["num_targets"]:
        return f"{'-':>10}{'-':>9}{'-':>9}{'-':>22}"
    agreement = f"{_percent(part['agreement'])} of {part['num_known']:,}" if part["num_known"] else "no known label"
    share = 100 * part["mean_entropy"] / most
    return f"{part['mean_entropy']:>10.3f}{share:>7.1f} %{part['mean_confidence']:>9.3f}{agreement:>22}"


def _unsure_page(found: Sequence[Unsure]) -> str:
    width = max(len(each.key) for each in found[:_SHOWN_UNSURE]) + 2
    lines = [f"{'video':<{width}}{'entropy':>9}{'margin':>9}{'highest':>9}  predicted"]
    for each in found[:_SHOWN_UNSURE]:
        lines.append(
            f"{each.key:<{width}}{each.entropy:>9.3f}{each.margin:>9.3f}{each.confidence:>9.3f}  {each.predicted}"
        )
    if (more := len(found) - _SHOWN_UNSURE) > 0:
        lines.append(f"... {more} more (--output FILE or --json lists them)")
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "-" if share is None or math.isnan(share) else f"{100 * share:.1f} %"


def _finite(facts: dict[str, Any]) -> dict[str, Any]:
    """With null in place of NaN, which is no JSON."""
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in facts.items()}


def _print(as_json: bool, facts: dict[str, Any], text: str) -> None:
    if as_json:
        print_json(facts)
    else:
        echo(text, kept=facts.get("path", ""))
