"""`tgtrain info`: the settings and the progress of a run."""

from __future__ import annotations

import shutil
import sys
import textwrap
from pathlib import Path
from typing import Any

import click

from cli import completion
from cli.common import handled, print_json, quiet_threads, run_or_newest
from cli.terminal import print_styled

_STYLES = {"state": "cyan", "best": "green"}


@click.command()
@click.argument("run", required=False, type=click.Path(path_type=Path), shell_complete=completion.runs)
@click.option("--json", "as_json", is_flag=True, help="print one JSON object on stdout")
@handled
def info(run: Path | None, as_json: bool) -> None:
    """Recipe, progress, accuracy, size and cost of the model, data and split of RUN [default: the newest below ./runs].

    The data set is not needed.
    """
    quiet_threads()
    run = run_or_newest(run)
    from tgtrain.evaluate.results import read_test_metrics
    from tgtrain.run.summary import summarise

    summary = summarise(run, read_test_metrics(run))
    if as_json:
        print_json(summary)
        return
    lines = _lines(summary)
    names = max(len(name) for name, _ in lines)
    width = max(30, shutil.get_terminal_size().columns - names - 2) if sys.stdout.isatty() else sys.maxsize
    for name, text in lines:
        # Paths and numbers stay whole; a pipe gets one line for each name.
        first, *more = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]
        print_styled((f"{name:<{names}}", "bold"), (f"  {first}", _STYLES.get(name, "")))
        for line in more:
            print_styled((f"{'':<{names}}  {line}", _STYLES.get(name, "")))


def _lines(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and texts, one for each line."""
    cost, data, split, machine = (summary[name] for name in ("cost", "data", "split", "machine"))
    best = "none evaluated yet"
    if summary["best_checkpoint"]:
        best = f"{summary['best_metric']} {100 * summary['best_value']:.2f} %, {summary['best_checkpoint']}"
    tests = []
    for name, metrics in summary["tests"].items():
        names = sorted((key for key in metrics if "@" in key), key=lambda key: ("top1", "top5", "mean").index(key[:4]))
        shown = [key for key in names if not key.startswith("top5") or data["num_classes"] > 5]
        figures = "  ".join(f"{key} {100 * metrics[key]:.2f} %" for key in shown)
        tests.append((name, f"{figures}  (step {int(metrics['step'])})"))
    weights = [
        "{network}: {num_matched} of {num_tensors} tensors from {path} (sha256 {sha256:.16}), classifier {classifier}".format_map(
            row
        )
        for row in summary["weights"]
    ]
    parts = ", ".join(f"{split[part]} {part}" for part in ("labelled", "unlabelled", "validation", "test"))
    if split["without_label"]:
        parts += f" ({split['without_label']} of the unlabelled without a label)"
    return [
        ("run", summary["run"]),
        ("recipe", f"{summary['recipe']}: {summary['description']}"),
        ("state", "{state}, step {step} of {num_steps}, epoch {epoch} of {num_epochs}".format_map(summary)),
        ("checkpoints", ", ".join(summary["checkpoints"]) or "none"),
        ("best", best),
        *tests,
        (
            "model",
            "{parameters:,} parameters in training, {inference_parameters:,} at inference "
            "({gmacs_per_clip:g} GMAC a clip, {gmacs_per_video:g} a test video)".format_map(cost),
        ),
        *((label, text) for label, text in zip(["weights", *[""] * len(weights)], weights, strict=False)),
        ("data", "{dataset}, {num_videos} videos of {num_classes} classes, {root}".format_map(data)),
        ("", f"digest {data['digest'][:16]}"),
        ("split", f"{split['name']}: {parts}"),
        ("", f"digest {split['digest'][:16]}"),
        (
            "machine",
            f"{machine.get('device') or machine.get('cpu', '')}, {machine.get('cores', '?')} cores, {machine.get('host', '')}",
        ),
        ("versions", ", ".join(f"{name} {version}" for name, version in summary["versions"].items())),
    ]
