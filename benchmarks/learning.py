"""Does semi-supervised training help? Every method, share of labels and seed on four small data sets, into one table.

    python benchmarks/learning.py --work FOLDER [--shared FOLDER] [--data NAME]... [--method NAME]... [--jobs N] [--minutes M]

Data sets: the rendered sample (a seed that no setting was chosen on), Weizmann (one person left out, nine folds), the gestures
(cut by person) and three classes of UCF101 (official fold 1); the last three need --shared with the real clips. Every run is
`tgtrain run` and `tgtrain test` of a recipe in benchmarks/learning/, on one thread. A cell that stands in the results is not run
again, and a killed run resumes, so the script can be called until all is there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from manifests.files import atomic_write
from manifests.machine import processor_name

HERE = Path(__file__).parent
OUTPUT = HERE / "results/learning.json"
BIN = Path(sys.executable).parent
SEEDS = (1, 2, 3)
ALL_LABELS = 100
BEST_EPOCHS = 0.88  # of those of other methods: the wider networks of the best recipe may cost a fifth more, all in all
MAIN_METHODS = ("supervised", "supervised-tg", "fixmatch", "full")
OTHER_METHODS = ("align-only", "contrast-only", "mvpl", "uda")
BEYOND_METHODS = ("best", "ema", "freematch", "targets")  # past the paper
METHODS = (*MAIN_METHODS, *OTHER_METHODS, *BEYOND_METHODS)


@dataclass(frozen=True)
class DataSet:
    """One data set of the comparison. A fold is a data set of its own on disk."""

    name: str
    folds: tuple[str, ...]
    epochs: int  # that make about 600 to 1,400 steps
    labels: tuple[int, ...] = (
        10,
        20,
        5,
    )  # percent of the training videos, one of every class at least, in the order of runs
    settings: tuple[str, ...] = ()
    group_is_person: bool = False  # the same group in every class; otherwise groups belong to one class


SAMPLE = DataSet("sample", ("1",), epochs=30)
WEIZMANN = DataSet(
    "weizmann", tuple(f"g{number:02d}" for number in range(1, 10)), epochs=86, labels=(10, 20), group_is_person=True
)
UCF = DataSet("ucf101-3", ("1",), epochs=67)
GESTURES = DataSet(
    "gestures",
    ("1",),
    epochs=60,
    labels=(20,),
    # At 48 pixels and interval 2 they stay at chance: a clip must span a gesture and show hands.
    settings=("data.flip=false", "data.interval=3", "data.size=64", "data.test_size=64"),
    group_is_person=True,
)
DATA_SETS = {data.name: data for data in (SAMPLE, WEIZMANN, UCF, GESTURES)}


@dataclass(frozen=True, order=True)
class Cell:
    """One training."""

    data: str
    fold: str
    method: str
    labels: int  # percent
    seed: int  # of the draw of labels and of the training

    @property
    def name(self) -> str:
        return f"{self.method}_p{self.labels}-s{self.seed}"


def cells() -> Iterator[Cell]:
    """Every cell, those that answer the main question first."""
    for stage in range(5):
        for seed, data in itertools.product(SEEDS, DATA_SETS.values()):
            labels, methods = [
                (data.labels[:1], MAIN_METHODS),
                ((ALL_LABELS,), ("full",)),
                (data.labels[1:], MAIN_METHODS),
                (data.labels[:1], BEYOND_METHODS),
                (data.labels, OTHER_METHODS),
            ][stage]
            for share, fold, method in itertools.product(labels, data.folds, methods):
                yield Cell(data.name, fold, method, share, seed)


def prepare(data: DataSet, fold: str, work: Path, shared: Path | None) -> Path:
    """Extract a fold of a data set, unless that was done before, and return its folder."""
    out = work / data.name / f"fold-{fold}"
    if not (out / "videos.parquet").exists():
        videos, lists = work / data.name / "videos", work / data.name / f"lists-{fold}"
        if data is SAMPLE:
            size = (
                "--num-classes=6",
                "--num-groups=128",
                "--clips-per-group=1",
                "--width=80",
                "--height=60",
                "--seed=2026",
            )
            command("tgprep", "sample", videos, *size, "--annotations", lists)
        else:
            assert shared is not None
            videos, lists = real_clips(data, fold, shared, lists)
        command("tgprep", "extract", videos, out, "--dataset=ucf101", "--annotations", lists, "--classes=present")
    return out


def real_clips(data: DataSet, fold: str, shared: Path, lists: Path) -> tuple[Path, Path]:
    """The folders of videos and lists; Weizmann's lists are written, since its protocol leaves one person out."""
    if data is UCF:
        return shared / "ucf101_3class/UCF-101", shared / "annotations/ucf101"
    name = {"gestures": "bodygesture15", "weizmann": "weizmann10"}[data.name]
    videos, given = shared / "actions" / name, shared / "actions/annotations" / name
    if data is GESTURES:
        return videos, given
    lists.mkdir(parents=True, exist_ok=True)
    (lists / "classInd.txt").write_bytes((given / "classInd.txt").read_bytes())
    classes = {line.split()[1]: line.split()[0] for line in (given / "classInd.txt").read_text().splitlines()}
    paths = sorted(path.relative_to(videos) for path in videos.glob("*/*.avi"))
    test = [path for path in paths if f"_{fold}_" in path.name]
    (lists / "testlist01.txt").write_text("".join(f"{path}\n" for path in test))
    train = [f"{path} {classes[path.parts[0]]}\n" for path in paths if path not in test]
    (lists / "trainlist01.txt").write_text("".join(train))
    return videos, lists


def command(program: str, *arguments: str | Path) -> float:
    """Run a command of this project on one thread and return the processor seconds that it took."""
    process = subprocess.Popen(
        [BIN / program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{program} {' '.join(map(str, arguments))}\n{output[-2000:]}")
    return usage.ru_utime + usage.ru_stime


def train(cell: Cell, folder: Path, work: Path) -> dict[str, Any]:
    """Train and test one cell."""
    data = DATA_SETS[cell.data]
    drawn = "" if cell.labels == ALL_LABELS else "-stratified"
    split = f"p{cell.labels}{drawn}-s{cell.seed}-f1"
    if not (folder / f"splits/{split}.parquet").exists():
        strategy = ("--strategy=stratified",) if drawn else ()
        command("tgprep", "split", folder, f"--percent={cell.labels}", f"--seed={cell.seed}", *strategy)
    run = work / data.name / "runs" / f"{cell.fold}-{cell.name}"
    epochs = round(BEST_EPOCHS * data.epochs) if cell.method == "best" else data.epochs
    settings = (f"optimiser.epochs={epochs}", f"runtime.seed={cell.seed}", *data.settings)
    settings += ("runtime.workers=0", "runtime.log_every=100", "evaluate.every_epochs=0")
    if cell.method == "targets":
        settings += (f"method.targets={targets_of_first_run(cell, folder, run.parent)}",)
    recipe = HERE / f"learning/{cell.method}.toml"
    given = [text for setting in settings for text in ("--set", setting)]
    seconds = command("tgtrain", "run", folder, "--recipe", recipe, "--split", split, "--out", run, *given)
    both = ("--modality=both",) if cell.method == "mvpl" else ()
    command("tgtrain", "test", run, "--device=cpu", *both)
    return {**asdict(cell), "cpu_minutes": round(seconds / 60, 2), "processor": processor_name(), **results(run)}


def targets_of_first_run(cell: Cell, folder: Path, runs: Path) -> str:
    """Let the run of the whole method, which must be there, score the unlabelled videos; the name of the soft targets."""
    first = f"{cell.fold}-{replace(cell, method='full').name}"
    scores = runs / f"{first}.parquet"
    command(
        "tgtrain",
        "test",
        runs / first,
        "--device=cpu",
        "--part=unlabelled",
        "--modality=both",
        f"--predictions={scores}",
    )
    command("tgprep", "targets", folder, f"--import={scores}", f"--name={first}")
    return first


def results(run: Path) -> dict[str, Any]:
    """Accuracy of every network of a run in percent, and what it predicted for each test video, in the order of the keys."""
    found: dict[str, Any] = {"top1": {}, "predicted": {}}
    for path in sorted(run.glob("test-*.json")):
        test = json.loads(path.read_text())
        rows = sorted(pq.read_table(path.with_suffix(".parquet")).to_pylist(), key=lambda row: row["key"])
        found["top1"][test["modality"]] = round(100 * test[f"top1@{test['protocol']}"], 2)
        found["predicted"][test["modality"]] = [row["prediction"] for row in rows]
        found |= {"steps": test["step"], "protocol": test["protocol"]}
    return found


def test_videos(data: DataSet, folder: Path) -> dict[str, list[Any]]:
    """Key, label and group of the test videos, sorted by key. A group is a person, or one source of clips of one class."""
    rows = sorted(pq.read_table(folder / "videos.parquet").to_pylist(), key=lambda row: row["key"])
    split = pq.read_table(next(folder.glob("splits/*.parquet")), columns=["key", "test"]).to_pylist()
    tested = {row["key"] for row in split if row["test"]}  # the same in every split of a fold
    rows = [row for row in rows if row["key"] in tested]
    groups = [row["group"] if data.group_is_person else f"{row['class_name']}/{row['group']}" for row in rows]
    return {"keys": [row["key"] for row in rows], "labels": [row["label"] for row in rows], "groups": groups}


class Results:
    """The results file: written after every cell."""

    def __init__(self, path: Path) -> None:
        self.path, self.lock = path, threading.Lock()
        self.content = json.loads(path.read_text()) if path.exists() else {"tests": {}, "cells": []}

    def done(self) -> set[Cell]:
        names = Cell.__dataclass_fields__
        return {Cell(**{name: entry[name] for name in names}) for entry in self.content["cells"]}

    def add(self, test: dict[str, list[Any]], entry: dict[str, Any]) -> None:
        with self.lock:
            self.content["tests"][f"{entry['data']}/{entry['fold']}"] = test
            self.content["cells"].append(entry)
            self.content["cells"].sort(key=lambda each: [each[name] for name in Cell.__dataclass_fields__])
            lines = ",\n".join(json.dumps(each) for each in self.content["cells"])
            tests = ",\n".join(
                f"{json.dumps(name)}: {json.dumps(each)}" for name, each in sorted(self.content["tests"].items())
            )
            with atomic_write(self.path) as file:
                file.write(f'{{"tests": {{\n{tests}\n}}, "cells": [\n{lines}\n]}}\n'.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for data sets and runs")
    parser.add_argument("--shared", type=Path, help="folder of the real clips")
    parser.add_argument("--data", action="append", choices=sorted(DATA_SETS))
    parser.add_argument("--method", action="append", choices=METHODS)
    parser.add_argument("--labels", action="append", type=int, help="percent")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    parser.add_argument(
        "--minutes", type=float, default=1e9, help="start no run after this time, not counting extraction"
    )
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args()
    stored = Results(given.output)
    done = stored.done()
    wanted = [
        cell
        for cell in cells()
        if cell not in done
        and (cell.data == "sample" or given.shared)
        and (not given.data or cell.data in given.data)
        and (not given.method or cell.method in given.method)
        and (not given.labels or cell.labels in given.labels)
    ]
    folders = {}
    for data, fold in dict.fromkeys((cell.data, cell.fold) for cell in wanted):
        folders[data, fold] = prepare(DATA_SETS[data], fold, given.work, given.shared)
    end = time.monotonic() + 60 * given.minutes

    def work_off(cell: Cell) -> None:
        if time.monotonic() < end:
            folder = folders[cell.data, cell.fold]
            entry = train(cell, folder, given.work)
            stored.add(test_videos(DATA_SETS[cell.data], folder), entry)
            print(cell.data, cell.fold, cell.name, entry["top1"], f"{entry['cpu_minutes']} min", flush=True)

    with ThreadPoolExecutor(given.jobs) as pool:
        for outcome in [pool.submit(work_off, cell) for cell in wanted]:
            outcome.result()


if __name__ == "__main__":
    main()
