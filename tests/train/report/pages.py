"""Run folders as `tgtrain run` and `tgtrain test` write them, and a parser of the report page, for the tests of the report."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tgtrain.config import load_recipe

CLASSES = ("Moving", "Still")
VOID = {"meta", "img", "source", "br", "link", "input", "hr"}


def write_run(
    folder: Path,
    *,
    recipe: str = "demo",
    overrides: tuple[str, ...] = (),
    classes: tuple[str, ...] = CLASSES,
    steps: int = 8,
    root: str = "/nowhere/data",
    digest: str = "d" * 64,
    split: str = "p50-s0-f1",
    split_digest: str = "5" * 64,
) -> Path:
    """A run folder with config.json and the metrics of the first of 24 steps, one step per epoch."""
    folder.mkdir(parents=True)
    config = load_recipe(recipe, overrides, num_classes=len(classes))
    facts = {
        "config": config.to_dict(),
        "data": {
            "root": root,
            "dataset": "folder",
            "digest": digest,
            "num_videos": 1200,
            "num_frames": 45678,
            "classes": list(classes),
            "pictures": {"320x240": 1100, "176x144": 100},
        },
        "split": {
            "name": split,
            "digest": split_digest,
            "labelled": 200,
            "unlabelled": 1000,
            "validation": 0,
            "test": 200,
            "provenance": {"strategy": "random", "percent": "20"},
        },
        "versions": {"python": "3.11.9", "torch": "2.13.0"},
        "machine": {"host": "node1", "cpu": "some CPU", "cores": 8, "device": "cpu"},
        "world_size": 1,
        "num_steps": 24,
        "steps_per_epoch": 1,
        "started": "2026-01-02T03:04:05+00:00",
    }
    (folder / "config.json").write_text(json.dumps(facts))
    if steps:
        log(folder, [record for step in range(1, steps + 1) for record in records(config.method.method, step)])
    return folder


def records(method: str, step: int) -> list[dict[str, Any]]:
    """The lines that the trainer writes at a step: values that differ by step and by term."""
    values: dict[str, Any] = {"kind": "train", "step": step, "epoch": step - 1, "learning_rate": 0.01 * step}
    terms = ["loss/total", "loss/supervised_rgb"]
    if method != "supervised":
        terms += ["loss/pseudo_rgb"]
        values |= {"train/num_selected": 4.0, "train/mask_fraction": 0.5, "train/num_correct": 3.0}
        values |= {"train/pseudo_precision": 0.75}
    if method == "ltg":
        terms += ["loss/supervised_tg", "loss/pseudo_tg", *(f"loss/align_stage{stage}" for stage in range(1, 5))]
        terms += ["loss/contrast_crossview_sameclip"]
        values["train/labelled_top1_tg"] = 0.5
    values |= {name: place + 1 + step / 8 for place, name in enumerate(terms)}
    values |= {"train/labelled_top1_rgb": 0.25, "grad_norm": 2.0, "clips_per_second": 100.0, "seconds_per_step": 0.25}
    values |= {"waiting_share": 0.125, "memory_mb": 2048.0, "num_bad": 0}
    lines = [values]
    if step % 4 == 0:
        accuracy = {"top1@1x1": 0.4 + step / 80, "top5@1x1": 1.0, "mean_class@1x1": 0.375}
        lines.append({"kind": "evaluate", "step": step, "epoch": step - 1, "part": "test", **accuracy})
    return lines


def class_records() -> list[dict[str, Any]]:
    """Pseudo-labels of two epochs: both classes begin well, then Still takes over and Moving is lost."""
    rows = [
        # class, predicted, selected, correct, true
        (4, "Moving", 8, 6, 6, 8),
        (4, "Still", 8, 2, 1, 8),
        (8, "Moving", 2, 1, 0, 2),
        (8, "Still", 6, 4, 2, 8),
    ]
    return [
        {
            **{"kind": "class", "step": step, "epoch": step // 4 - 1, "class": name, "view": "", "threshold": 0.6},
            **{"trusted": selected / predicted, "num_predicted": predicted, "num_selected": selected},
            **{"num_checked": selected, "num_correct": correct, "num_true": true},
        }
        for step, name, predicted, selected, correct, true in rows
    ]


def log(folder: Path, lines: list[dict[str, Any]], tail: str = "") -> None:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + tail)


def write_test(
    folder: Path,
    confusion: list[list[int]],
    *,
    protocol: str = "10x3",
    classes: tuple[str, ...] = CLASSES,
    step: int = 8,
    keys: list[str] | None = None,
    modality: str = "rgb",
    num_bad: int = 0,
) -> None:
    """test-PROTOCOL.json of a confusion matrix and, with keys (one a video, in the matrix's order), the predictions."""
    counts = np.array(confusion)
    right, sums = np.diag(counts), counts.sum(axis=1)
    suffix = "" if modality == "rgb" else f"-{modality}"
    result = {
        "protocol": protocol,
        "modality": modality,
        "part": "test",
        "checkpoint": f"step-{step:08d}.pt",
        "average": "logits",
        "num_bad": num_bad,
        "step": step,
        "num_videos": int(counts.sum()),
        f"top1@{protocol}": right.sum() / counts.sum(),
        f"top5@{protocol}": 1.0,
        f"mean_class@{protocol}": float(np.mean(right[sums > 0] / sums[sums > 0])),
        "per_class": [
            {
                "label": k,
                "class_name": classes[k],
                "videos": int(sums[k]),
                "accuracy": float(right[k] / sums[k]),
            }
            for k in np.flatnonzero(sums).tolist()
        ],
        "confusion": counts.tolist(),
    }
    (folder / f"test-{protocol}{suffix}.json").write_text(json.dumps(result))
    if keys is not None:
        pairs = [(t, p) for t, row in enumerate(confusion) for p, n in enumerate(row) for _ in range(n)]
        table = {"key": keys, "label": [t for t, _ in pairs], "prediction": [p for _, p in pairs]}
        pq.write_table(pa.table(table), folder / f"test-{protocol}{suffix}.parquet")


@dataclass
class Parsed(HTMLParser):
    """The parts of a page; fails on a tag that is closed wrongly and on an id that occurs twice."""

    text: list[str] = field(default_factory=list)
    images: list[dict[str, str]] = field(default_factory=list)  # JPEG pictures
    charts: list[str] = field(default_factory=list)  # SVG documents for light pages
    links: list[str] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    tags: list[str] = field(default_factory=list)
    readouts: list[dict[str, Any]] = field(default_factory=list)
    open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        assert len(values) == len(attrs), f"an attribute occurs twice: {attrs}"
        self.tags.append(tag)
        if "id" in values:
            assert values["id"] not in self.ids, f"id {values['id']} occurs twice"
            self.ids.add(values["id"])
        self.links += [values[name] for name in ("src", "href", "xlink:href", "srcset", "action") if name in values]
        if tag == "img" and values["src"].startswith("data:image/svg+xml;base64,"):
            self.charts.append(base64.b64decode(values["src"].partition(",")[2]).decode())
        elif tag == "img":
            self.images.append(values)
        if tag == "svg" and values.get("class") == "map":
            assert values["role"] == "img", values
            assert values["aria-label"], values
        if tag == "figure" and (readout := values.get("data-readout", values.get("data-map"))):
            self.readouts.append(json.loads(readout))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text.append(data)

    @property
    def words(self) -> str:
        """The visible text, white space folded."""
        return " ".join(" ".join(self.text).split())


def parse(path: Path) -> Parsed:
    page = Parsed()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    assert not page.open, f"never closed: {page.open}"
    return page


def chart_values(page: Parsed) -> dict[tuple[float, ...], list[int]]:
    """Every line of every chart: values -> steps."""
    return {tuple(line["value"]): line["step"] for chart in page.readouts if "x" in chart for line in chart["lines"]}
