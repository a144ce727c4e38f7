"""SECURITY.md: each of its lines names a test that exists, and bombs of every format cost a message."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import io
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from cli.prep import main
from manifests.machine import peak_memory_mb
from manifests.manifest_io import HEADER_NAME, VIDEOS_NAME, header_digest, json_bytes, read_header, read_manifest
from manifests.records import InputError
from manifests.sample import decode_offsets, encode_offsets
from manifests.splits.label_split import read_split
from tests.prep.support import moving_square, write_video
from tests.train.support import write_data_set
from tgprep.check.check import check
from tgtrain.config import load_recipe
from tgtrain.data.clip import ClipSettings, plan_eval
from tgtrain.data.reader import BadSampleError, open_reader
from tgtrain.run.folder import read_facts

ROOT = Path(__file__).parents[1]
MOST_SECONDS, MOST_MB = 20.0, 300.0  # on a busy machine


@contextmanager
def cheap() -> Iterator[None]:
    """Within, little time and memory is taken."""
    began, before = time.monotonic(), peak_memory_mb()
    yield
    assert time.monotonic() - began < MOST_SECONDS
    assert peak_memory_mb() - before < MOST_MB


def test_every_line_of_the_page_has_its_test() -> None:
    text = (ROOT / "SECURITY.md").read_text("utf-8")
    rows = [line for line in text.split("## What is not trusted")[1].splitlines() if line.startswith("|")][2:]
    assert len(rows) > 20
    for row in rows:
        match = re.search(r"`(tests/[\w/]+\.py)::(test_\w+)` \|$", row)
        assert match, row
        tree = ast.parse((ROOT / match[1]).read_text("utf-8"))
        assert match[2] in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, row
    for page in ("README.md", "docs/streaming.md", "docs/decoders.md"):
        assert "SECURITY.md" in (ROOT / page).read_text("utf-8")


def npy(array: npt.NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


class Runs:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch ran",)


def test_an_index_of_frames_holds_numbers_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hostile = [
        npy(np.array([Runs()], dtype=object)),
        npy(np.array([0, 5, 3], np.uint64)),
        npy(np.array([0, 5], np.float64)),
        npy(np.zeros((2, 2), np.uint64)),
        encode_offsets([0, 5, 9]).replace(b"(3,)", b"(9" + b"9" * 12 + b",)"),
        encode_offsets([0, 5, 9]).replace(b"'<u8'", b"'|O8'"),
        encode_offsets([0, 5, 9])[:-8],
        b"",
        b"\x93NUMPY" + b"\xff" * 200,
    ]
    with cheap():
        for content in hostile:
            with pytest.raises(ValueError):
                decode_offsets(content)
    assert not (tmp_path / "ran").exists()


def test_a_picture_of_another_size_is_not_decoded(tmp_path: Path) -> None:
    write_video(tmp_path / "videos" / "a" / "x.avi", moving_square(12))
    done = CliRunner().invoke(main, ["extract", str(tmp_path / "videos"), str(tmp_path / "set"), "--threads", "1"])
    assert done.exit_code == 0, done.output
    manifest = read_manifest(tmp_path / "set")
    (row,) = manifest.videos
    place = tmp_path / "set" / row.shard
    content = bytearray(place.read_bytes())
    head = content.index(b"\xff\xc0", row.members.rgb_offset)  # start of frame: length, precision, height, width
    content[head + 5 : head + 9] = (65_500).to_bytes(2, "big") * 2
    place.write_bytes(content)
    reader = open_reader(manifest, [row.key])
    (plan,) = plan_eval(row.num_frames, row.height, row.width, ClipSettings(clip_frames=4, interval=3, size=32))
    with cheap():
        with pytest.raises(BadSampleError, match=f"65500x65500, expected {row.width}x{row.height}"):
            reader.read(0, dataclasses.replace(plan, frames=(0, 1, 2, 3)))
        found = [finding.message for finding in check(str(tmp_path / "set"), deep=True).findings]
    assert any("65500" in message for message in found), found


def test_json_bombs_are_one_message(tmp_path: Path) -> None:
    write_data_set(tmp_path / "set")
    good = (tmp_path / "set" / HEADER_NAME).read_text()
    (tmp_path / "run").mkdir()
    bombs = ["[" * 100_000, '{"a":' * 100_000, good.replace('"settings": {', '"settings": {"x": ' + "[" * 5000 + "]" * 5000 + ","), "1" * 10**6,
             '"' + "x" * 10**6, good.replace('"folder"', '"\\ud800"'), " " * 40_000_000]  # fmt: skip
    with cheap():
        for bomb in bombs:
            (tmp_path / "set" / HEADER_NAME).write_text(bomb)
            with pytest.raises(InputError, match=r"dataset\.json"):
                read_header(tmp_path / "set")
            (tmp_path / "run" / "config.json").write_text(bomb)
            with pytest.raises((InputError, OSError), match=r"config\.json"):
                read_facts(tmp_path / "run")


def test_parquet_bombs_are_one_message(tmp_path: Path) -> None:
    """One text of a megabyte in a dictionary, that 10,000 rows name: 10 GB."""
    manifest, _ = write_data_set(tmp_path / "set")
    table = manifest.videos.arrow
    rows = 10_000
    bomb = pa.table(
        [pa.concat_arrays([column.combine_chunks()[:1]] * rows) for column in table.columns], schema=table.schema
    ).set_column(
        table.column_names.index("path"), "path", pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), ["x" * 10**6])
    )  # fmt: skip
    pq.write_table(bomb, tmp_path / "set" / VIDEOS_NAME, compression="zstd")
    content = (tmp_path / "set" / VIDEOS_NAME).read_bytes()
    assert len(content) < 10**6
    facts = json.loads((tmp_path / "set" / HEADER_NAME).read_bytes())
    digest = hashlib.sha256(content).hexdigest()
    header = dataclasses.replace(manifest.header, videos_sha256=digest, header_sha256="")
    facts |= {"videos_sha256": digest, "header_sha256": header_digest(header)}
    (tmp_path / "set" / HEADER_NAME).write_bytes(json_bytes(facts))
    with cheap(), pytest.raises(InputError, match=r"videos\.parquet"):
        read_manifest(tmp_path / "set")


@pytest.mark.parametrize("kind", ["fifo", "device", "folder"])
def test_only_regular_files_are_read(tmp_path: Path, kind: str) -> None:
    write_data_set(tmp_path / "set")
    (tmp_path / "run").mkdir()
    splits = next((tmp_path / "set" / "splits").glob("*.parquet"))
    places = [tmp_path / "set" / HEADER_NAME, tmp_path / "set" / VIDEOS_NAME, splits, tmp_path / "run" / "config.json", tmp_path / "r.toml"]  # fmt: skip
    readers: list[Callable[[], object]] = [
        lambda: read_header(tmp_path / "set"),
        lambda: read_manifest(tmp_path / "set"),
        lambda: read_split(tmp_path / "set"),
        lambda: read_facts(tmp_path / "run"),
        lambda: load_recipe(str(tmp_path / "r.toml")),
    ]
    for place, read in zip(places, readers, strict=True):
        before = place.read_bytes() if place.exists() else b""
        place.unlink(missing_ok=True)
        if kind == "fifo":
            os.mkfifo(place)
        elif kind == "device":
            place.symlink_to("/dev/zero")
        else:
            place.mkdir()
        with cheap(), pytest.raises((InputError, OSError)) as caught:
            read()
        assert isinstance(caught.value, InputError) or caught.value.filename, caught.value  # the command prints either
        (place.rmdir if kind == "folder" else place.unlink)()
        place.write_bytes(before)
