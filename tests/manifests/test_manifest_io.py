"""Tables and header on disk: atomic, checked by digest, refused with a reason."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests.files import atomic_write
from manifests.manifest_io import (
    header_digest,
    read_header,
    read_manifest,
    write_manifest,
)
from manifests.parquet import seal_holds, sealed_table_bytes, table_bytes
from manifests.records import (
    FAILED,
    WRITTEN,
    GradientCoding,
    InputError,
    ManifestHeader,
    Members,
    ShardRow,
    VideoRow,
)
from manifests.table import VIDEO_SCHEMA, VideoTable

HEADER = ManifestHeader(
    dataset="folder",
    classes=("a", "b"),
    gradient=GradientCoding(),
    settings={"quality": 95},
    versions={"tgprep": "0"},
    num_written=1,
    num_failed=1,
)
ROWS = (
    VideoRow(
        key="a/x", path="a/x y.avi", class_name="a", label=0, group="g01", subsets=("train", "test"), status=WRITTEN,
        shard="shard-000000.tar", sample_offset=0, sample_bytes=5120, members=Members(640, 144, 1536, 77), num_frames=9,
        fps=25.0, height=4, width=6,
    ),
    VideoRow(
        key="b/z", path="b/z.avi", class_name="b", label=1, group="", subsets=("", ""), status=FAILED, error="the file is empty",
    ),
)  # fmt: skip
SHARDS = (ShardRow("shard-000000.tar", 1, 10240, "ab" * 32),)


def test_round_trip(tmp_path: Path) -> None:
    written = write_manifest(tmp_path, HEADER, ROWS, SHARDS)
    found = read_manifest(tmp_path)
    assert tuple(found.videos) == ROWS
    assert found.shards == SHARDS
    assert found.header == written.header
    assert found.digest == written.digest
    assert found.videos[1] == ROWS[1]
    assert found.videos[-1] == ROWS[1]
    assert found.videos[0] == ROWS[0]
    assert found.videos.column("num_frames") == [9, 0]


def test_same_rows_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_manifest(tmp_path / name, HEADER, ROWS, SHARDS)
    for file in ("dataset.json", "videos.parquet", "shards.parquet"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_no_json_value_is_null(tmp_path: Path) -> None:
    write_manifest(tmp_path, HEADER, ROWS, SHARDS)
    assert "null" not in (tmp_path / "dataset.json").read_text()
    assert pq.read_table(tmp_path / "videos.parquet").schema.equals(VIDEO_SCHEMA)


@pytest.mark.parametrize("name", ["videos.parquet", "shards.parquet"])
def test_a_changed_table_is_refused_by_name(tmp_path: Path, name: str) -> None:
    write_manifest(tmp_path, HEADER, ROWS, SHARDS)
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: sha256"):
        read_manifest(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=f"{name} is missing"):
        read_manifest(tmp_path)


def test_a_folder_without_header_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no data set"):
        read_header(tmp_path)
    (tmp_path / ".tgprep").mkdir()
    with pytest.raises(InputError, match="an unfinished extraction"):
        read_header(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        read_header(tmp_path / "nowhere")


def test_headers_of_other_versions_and_broken_ones_are_refused(tmp_path: Path) -> None:
    write_manifest(tmp_path, HEADER, ROWS, SHARDS)
    path = tmp_path / "dataset.json"
    newer = {**json.loads(path.read_text()), "format_version": 99}
    path.write_text(json.dumps(newer))
    with pytest.raises(InputError, match="format version 99, this program reads 1"):
        read_header(tmp_path)
    path.write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        read_header(tmp_path)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_manifest_at_a_url(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    root = f"file://{tmp_path}/d"
    write_manifest(root, HEADER, ROWS, SHARDS)
    assert tuple(read_manifest(root).videos) == ROWS
    with pytest.raises(InputError, match="no data set"):
        read_manifest(f"file://{tmp_path}/e")


def test_tables_of_another_form_are_refused() -> None:
    table = VideoTable.from_rows(ROWS).arrow.drop_columns(["codec"])
    with pytest.raises(InputError, match="codec"):
        VideoTable(table)


def test_rows_keep_their_order_when_taken() -> None:
    table = VideoTable.from_rows([dataclasses.replace(ROWS[0], key=f"a/{n}") for n in range(5)])
    assert [row.key for row in table.take([4, 0, 2])] == ["a/4", "a/0", "a/2"]


def test_the_header_names_its_own_digest(tmp_path: Path) -> None:
    header = write_manifest(tmp_path, HEADER, ROWS, SHARDS).header
    blank = (tmp_path / "dataset.json").read_bytes().replace(header.header_sha256.encode(), b"")
    assert hashlib.sha256(blank).hexdigest() == header.header_sha256 == header_digest(read_header(tmp_path))


def test_a_sealed_table_shows_every_changed_byte() -> None:
    table = pa.table({"key": ["a/x", "0" * 80], "flag": [True, False]})
    content = sealed_table_bytes(table)
    assert content == sealed_table_bytes(table)
    assert pq.read_table(io.BytesIO(content)).equals(table, check_metadata=True)
    assert seal_holds(content) is True
    assert seal_holds(table_bytes(table)) is None
    for place in range(len(content)):
        assert not seal_holds(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]), place
