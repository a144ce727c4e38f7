"""A `cli.py`, `manifests/` or `random.py` of the user changes nothing, wherever it lies; a program that has imported one gets one message."""

from __future__ import annotations

import inspect
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import tgprep
import tgtrain
from tests.prep.support import moving_square, write_video
from tests.train.support import TINY, read_until, write_data_set

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]


def script(program: str) -> str:
    return str(Path(sys.executable).with_name(program))


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder whose modules end the process that imports one, except for `tgprep` and `tgtrain`."""
    folder = tmp_path / "hostile"
    (folder / "manifests").mkdir(parents=True)
    for name in ("cli.py", "random.py", "manifests/__init__.py", "manifests/records.py"):
        (folder / name).write_text("import os\nos._exit(9)\n")
    return folder


def run(command: list[str], folder: Path, on_path: bool) -> subprocess.CompletedProcess[str]:
    """Run in the folder, which PYTHONPATH names too if on_path."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    if on_path:
        (folder / "random.py").unlink()  # Python itself takes that one
        environment["PYTHONPATH"] = str(folder)
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


@pytest.mark.parametrize("on_path", [False, True])
@pytest.mark.parametrize("program", ["tgprep", "tgtrain"])
def test_commands_run_in_a_hostile_folder(hostile: Path, program: str, on_path: bool) -> None:
    words = [{"tgprep": "split", "tgtrain": "run"}[program], "--help"]
    said = run([script(program), *words], hostile, on_path)
    assert said.returncode == 0, said.stderr
    again = run([sys.executable, "-m", program, *words], hostile, on_path=False)
    assert again.returncode == 0, again.stderr
    assert said.stdout.startswith(f"Usage: {program} {words[0]} ")


def test_processes_of_an_extraction(hostile: Path) -> None:
    write_video(hostile / "videos/up/a.avi", moving_square(3))
    done = run([sys.executable, "-m", "tgprep", "extract", "--threads", "1"], hostile, on_path=True)
    assert done.returncode == 0, done.stderr
    assert (hostile / "dataset/dataset.json").is_file()


def test_a_process_that_gets_the_search_path(hostile: Path) -> None:
    code = (
        "import multiprocessing, tgtrain.__main__, cli.common\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(pool.apply_async(cli.common.human_bytes, (12_300_000,)).get(60))\n"
    )
    done = run([sys.executable, "-c", code], hostile, on_path=True)
    assert (done.returncode, done.stdout) == (0, "12.3 MB\n"), done.stderr


@pytest.mark.parametrize("program", ["tgprep", "tgtrain"])
def test_a_foreign_package_that_is_in_use_is_one_message(tmp_path: Path, program: str) -> None:
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests/__init__.py").touch()
    done = run([sys.executable, "-c", f"import manifests, {program}"], tmp_path, on_path=False)
    assert done.returncode == 2
    assert done.stderr == (
        f"Error: {program} needs its own package `manifests`, but this program has imported another one before: "
        f"{tmp_path / 'manifests'}. Rename that one, or use {program} in a program that does not import it.\n"
    )
    # Before the foreign one is in use, ours is taken, and the search path is as it was.
    code = f"import sys; before = [*sys.path]; import {program}, manifests.records; print(sys.path == before)"
    done = run([sys.executable, "-c", code], tmp_path, on_path=False)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_both_packages_look_for_their_neighbours_in_one_way() -> None:
    assert inspect.getsource(tgprep._own) == inspect.getsource(tgtrain._own)


def test_nothing_starts_the_package_cli_by_name() -> None:
    root = Path(__file__).parents[2]
    texts = [path for folder in ("manifests", "tgprep", "tgtrain", "cli", "benchmarks", "docs") for path in (root / folder).rglob("*.*")
             if path.suffix in (".py", ".sh", ".md")]  # fmt: skip
    found = [str(path) for path in texts if re.search(r"-m\W{1,5}cli\.", path.read_text("utf-8"))]
    assert len(texts) > 200
    assert not found


def test_torchrun_as_documented(hostile: Path) -> None:
    done = run([*TORCHRUN, script("tgtrain"), "run", "--help"], hostile, on_path=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Train on the data set at OUT") == 2


@pytest.mark.long
def test_torchrun_passes_a_signal_on_and_resumes(hostile: Path) -> None:
    (hostile / "random.py").unlink()
    write_data_set(hostile / "set")
    words = ["run", "set", "--recipe", "demo", "--out", "run", *(w for text in TINY for w in ("--set", text))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(hostile)}
    first = subprocess.Popen(
        [*TORCHRUN, script("tgtrain"), *words], cwd=hostile, env=environment, stderr=subprocess.PIPE, text=True
    )
    read_until(first, "step 3/")
    first.send_signal(signal.SIGTERM)
    said = first.communicate(timeout=300)[1]
    assert first.returncode != 0
    assert "Saved at step" in said
    done = run([*TORCHRUN, script("tgtrain"), *words], hostile, on_path=False)
    assert done.returncode == 0, done.stderr
    assert "resumed at step" in done.stderr
