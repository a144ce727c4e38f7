"""Commands on data sets and runs of a stranger: a message and an exit code, never a traceback, a hang or gigabytes."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.prep import main as tgprep
from cli.train import main as tgtrain
from manifests.manifest_io import read_manifest, write_manifest
from tests.cli.hostile.changes import every_change
from tests.cli.hostile.run_changes import every_run_change
from tests.cli.hostile.support import SPLIT
from tests.cli.hostile.trials import PREP, RUN, SETTINGS, SLOW, TRAIN, Bench
from tests.conftest import Reliability
from tests.prep.support import moving_square, write_video

_KINDS = {"frames": ["--flow", "dis"], "video": ["--store", "video"]}


@pytest.fixture(scope="module", params=list(_KINDS))
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A small data set with a split, its videos, one of which fails, and a run with a test.

    They are made in this process, so what commands import is there before the time limit of a trial could end an import.
    """
    root = tmp_path_factory.mktemp(request.param)
    for number in range(8):
        name = f"v_g{number // 2:02d}_c{number % 2:02d}.avi"
        write_video(root / "videos" / f"class{number % 2}" / name, moving_square(4, start=number))
    (root / "videos" / "class0" / "broken.avi").write_bytes(b"no video")
    commands = (
        (
            tgprep,
            f"extract {root}/videos {root}/good --threads 1 --videos-per-shard 4 {' '.join(_KINDS[request.param])}",
        ),
        (tgprep, f"split {root}/good --percent 50 --test-percent 25 --name {SPLIT}"),
        (tgprep, f"split {root}/good --export csv --output {root}/videos/list.csv"),
        (tgtrain, f"run {root}/good --recipe demo --out {root}/run --max-steps 1 {SETTINGS}"),
        (tgtrain, f"test {root}/run --views 1x1 --device cpu"),
    )
    for main, words in commands:
        done = CliRunner().invoke(main, words.split())
        assert done.exit_code in (0, 1), done.output
    make_other(root)
    return Bench(root)


def make_other(root: Path) -> None:
    """A data set with the settings of good/ and other keys, to merge it with, and lists of videos of good/."""
    manifest = read_manifest(shutil.copytree(root / "good", root / "other"))
    rows = [
        replace(row, key=row.key and f"{row.key.partition('/')[0]}/o{row.key.partition('/')[2]}", path=f"o/{row.path}")
        for row in manifest.videos
    ]
    write_manifest(root / "other", manifest.header, sorted(rows, key=lambda row: (row.key, row.path)), manifest.shards)
    keys = [key for key in manifest.videos.column("key") if key]
    (root / "other.txt").write_text("\n".join(keys[:2]))
    (root / "other.csv").write_text(f"key,label\n{keys[1]},class1\n{keys[2]},\n{keys[3]},new\n")


def try_pairs(bench: Bench, pairs: list[tuple[str, str]], reliability: Reliability) -> None:
    changes = every_change(bench.root / "good")
    of_run = every_run_change(bench.root / "run")
    outcomes = []
    for change, command in pairs:
        apply = of_run[change] if command in RUN else changes[change]
        outcomes.append(bench.trial(change, apply, command))
    wrong = [f"{outcome.change}: {outcome.command}: {outcome.problem}" for outcome in outcomes if outcome.problem]
    assert not wrong, "\n".join(wrong)
    reliability.record(
        "Damage to a data set",
        "commands of `tgprep` and `tgtrain` on hostile data sets and runs: no traceback, no hang, under 3 GB",
        num_pairs=len(pairs),
        num_refused=sum(outcome.exit_code == 2 for outcome in outcomes),
        num_tracebacks=0,
    )


def every_pair(bench: Bench) -> list[tuple[str, str]]:
    on_data = [(change, command) for change in every_change(bench.root / "good") for command in (*PREP, *TRAIN)]
    return on_data + [(change, command) for change in every_run_change(bench.root / "run") for command in RUN]


# What once ended in a traceback, a hang or without memory; the sample of the gate.
ONCE = (
    ("header bytes closed lists", PREP[0]), ("header 1000000000 folds", PREP[8]), ("header classes [] 0", PREP[8]),
    ("header video of gop 0", PREP[4]), ("header is fifo", PREP[0]), ("split provenance list", PREP[11]),
    ("split label null", TRAIN[0]), ("split no rows", TRAIN[0]), ("shard is fifo", PREP[4]), ("split is endless", PREP[3]),
    ("shards and videos named /dev/zero", PREP[3]), ("videos fps = inf", PREP[6]),
    ("rgb begins with a bomb", PREP[4]), ("none", PREP[4]), ("none", TRAIN[0]), ("none", PREP[-5]), ("edited", PREP[-4]), ("edited", PREP[-3]),
    ("edited", PREP[-2]), ("edited", PREP[-1]), ("edited", PREP[4]), ("originals no rows", PREP[4]), ("originals all label = 2147483647", PREP[0]),
    ("originals all dropped = True", PREP[-2]), ("originals all dropped = False", PREP[4]), ("originals a row twice", PREP[-5]),
    ("videos all rows twice", PREP[-5]), ("shards and videos named /dev/zero", PREP[-4]),
)  # fmt: skip


def test_what_once_went_wrong(bench: Bench, reliability: Reliability) -> None:
    try_pairs(bench, list(ONCE), reliability)


@pytest.mark.long
def test_hostile_data_sets_and_runs(bench: Bench, reliability: Reliability) -> None:
    pairs = every_pair(bench)
    chosen = random.Random(7).sample(pairs, 2000)
    slow = [(change, command) for change, _ in random.Random(8).sample(pairs, 8) for command in SLOW]
    changes = every_change(bench.root / "good")
    try_pairs(bench, chosen + [pair for pair in slow if pair[0] in changes], reliability)
