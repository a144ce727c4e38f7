"""The results of benchmarks/gpu_proof.sh in one table: steps with measured and estimated memory, and the learning runs.

    python benchmarks/gpu_proof_table.py FOLDER

Also writes them to FOLDER/results.json. The estimate is that of benchmarks/results/activations.json: activations alone, of the
recipe's own batch and size, halved for bfloat16 and divided by runtime.accumulate.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ACTIVATIONS = Path(__file__).parent / "results/activations.json"


def estimated_gib(way: dict[str, Any]) -> float:
    """Activations of the published step carried out this way."""
    recipe = json.loads(ACTIVATIONS.read_text())["results"][way["recipe"]]
    whole: float = recipe["gib_checkpointed" if way["checkpointed"] else "gib"]
    return whole / way["accumulate"] / (2 if way["precision"] == "bfloat16" else 1)


def steps(folder: Path) -> dict[str, Any]:
    """Seconds and memory of every way that was measured, finished or not."""
    files = [path for path in (folder / "steps.json", folder / "steps.json.partial") if path.exists()]
    ways = json.loads(files[0].read_text())["ways"] if files else {}
    return {
        name: {
            "seconds": way["seconds"],
            "peak_gib": round(way["peak_mb"] / 1024, 2),
            "estimated_gib": round(estimated_gib(way), 1),
        }
        for name, way in ways.items()
    }


def learning(folder: Path) -> dict[str, Any]:
    """Top-1 in percent of every network of every run that was tested."""
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("runs/*/test-*.json")):
        test = json.loads(path.read_text())
        top1 = round(100 * test[f"top1@{test['protocol']}"], 1)
        found.setdefault(path.parent.name, {})[test["modality"]] = top1
    return found


def main() -> None:
    folder = Path(sys.argv[1])
    results = {"steps": steps(folder), "learning": learning(folder)}
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    for name, row in results["steps"].items():
        figures = f"{row['seconds']:8.3f} s   peak {row['peak_gib']:6.2f} GiB"
        print(f"{name:<50} {figures}   activations of 40 + 40 at 224 px, estimated: {row['estimated_gib']:5.1f} GiB")
    for run, top1 in results["learning"].items():
        print(f"{run:<50} {', '.join(f'{network} {value} %' for network, value in top1.items())}")


if __name__ == "__main__":
    main()
