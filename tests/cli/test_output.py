"""Commands whose output is lost do their work, and commands whose output is the work say that they have not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.extraction import REPOSITORY, tree
from tests.prep.support import moving_square, write_video
from tests.train.support import write_data_set

FULL = "No space left on device"


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of bash, in which `tgprep` and `tgtrain` are the programs of this checkout."""
    programs = "".join(f'tg{name}() {{ "{sys.executable}" -m tg{name} "$@"; }}; ' for name in ("prep", "train"))
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {programs}{line}"],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with videos/ and dataset/."""
    root = tmp_path_factory.mktemp("output")
    for number in range(6):
        write_video(root / "videos" / f"c{number % 2}" / f"v_g{number:02d}.avi", moving_square(5, start=number))
    assert shell("tgprep extract --threads 1", root).returncode == 0
    return root


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("tgprep info > /dev/full", 2, f"Error: the result cannot be printed: standard output: {FULL}"),
        ("tgprep info --help > /dev/full", 2, f"Error: the result cannot be printed: standard output: {FULL}"),
        ("tgprep info | head -1", 0, ""),
        ("tgprep info >&-", 2, "Error: the result cannot be printed: standard output: it is closed"),
        (
            "tgprep split --percent 50 --overwrite > /dev/full",
            0,
            f"note: the result cannot be printed ({FULL}); it is in ",
        ),
        ("tgprep split --percent 50 --json --overwrite > /dev/full", 2, "Error: the result cannot be printed"),
        ("tgprep check >&- 2>&- <&-", 0, ""),
    ],
)
def test_what_becomes_of_a_result_that_nobody_gets(folder: Path, line: str, code: int, said: str) -> None:
    done = shell(line, folder)
    assert done.returncode == code, done.stderr
    assert said in done.stderr if said else not done.stderr
    assert "Traceback" not in done.stderr
    assert "split" not in line or list((folder / "dataset" / "splits").glob("*.parquet"))


@pytest.mark.parametrize("lost", [">&- 2>&- <&-", "2> /dev/full"])
def test_an_extraction_without_its_log_is_whole(folder: Path, tmp_path: Path, lost: str) -> None:
    done = shell(f"tgprep extract {folder}/videos out --threads 1 {lost}", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert {**tree(tmp_path / "out"), "splits": ""} == {
        name: digest for name, digest in {**tree(folder / "dataset"), "splits": ""}.items() if "splits/" not in name
    }


def test_a_run_goes_on_without_its_log_among_files_of_the_user(tmp_path: Path) -> None:
    """The reader of its log ends after three lines, and the working folder holds modules that break whoever imports them."""
    write_data_set(tmp_path / "set")
    for name in ("random", "queue", "numpy", "typing", "torch", "click"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('a file of the user')\n")
    small = (
        "data.clip_frames=4", "data.interval=2", "data.size=32", "batch.labelled=4", "batch.unlabelled=4", "model.width=2",
        "optimiser.epochs=2", "precise_bn.batches=1", "runtime.log_every=1", "runtime.workers=1",
    )  # fmt: skip
    settings = " ".join(f"--set {text}" for text in small)
    done = shell(f"tgtrain run set --recipe demo {settings} --out run 2>&1 | head -3", tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert done.stdout.count("\n") == 3
    assert list((tmp_path / "run" / "checkpoints").glob("step-*.pt"))
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (note,) = [record for record in records if record["kind"] == "note"]
    assert note["text"] == "lines of the log on stderr are lost: Broken pipe"
    assert [record["step"] for record in records if record["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
