"""Every command that writes files, as a process on small inputs: for tests that fill its disk, kill it, or run two at once."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from manifests.manifest_io import read_manifest
from manifests.splits.label_split import read_split
from tests.extraction import environment

DEMO = (
    "--recipe demo --set optimiser.epochs=1 --set batch.labelled=2 --set batch.unlabelled=2 --set precise_bn.batches=1 "
    "--set data.size=33 --set data.test_size=33 --set runtime.workers=1"
)
SMALL = "--num-classes 2 --num-groups 4 --clips-per-group 1 --width 64 --height 48"
EXTRACT = "--threads 2 --videos-per-shard 2"
ALONE = "--threads 1 --videos-per-shard 2"


@dataclass(frozen=True, slots=True)
class Writer:
    """A command. program: prep or train; arguments: {p} is the place that it writes to, {b} the folder of inputs.

    inputs: names of inputs that are copied into the place, because the command changes them.
    """

    program: str
    arguments: str
    inputs: tuple[str, ...] = ()

    def command(self, place: Path, base: Path) -> list[str]:
        """The command line for a place."""
        arguments = [word.format(p=place, b=base) for word in self.arguments.split()]
        return [sys.executable, "-P", "-m", f"tg{self.program}", *arguments]

    def prepare(self, place: Path, base: Path) -> None:
        """Copy the inputs."""
        for name in self.inputs:
            shutil.copytree(base / name, place / name)

    def start(self, place: Path, base: Path) -> subprocess.Popen[str]:
        """Start the command as the leader of a process group."""
        return subprocess.Popen(
            self.command(place, base),
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, place: Path, base: Path) -> tuple[int, str]:
        """Run the command; its exit code, and what it printed."""
        process = self.start(place, base)
        out, errors = process.communicate(timeout=300)
        return process.returncode, out + errors


WRITERS = {
    "split": Writer("prep", "split {p}/data --percent 25", ("data",)),
    "split-import": Writer("prep", "split {p}/data --import {b}/list.txt --name x --report {p}/report.csv", ("data",)),
    "split-export": Writer("prep", "split {b}/data --export csv --output {p}/list.csv"),
    "materialise": Writer("prep", "split {b}/data --materialise p50-s0-f1 --output {p}/plain"),
    "grow": Writer("prep", "split {p}/data --grow {b}/grow.txt", ("data",)),
    "targets": Writer("prep", "targets {p}/data --import {b}/scores.csv --name x", ("data",)),
    "targets-export": Writer("prep", "targets {b}/data --export given --output {p}/scores.csv"),
    "card": Writer("prep", "card {p}/data --license cc-by-4.0", ("data",)),
    "preview": Writer("prep", "preview {b}/data --output {p}/page.html"),
    "export": Writer("prep", "export {b}/data {p}/frames"),
    "extract": Writer("prep", "extract {b}/videos {p}/data " + EXTRACT),
    "extract-video": Writer("prep", "extract {b}/videos {p}/data --store video " + EXTRACT),
    "add": Writer("prep", "extract {b}/videos {p}/few --add " + EXTRACT, ("few",)),
    "retry": Writer("prep", "extract {b}/videos {p}/failed --retry-failed " + EXTRACT, ("failed",)),
    "task": Writer("prep", "extract {b}/videos {p}/data --num-tasks 1 --task-id 0 " + EXTRACT),
    "import": Writer("prep", "import-rawframes {b}/frames {p}/data"),
    "repair": Writer("prep", "check {p}/damaged --repair --against {b}/videos --threads 2", ("damaged",)),
    "merge": Writer("prep", "merge {b}/few {b}/rest {p}/data"),
    "merge-copy": Writer("prep", "merge {b}/few {b}/rest {p}/data --copy"),
    "drop": Writer("prep", "drop {p}/few --keys {b}/keys.txt", ("few",)),
    "relabel": Writer("prep", "relabel {p}/few --from {b}/labels.csv", ("few",)),
    "sample": Writer("prep", "sample {p}/videos " + SMALL),
    "run": Writer("train", "run {b}/data --out {p}/run " + DEMO),
    "resume": Writer("train", "run {b}/data --out {p}/half " + DEMO, ("half",)),
    "test": Writer(
        "train", "test {p}/run --views 1x1 --predictions {p}/scores.parquet --features {p}/f.parquet", ("run",)
    ),
    "report": Writer("train", "report {p}/run", ("run",)),
    "export-torch": Writer("train", "export {b}/run --format torch --output {p}/m.pt2"),
    "export-onnx": Writer("train", "export {b}/run --output {p}/m.onnx"),
}
# Files whose bytes hold times, paths or the order of threads: that they exist is compared, and not what they hold.
_VARYING = (
    "metrics.jsonl",
    ".lock",
    "config.json",
    "step-",
    "best.json",
    "test-",
    ".parquet",
    "report.html",
    "m.pt2",
    "m.onnx",
)


def _make(base: Path, program: str, arguments: str) -> None:
    code, text = Writer(program, arguments).run(base, base)
    assert code in (0, 1), text


def make_inputs(base: Path) -> None:
    """Make what the commands read in an empty folder."""
    _make(base, "prep", "sample {b}/videos " + SMALL)
    _make(base, "prep", "extract {b}/videos {b}/data " + ALONE)
    _make(base, "prep", "split {b}/data --percent 50")
    _make(base, "prep", "export {b}/data {b}/frames")
    shutil.copy(base / "frames" / "p50-s0-f1_labelled_rawframes.txt", base / "list.txt")
    rows = [row for row in read_manifest(base / "data").videos if row.key]
    (base / "scores.csv").write_text("key,class\n" + "".join(f"{row.key},{row.class_name}\n" for row in rows))
    split = read_split(base / "data")
    train = set(split.keys_of("unlabelled")) - set(split.keys_of("labelled"))
    (base / "grow.txt").write_text(min(train) + "\n")
    _make(base, "prep", "targets {b}/data --import {b}/scores.csv --name given")
    shutil.copytree(base / "data", base / "damaged")
    (base / "damaged" / "shard-000001.tar").write_bytes(b"")
    os.truncate(base / "damaged" / "shard-000002.tar", 3000)
    shutil.copytree(base / "videos", base / "some")
    for path in sorted((base / "some").rglob("*_g04_*")):
        path.unlink()
    lists = " --annotations {b}/annotations "
    _make(base, "prep", "extract {b}/some {b}/few" + lists + ALONE)
    keys = [f"{path.parent.name}/{path.stem}" for path in sorted((base / "some").rglob("*_g02_*"))]
    (base / "keys.txt").write_text("\n".join(keys[:1]))
    (base / "labels.csv").write_text("key,label\n" + "".join(f"{key},other\n" for key in keys[1:]))
    shutil.copytree(base / "videos", base / "others", ignore=shutil.ignore_patterns("*_g0[123]_*"))
    _make(base, "prep", "extract {b}/others {b}/rest" + lists + ALONE)
    for path in sorted((base / "some").rglob("*_g03_*")):
        path.write_bytes(b"")
    _make(base, "prep", "extract {b}/some {b}/failed" + lists + ALONE)


def make_runs(base: Path) -> None:
    """Add a finished run, and one that was stopped half-way."""
    _make(base, "train", "run {b}/data --out {b}/run " + DEMO)
    _make(base, "train", "run {b}/data --out {b}/half --max-steps 2 " + DEMO)


def files_in(place: Path) -> dict[str, str]:
    """Digest of every file by its path, "" if it varies from run to run; without the files of TensorBoard."""
    digests = {}
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place).as_posix()
        if path.is_file() and "tensorboard/" not in name:
            varies = any(part in name for part in _VARYING) and "data/" not in name
            digests[name] = "" if varies else hashlib.sha256(path.read_bytes()).hexdigest()
    return digests


def leftovers(place: Path) -> list[str]:
    """Temporary files and folders below a place."""
    return [str(path.relative_to(place)) for path in place.rglob("*") if path.name.startswith(".tmp-")]


def kill_all(process: subprocess.Popen[str], number: int) -> None:
    """Send a signal: kill -9 to the whole group, others to the process alone, as a scheduler does."""
    if process.poll() is None:
        (os.killpg if number == signal.SIGKILL else os.kill)(process.pid, number)


@contextmanager
def small_disk(place: Path, options: str = "size=200m") -> Iterator[Path]:
    """Mount a file system in memory; the test is skipped if that is not possible."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root and CAP_SYS_ADMIN")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def used_bytes(place: Path) -> int:
    """Bytes in use on the file system of a place."""
    found = os.statvfs(place)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def fill(place: Path, free_bytes: int) -> Path:
    """Write a file that leaves about so many bytes free."""
    found = os.statvfs(place)
    num_pages = max(1, (found.f_bavail * found.f_frsize - free_bytes) // found.f_frsize)
    with (place / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, num_pages * found.f_frsize)
    return place / "filler"
