"""docs/sweeps.md: its commands run. Grids are checked and listed; tables are made of runs in the folders that the page names."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.train import main
from manifests.manifest_io import read_manifest
from manifests.splits.label_split import make_split, write_split
from manifests.splits.settings import SplitSettings
from tests.train.report.pages import write_run, write_test
from tests.train.support import write_data_set

PAGE = Path(__file__).parents[1] / "docs" / "sweeps.md"
COMMANDS = [
    line
    for block in re.findall(r"^```bash\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]


def call(*words: str) -> str:
    done = CliRunner().invoke(main, list(words), catch_exceptions=False)
    assert done.exit_code == 0, f"{words}\n{done.output}"
    return done.stdout


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the page is followed."""
    monkeypatch.chdir(tmp_path)
    write_data_set(tmp_path / "dataset")
    manifest = read_manifest(tmp_path / "dataset")
    for fold in (1, 2, 3):
        name = f"p20-s0-f{fold}"
        settings = SplitSettings(percent=50, strategy="stratified", seed=fold, name=name)
        write_split(tmp_path / "dataset", make_split(manifest, settings))
    return tmp_path


def test_the_commands_run(here: Path) -> None:
    assert len(COMMANDS) == 10
    listed = {}
    for command in COMMANDS:
        words = shlex.split(command)
        assert words[0] == "tgtrain"
        if words[1] == "sweep":
            listed[command] = call(*words[1:], *(["--list"] * ("--list" not in words))).splitlines()
    assert [len(lines) for lines in listed.values()] == [18, 8, 2, 2]
    assert not (here / "runs").exists()
    for folder in ("sweep", "area"):
        for seed, recipe in ((1, "demo"), (2, "demo"), (1, "demo-supervised")):
            run = here / "runs" / folder / f"{recipe}_s{seed}"
            write_run(
                run,
                recipe=recipe,
                overrides=(f"runtime.seed={seed}", f"data.size={64 if folder == 'area' else 48}"),
                steps=24,
            )
            for protocol in ("10x3", "3x1"):
                write_test(
                    run, [[seed, 1], [1, 2]], protocol=protocol, step=24, keys=[f"v{k}" for k in range(4 + seed)]
                )
    tables = {command: call(*shlex.split(command)[1:]) for command in COMMANDS if "--table" in command}
    assert len(tables) == 6
    assert (here / "table.tex").read_text().count("\\begin{tabular}") == 2
    first = next(iter(tables.values()))
    for column in ("labels", "runs", "top-1", "mean class", "only first right", "p (Holm)", "difference"):
        assert f"| {column} |" in first
        assert column in PAGE.read_text("utf-8")
