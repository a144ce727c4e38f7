"""docs/editing.md: its commands run in the given order, its list is read, and docs/format.md has the columns of originals.parquet."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.prep import main
from manifests.manifest_io import read_header, read_manifest
from manifests.splits.label_split import read_split
from manifests.table import ORIGINAL_SCHEMAS, VIDEO_SCHEMA
from tests.extraction import REPOSITORY
from tgprep.check.check import check
from tgprep.edit.differences import IGNORED
from tgprep.edit.merge import merge

TEXT = (REPOSITORY / "docs" / "editing.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_the_commands_run(
    first_made: Path,
    second_made: Path,
    tmp_path: Path,
    copy_of: Callable[[Path, str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy_of(first_made, "mine")
    copy_of(second_made, "theirs")
    merge([str(first_made), str(second_made)], tmp_path / "dataset")
    monkeypatch.chdir(tmp_path)
    Path("bad.txt").write_text("clap/v_g02\nwave/broken\n")
    Path("labels.csv").write_text(next(text for kind, text in BLOCKS if kind == "text"))
    commands = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
    assert len(commands) == 7
    for command in commands:
        words = shlex.split(command)
        assert words[0] == "tgprep"
        done = CliRunner().invoke(main, words[1:])
        assert done.exit_code == 0, f"{command}\n{done.output}"
        assert "Next: tgprep" in done.stderr or "split" in command or "--dry-run" in command
    assert len(read_manifest("all").videos) == 11
    assert read_split("all").labelled.any()
    labels = {row.key: row.class_name for row in read_manifest("dataset").videos}
    assert (labels["clap/v_g00"], labels["clap/v_g01"], labels["wave/v_g00"]) == ("wave", "", "bow")
    assert not {"clap/v_g02", "wave/broken"} & set(labels)
    assert [change["change"] for change in read_header("dataset").changes] == ["merge", "merge", "drop", "relabel"]
    Path("dataset/splits/p20-s0-f1.parquet").unlink()
    assert check("dataset", deep=True).sound
    assert os.listdir("dataset/splits") == []  # noqa: PTH208


def test_the_page_names_what_may_differ() -> None:
    (line,) = (line for line in TEXT.splitlines() if "may differ" in line)
    assert all(f"`{name}`" in line for name in IGNORED)


def test_columns_of_originals_are_documented() -> None:
    page = (REPOSITORY / "docs" / "format.md").read_text("utf-8")
    section = page.split("\n## originals.parquet\n")[1].split("\n## ")[0]
    listed = re.findall(r"^\| `(\w+)` \| (\w+) \|", section, re.MULTILINE)
    assert listed == [
        (field.name, str(field.type)) for field in ORIGINAL_SCHEMAS[0] if field.name not in VIDEO_SCHEMA.names
    ]
