"""Processor time of a training with recipe `demo-best` against one of the whole method, in turns.

    python benchmarks/learning_cost.py --work FOLDER [--pairs 3] [--steps 150]

Both train on the rendered sample as in benchmarks/learning.py, on one thread. A step's time is that of a run of `--steps`
steps minus that of a run of 20, per step, so that starting does not count. A training of demo-best has 12 % fewer steps.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import statistics
import sys
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.learning import BEST_EPOCHS, HERE, SAMPLE, command, prepare
from manifests.machine import processor_name

FIRST_STEPS = 20


def seconds(method: str, folder: Path, run: Path, num_steps: int) -> float:
    """Processor seconds of a training that ends after so many steps."""
    shutil.rmtree(run, ignore_errors=True)
    settings = ("optimiser.epochs=30", "runtime.workers=0", "runtime.log_every=1000", "evaluate.every_epochs=0")
    given = [text for setting in settings for text in ("--set", setting)]
    recipe = HERE / f"learning/{method}.toml"
    split = ("--split", "p10-stratified-s1-f1")
    return command(
        "tgtrain", "run", folder, "--recipe", recipe, *split, "--out", run, f"--max-steps={num_steps}", *given
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of benchmarks/learning.py")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--output", type=Path, default=HERE / "results/learning_cost.json")
    given = parser.parse_args()
    folder = prepare(SAMPLE, "1", given.work, None)
    if not (folder / "splits/p10-stratified-s1-f1.parquet").exists():
        command("tgprep", "split", folder, "--percent=10", "--seed=1", "--strategy=stratified")
    steps: dict[str, list[float]] = {method: [] for method in ("full", "best")}
    for _ in range(given.pairs):
        for method, found in steps.items():
            few, many = (seconds(method, folder, given.work / "cost", count) for count in (FIRST_STEPS, given.steps))
            found.append((many - few) / (given.steps - FIRST_STEPS))
            print(method, f"{found[-1]:.4f} s a step", file=sys.stderr, flush=True)
    shutil.rmtree(given.work / "cost")
    ratios = [best / full for best, full in zip(steps["best"], steps["full"], strict=True)]
    result = {
        "what": "processor time of demo-best / that of the whole method, on the sample with 10 % labels",
        "date": datetime.date.today().isoformat(),
        "machine": {"cpu": processor_name(), "cores": len(os.sched_getaffinity(0)), "load at the end": os.getloadavg()[0]},
        "versions": {"python": platform.python_version(), "torch": version("torch")},
        "settings": {"pairs": given.pairs, "steps": [FIRST_STEPS, given.steps]},
        "seconds a step": {method: [round(each, 4) for each in found] for method, found in steps.items()},
        "of a step": {"median": round(statistics.median(ratios), 3), "pairs": [round(each, 3) for each in ratios]},
        "of a training": round(statistics.median(ratios) * BEST_EPOCHS, 3),
    }  # fmt: skip
    given.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({name: result[name] for name in ("of a step", "of a training")}))


if __name__ == "__main__":
    main()
