"""`tgprep info`: what is in a data set, in one screen."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click

from cli.common import PlaceType, handled, human_bytes, print_json


@click.command()
@click.argument("out", type=PlaceType(text=True), default="dataset")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object on stdout")
@handled
def info(out: str, as_json: bool) -> None:
    """Show what is in the data set at OUT [default: ./dataset]."""
    facts = describe(out)
    if as_json:
        print_json(facts)
    else:
        _show(facts)


def describe(out: str) -> dict[str, Any]:
    """The facts of a data set as one JSON-able object."""
    import pyarrow.compute as pc

    from manifests.store import read_manifest

    manifest = read_manifest(out)
    header, table = manifest.header, manifest.videos.arrow
    written = table.filter(pc.equal(table["status"], "written"))
    frames = written["num_frames"].to_numpy()
    per_class = Counter(written["class_name"].to_pylist())
    sizes = Counter(zip(written["width"].to_pylist(), written["height"].to_pylist(), strict=True))
    subsets: list[dict[str, int]] = []
    for fold in range(header.num_folds):
        values = Counter(
            (row[fold] or "in no list") if fold < len(row) else "" for row in written["subsets"].to_pylist()
        )
        subsets.append(dict(sorted(values.items())))
    others = table.filter(pc.not_equal(table["status"], "written"))
    reasons = Counter(zip(others["status"].to_pylist(), others["error"].to_pylist(), strict=True))
    return {
        "path": str(Path(out)) if "://" not in out else out,
        "dataset": header.dataset,
        "digest": manifest.digest,
        "format_version": header.format_version,
        "num_videos": len(manifest.videos),
        "num_written": header.num_written,
        "num_failed": header.num_failed,
        "num_skipped": header.num_skipped,
        "num_frames": int(frames.sum()) if len(frames) else 0,
        "num_shards": len(manifest.shards),
        "num_bytes": sum(shard.num_bytes for shard in manifest.shards),
        "num_classes": len(header.classes),
        "num_empty_classes": sum(name not in per_class for name in header.classes),
        "videos_per_class": _summary(list(per_class.values())),
        "frames_per_video": _summary(frames.tolist()),
        "num_shorter_than_64": int((frames < 64).sum()) if len(frames) else 0,
        "num_groups": len(set(zip(written["class_name"].to_pylist(), written["group"].to_pylist(), strict=True))),
        "picture_sizes": [{"width": w, "height": h, "videos": n} for (w, h), n in sizes.most_common(5)],
        "fps": [{"fps": fps, "videos": n} for fps, n in Counter(written["fps"].to_pylist()).most_common(5)],
        "codecs": dict(Counter(written["codec"].to_pylist()).most_common(5)),
        "num_with_note": sum(1 for note in written["note"].to_pylist() if note),
        "subsets_per_fold": subsets,
        "not_written": [{"status": s, "reason": r, "videos": n} for (s, r), n in reasons.most_common(20)],
        "gradient": {
            "stored": header.gradient.stored,
            "source": header.gradient.source,
            "space": header.gradient.space,
        },
        "settings": header.settings,
        "versions": header.versions,
        "splits": _splits(out),
    }


def _summary(values: list[int]) -> dict[str, float]:
    if not values:
        return {"min": 0, "median": 0, "mean": 0.0, "max": 0}
    ordered = sorted(values)
    return {
        "min": ordered[0],
        "median": ordered[len(ordered) // 2],
        "mean": round(sum(ordered) / len(ordered), 1),
        "max": ordered[-1],
    }


def _splits(out: str) -> list[dict[str, Any]]:
    from manifests.splits import list_splits, read_split

    described = []
    for name in list_splits(out):
        split = read_split(out, name)
        described.append(
            {
                "name": name,
                "labelled": int(sum(split.labelled)),
                "unlabelled": int(sum(split.unlabelled)),
                "validation": int(sum(split.validation)),
                "test": int(sum(split.test)),
            }
        )
    return described


def _stored_as(settings: dict[str, Any]) -> str:
    if settings.get("store") == "video":
        return f"H.264 video of CRF {settings['crf']}, a self-contained picture every {settings['gop']} frames"
    return f"JPEG quality {settings.get('quality', 'unknown')}"


def _show(facts: dict[str, Any]) -> None:
    def row(name: str, value: str) -> None:
        click.echo(f"{name:<12}{value}")

    def span(summary: dict[str, float]) -> str:
        return f"{summary['min']:g} to {summary['max']:g}, median {summary['median']:g}"

    row("data set", f"{facts['path']}  ({facts['dataset']}, digest {facts['digest'][:12]})")
    row(
        "videos",
        f"{facts['num_videos']} = {facts['num_written']} written + {facts['num_failed']} failed + {facts['num_skipped']} skipped",
    )
    row(
        "classes",
        f"{facts['num_classes']}"
        + (f", {facts['num_empty_classes']} without videos" if facts["num_empty_classes"] else "")
        + f"; videos a class {span(facts['videos_per_class'])}",
    )
    row("groups", str(facts["num_groups"]))
    row(
        "frames",
        f"{facts['num_frames']}; a video {span(facts['frames_per_video'])}; {facts['num_shorter_than_64']} videos under 64",
    )
    row("pictures", ", ".join(f"{s['width']}x{s['height']} ({s['videos']})" for s in facts["picture_sizes"]))
    row("fps", ", ".join(f"{f['fps']:.5g} ({f['videos']})" for f in facts["fps"]))
    row("codecs", ", ".join(f"{name} ({count})" for name, count in facts["codecs"].items()))
    gradient = facts["gradient"]
    row(
        "TG",
        ("stored" if gradient["stored"] else "derived while reading")
        + f", from {gradient['source']} frames in {gradient['space']}",
    )
    row(
        "shards",
        f"{facts['num_shards']}, {human_bytes(facts['num_bytes'])}, {_stored_as(facts['settings'])}",
    )
    for number, counts in enumerate(facts["subsets_per_fold"], 1):
        row(f"fold {number}", ", ".join(f"{count} {name}" for name, count in counts.items()))
    for split in facts["splits"]:
        row(
            "split",
            f"{split['name']}: {split['labelled']} labelled, {split['unlabelled']} unlabelled, {split['validation']} validation, {split['test']} test",
        )
    if not facts["splits"]:
        row("split", "none yet: tgprep split --percent 20")
    if facts["num_with_note"]:
        row("notes", f"{facts['num_with_note']} written videos carry one (column `note` of videos.parquet)")
    for item in facts["not_written"]:
        row(item["status"], f"{item['videos']} x {item['reason']}")
