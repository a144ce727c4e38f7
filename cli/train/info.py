"""`tgtrain info`: the settings and the progress of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.common import handled, print_json, quiet_threads, say

if TYPE_CHECKING:
    from tgtrain.run.summary import Summary


@click.command()
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="print one JSON object on stdout")
@handled
def info(run: Path | None, as_json: bool) -> None:
    """Recipe, progress, accuracy, size and cost of the model, data and split of RUN [default: the newest below ./runs].

    The data set is not needed.
    """
    quiet_threads()
    from tgtrain.evaluate.results import read_test_metrics
    from tgtrain.run.folder import newest_run
    from tgtrain.run.summary import summarise

    if run is None:
        run = newest_run()
        say(f"run {run}")
    summary = summarise(run, read_test_metrics(run))
    if as_json:
        print_json(summary.to_dict())
        return
    lines = _lines(summary)
    width = max(len(name) for name, _ in lines)
    click.echo("\n".join(f"{name:<{width}}  {text}".rstrip() for name, text in lines))


def _lines(summary: Summary) -> list[tuple[str, str]]:
    cost, data, split = summary.cost, summary.data, summary.split
    best = "none evaluated yet"
    if summary.best_checkpoint:
        best = f"{summary.best_metric} {100 * summary.best_value:.2f} %, {summary.best_checkpoint}"
    lines = [
        ("run", summary.run),
        ("recipe", f"{summary.recipe}: {summary.description}"),
        (
            "state",
            f"{summary.state}, step {summary.step} of {summary.num_steps}, epoch {summary.epoch} of {summary.num_epochs}",
        ),
        ("checkpoints", ", ".join(summary.checkpoints) or "none"),
        ("best", best),
    ]
    for name, metrics in summary.tests.items():
        names = sorted((key for key in metrics if "@" in key), key=lambda key: ("top1", "top5", "mean").index(key[:4]))
        figures = "  ".join(
            f"{key} {100 * metrics[key]:.2f} %"
            for key in names
            if not key.startswith("top5") or summary.data["num_classes"] > 5
        )
        lines.append((name, f"{figures}  (step {int(metrics['step'])})"))
    return [
        *lines,
        (
            "model",
            f"{cost.parameters:,} parameters in training, {cost.inference_parameters:,} at inference "
            f"({cost.gmacs_per_clip:g} GMAC a clip, {cost.gmacs_per_video:g} a test video)",
        ),
        ("data", f"{data['dataset']}, {data['num_videos']} videos of {data['num_classes']} classes, {data['root']}"),
        ("", f"digest {data['digest'][:16]}"),
        (
            "split",
            f"{split['name']}: {split['labelled']} labelled, {split['unlabelled']} unlabelled, "
            f"{split['validation']} validation, {split['test']} test",
        ),
        ("", f"digest {split['digest'][:16]}"),
        ("machine", _machine(summary)),
        ("versions", ", ".join(f"{name} {version}" for name, version in summary.versions.items())),
    ]


def _machine(summary: Summary) -> str:
    machine = summary.machine
    return f"{machine.get('device') or machine.get('cpu', '')}, {machine.get('cores', '?')} cores, {machine.get('host', '')}"
