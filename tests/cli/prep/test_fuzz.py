"""Odd commands on damaged data sets, hundreds of them: a message and an exit code, never a traceback."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.prep import main
from manifests.manifest_io import read_manifest
from manifests.splits.label_split import make_split, write_split
from manifests.splits.settings import SplitSettings
from tests.conftest import Reliability
from tests.prep.support import moving_square, write_video

# Choices by name, filled in by `Fuzz.fill`; {n} is a number that fits or does not.
_COMMANDS = {
    "info": ["{place}", "{place} --json"],
    "finalize": ["{place}"],
    "check": [
        "{place} {threads}",
        "{place} --deep {threads}",
        "{place} --quick",
        "{place} --against {videos} {threads} --json",
        "{place} --against {list} {threads}",
        "{place} --repair --against {videos} {threads}",
        "{place} --repair",
    ],
    "preview": [
        "{place} --output {new}",
        "{place} --output {new} --max-videos {n}",
        "{place} --output {new} --keys a,b",
        "{place} --output {new} --keys @{list}",
        "{place} --output {new} --split {name}",
    ],
    "export": ["{place} {new}", "{place} {new} --format rawframes"],
    "sample": ["{new} --videos-per-class {n}", "{new} --seed {n}"],
    "import-rawframes": ["{videos} {new}", "{place} {place}", "{list} {new} --annotations {list}"],
    "split": [
        "{place}",
        "{place} --percent {n}",
        "{place} --per-class {n} --overwrite",
        "{place} --percent 20 --fold {n}",
        "{place} --percent 20 --seed {n} --name {name}",
        "{place} --percent 20 --hold-out {n} --test-percent {n}",
        "{place} --import {list}",
        "{place} --import {list} --import-test {list} --labels file",
        "{place} --export csv --output {new}",
        "{place} --export mmaction --part test",
        "{place} --show {name}",
        "{place} --compare {name} p50-s0-f1 --json",
        "{place} --materialise {new}",
    ],
    "extract": [
        "{videos} {place} {few}",
        "{videos} {place} {few} --add --retry-failed",
        "{place} {new} {few}",
        "{videos} {new} {few} --dry-run",
        "{videos} {new} {few} --dataset csv --annotations {list}",
        "{videos} {new} {few} --dataset ucf101 --annotations {list}",
        "{videos} {new} {few} --quality {n}",
        "{videos} {new} {few} --decoder {name}:loads",
        "{videos} {place} {few} --num-tasks 2 --task-id {n}",
        "{videos} {new} {few} --scratch {new}",
        "{list} {place} --json",
    ],
}


class Fuzz:
    """Draws commands and the damage that they meet."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.draw = random.Random(seed)

    def commands(self, count: int) -> Iterator[list[str]]:
        """Command lines, each with fresh damage; `new` places are removed before each."""
        for _ in range(count):
            shutil.rmtree(self.root / "new", ignore_errors=True)
            name = self.draw.choice(list(_COMMANDS))
            yield [name, *(self.fill(word) for word in self.draw.choice(_COMMANDS[name]).split())]

    def fill(self, word: str) -> str:
        choose = self.draw.choice
        if word in ("{threads}", "{few}"):
            return "--threads=1"
        if word == "{place}":
            others = ["none", "a file", "x" * 300, "empty", "damaged"]
            return choose(
                [self.damaged(), self.damaged(), self.damaged(), str(self.root / choose(others)), "/dev/null"]
            )
        for mark, values in {
            "{videos}": [str(self.root / "videos")],
            "{list}": [str(self.root / n) for n in ("a.csv", "b.csv", "c.txt", "ok.csv", "empty", "none", "y" * 300)],
            "{new}": [str(self.root / n) for n in ("new", "a file/x", "none/deep/x", "z" * 300)]
            + ["/dev/full", "/dev/null/x"],
            "{name}": ["p50-s0-f1", "json", "..", "../x", "x" * 300, "a/b", "nope"],
            "{n}": ["0", "1", "-1", "nan", "inf", "99999999999999999999", "x", "1e-9", "2"],
        }.items():
            if mark in word:
                return word.replace(mark, choose(values))
        return word

    def damaged(self) -> str:
        """A copy of the data set with one to three of its files damaged, or none."""
        folder = self.root / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.root / "good", folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        tables = [path for path in files if path.suffix != ".tar"]
        for path in self.draw.choices(files + 2 * tables, k=self.draw.choice([0, 1, 1, 1, 2, 3])):
            if path.is_file() and not path.is_symlink():
                self.damage(path)
        return str(folder)

    def damage(self, path: Path) -> None:
        content, kind = path.read_bytes(), self.draw.randrange(8)
        if path.name == "dataset.json" and kind < 4:
            try:
                facts = json.loads(content)
                facts.pop("header_sha256", None)
                facts[self.draw.choice(sorted(facts))] = self.draw.choice([None, 3, "x", [], {}, -1, [1]])
            except (ValueError, AttributeError, IndexError, TypeError):
                return
            path.write_text(json.dumps(facts))
        elif kind < 3:
            path.write_bytes(content[: self.draw.randrange(len(content) + 1)])
        elif kind == 3:
            path.write_bytes(self.draw.choice([b"", b"[]", b"{}", b"PAR1xxxxPAR1", bytes(700)]))
        elif kind == 4:
            flipped = bytearray(content)
            for place in self.draw.choices(range(len(content)), k=5) if content else ():
                flipped[place] ^= 1 << self.draw.randrange(8)
            path.write_bytes(flipped)
        else:
            path.unlink()
            if kind == 5:
                path.mkdir()
            elif kind == 6:
                path.symlink_to(path.name)


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set with a split, its videos, and lists of several kinds of wrong."""
    root = tmp_path_factory.mktemp("fuzz")
    for number in range(6):
        write_video(
            root / "videos" / f"class{number % 2}" / f"v{number}_g0{number}_c01.avi", moving_square(4, start=number)
        )
    done = CliRunner().invoke(
        main, ["extract", str(root / "videos"), str(root / "good"), "--threads", "1", "--videos-per-shard", "3"]
    )
    assert done.exit_code == 0, done.output
    write_split(root / "good", make_split(read_manifest(root / "good"), SplitSettings(percent=50)))
    (root / "a file").write_text("x")
    (root / "empty").mkdir()
    (root / "a.csv").write_bytes(b"path,label\n\xff\xfe")
    (root / "b.csv").write_bytes(b"path,label\na\0b,c\n")
    (root / "c.txt").write_text("a b c d\n")
    (root / "ok.csv").write_text("path,label\nclass0/v0_g00_c01.avi,1\nclass1/none.avi,0\n")
    return root


@pytest.mark.parametrize("count", [25, pytest.param(600, marks=pytest.mark.long)])
def test_no_command_ends_in_a_traceback(
    material: Path, count: int, reliability: Reliability, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(material)
    num_refused = 0
    for arguments in Fuzz(material, count).commands(count):
        done = CliRunner().invoke(main, arguments)
        assert done.exception is None or isinstance(done.exception, SystemExit), (arguments, done.exc_info)
        assert done.exit_code in (0, 1, 2), (arguments, done.output)
        assert "Traceback" not in done.output, arguments
        assert done.exit_code == 0 or done.output.strip(), arguments
        num_refused += done.exit_code == 2
    assert 0 < num_refused < count
    reliability.record(
        "Damage to a data set",
        "odd commands of `tgprep` on damaged data sets: a message each, no traceback",
        num_commands=count,
        num_refused=num_refused,
        num_tracebacks=0,
    )
