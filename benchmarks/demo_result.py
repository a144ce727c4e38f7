"""The result of the demo in one line, beside chance and the committed comparison of the methods.

    python benchmarks/demo_result.py RUN

One run on 108 test videos says little: its 95 % interval is wide. What three seeds of every method reached stands in
benchmarks/results/learning.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean, stdev

from tgtrain.report.classes import interval95

RESULTS = Path(__file__).parent / "results/learning.json"
LABELS = 20  # percent, as in the demo
METHODS = ("full", "fixmatch", "supervised")
NAMES = {"rgb": "RGB", "tg": "TG", "both": "both"}


def measured(run: Path) -> str:
    """Accuracy of each network of the run with its interval, and chance."""
    tests = [json.loads(path.read_text()) for path in run.glob("test-*.json")]
    by_network = {test["modality"]: test for test in tests if test["part"] == "test"}
    texts = []
    for modality, name in NAMES.items():
        test = by_network[modality]
        top1 = test[f"top1@{test['protocol']}"]
        low, high = interval95(top1, test["num_videos"])
        texts.append(f"{name} {100 * top1:.0f} % (95 % interval {100 * low:.0f} to {100 * high:.0f})")
    chance = 100 / len(test["per_class"])
    return f"{', '.join(texts)} of {test['num_videos']} test videos; chance is {chance:.0f} %."


def committed() -> str:
    """What the comparison measured for RGB on other videos of the sample: mean and deviation over its seeds.

    At the share of labels nearest to the demo's that all methods have several seeds of.
    """
    cells = [cell for cell in json.loads(RESULTS.read_text())["cells"] if cell["data"] == "sample"]
    top1 = {
        (labels, method): [
            cell["top1"]["rgb"] for cell in cells if (cell["labels"], cell["method"]) == (labels, method)
        ]
        for labels in {cell["labels"] for cell in cells}
        for method in METHODS
    }
    complete = [labels for labels, _ in top1 if all(len(top1[labels, method]) > 1 for method in METHODS)]
    labels = min(complete, key=lambda share: (abs(share - LABELS), share))
    texts = []
    for method in METHODS:
        values = top1[labels, method]
        texts.append(f"{method} {mean(values):.1f} ± {stdev(values):.1f} % ({len(values)} seeds)")
    return "; ".join(texts) + f": RGB at {labels} % labels on other actors, from docs/results.md."


def main() -> None:
    print(f"This run: {measured(Path(sys.argv[1]))}")
    print(f"The comparison: {committed()}")


if __name__ == "__main__":
    main()
