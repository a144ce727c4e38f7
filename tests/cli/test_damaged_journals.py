"""Plans and journals hold nothing that cannot be made again: damage costs a note, and the work whose record it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.writers import EXTRACT, Writer, files_in

TASK = Writer("prep", "extract {b}/videos {p}/data --num-tasks 2 --task-id 0 " + EXTRACT)
WHOLE = Writer("prep", "extract {b}/videos {p}/data " + EXTRACT)


@pytest.mark.parametrize(
    ("name", "cut", "note", "kept"),
    [
        ("plan.json", True, "the plan of the unfinished extraction is damaged", 2),
        ("plan.parquet", False, "the plan of the unfinished extraction is damaged", 2),
        ("done/shard-000000.tar.json", False, "1 entries of the journal are damaged", 1),
    ],
)
def test_damage_is_noted_and_the_extraction_finishes(
    name: str, cut: bool, note: str, kept: int, inputs: Path, tmp_path: Path
) -> None:
    code, text = TASK.run(tmp_path, inputs)
    assert code == 0, text
    damaged = tmp_path / "data" / ".tgprep" / name
    content = bytearray(damaged.read_bytes())
    if cut:
        del content[len(content) // 2 :]
    else:
        content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    code, text = WHOLE.run(tmp_path, inputs)
    assert code == 0, text
    assert note in text
    assert f"Kept {kept} shards of earlier runs." in text
    expected = {path: digest for path, digest in files_in(inputs / "data").items() if not path.startswith("splits/")}
    assert files_in(tmp_path / "data") == expected
