"""Plans and journals hold nothing that cannot be made again: damage costs a note, and the work whose record it was."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from manifests.files import read_json
from manifests.manifest_io import json_bytes
from manifests.parquet import parquet_table, table_bytes
from tests.writers import ALONE, Writer, files_in

TASK = Writer("prep", "extract {b}/videos {p}/data --num-tasks 2 --task-id 0 " + ALONE)
WHOLE = Writer("prep", "extract {b}/videos {p}/data " + ALONE)


@pytest.fixture(scope="module")
def unfinished(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An extraction of which one of two tasks has run."""
    place = tmp_path_factory.mktemp("unfinished")
    code, text = TASK.run(place, inputs)
    assert code == 0, text
    return place / "data"


@pytest.mark.parametrize(
    ("name", "cut", "note", "kept"),
    [
        ("plan.json", True, "the plan of the unfinished extraction is damaged", 2),
        ("plan.parquet", False, "the plan of the unfinished extraction is damaged", 2),
        ("done/shard-000000.tar.json", False, "1 entry of the journal is damaged", 1),
    ],
)
def test_damage_is_noted_and_the_extraction_finishes(
    name: str, cut: bool, note: str, kept: int, inputs: Path, unfinished: Path, tmp_path: Path
) -> None:
    shutil.copytree(unfinished, tmp_path / "data")
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
    assert f"Kept {kept} shard{'s' * (kept > 1)} of earlier runs." in text
    expected = {
        path: digest
        for path, digest in files_in(inputs / "data").items()
        if not path.startswith(("splits/", "targets/"))
    }
    assert files_in(tmp_path / "data") == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [("path", "../../x"), ("key", "a/../../../evil"), ("first_shard", -1)],
)
def test_a_foreign_plan_with_unsafe_names_is_made_again(
    name: str, value: object, inputs: Path, unfinished: Path, tmp_path: Path
) -> None:
    shutil.copytree(unfinished, tmp_path / "data")
    work = tmp_path / "data" / ".tgprep"
    facts = read_json(work / "plan.json")
    rows = parquet_table((work / "plan.parquet").read_bytes())
    if name in rows.column_names:
        values = [value, *rows[name].to_pylist()[1:]]
        place = rows.column_names.index(name)
        rows = rows.set_column(place, rows.schema.field(name), pa.array(values, rows.schema.field(name).type))
    else:
        facts[name] = value
    content = table_bytes(rows)
    (work / "plan.parquet").write_bytes(content)
    facts |= {"videos_sha256": hashlib.sha256(content).hexdigest()}
    del facts["sha256"]
    (work / "plan.json").write_bytes(json_bytes({**facts, "sha256": hashlib.sha256(json_bytes(facts)).hexdigest()}))
    code, text = WHOLE.run(tmp_path, inputs)
    assert code == 0, text
    assert "the plan of the unfinished extraction is damaged" in text
    assert files_in(tmp_path / "data").keys() - files_in(inputs / "data").keys() == set()
    assert not list(tmp_path.rglob("evil*"))
