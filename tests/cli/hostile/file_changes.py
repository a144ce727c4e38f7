"""Changes of the files of a data set: damaged bytes, other things in their place, and samples that are not what the tables say."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from tests.cli.hostile.support import SPLIT, Change, content, read_table, shard


def file_changes(data_set: Path) -> Iterator[tuple[str, Change]]:
    """Damage to the bytes of each file, and other things in its place."""
    tar = min(path.name for path in data_set.glob("shard-*.tar"))
    files = {
        "header": "dataset.json",
        "videos": "videos.parquet",
        "shards": "shards.parquet",
        "shard": tar,
        "split": f"splits/{SPLIT}.parquet",
    }
    for name, path in files.items():
        target = name if name in ("videos", "shards", "split") else path
        size = (data_set / path).stat().st_size
        for share in (0.0, 0.1, 0.25, 0.5, 0.75, 0.9):
            yield f"{name} cut at {share}", content(target, lambda old, n=int(size * share): old[:n])
        yield f"{name} cut by one byte", content(target, lambda old: old[:-1])
        yield f"{name} longer", content(target, lambda old: old + b"x" * 1000)
        yield f"{name} zeros", content(target, lambda old: bytes(len(old)))
        yield f"{name} an empty Parquet", content(target, lambda old: b"PAR1xxxxPAR1")
        yield (
            f"{name} a Parquet of a long footer",
            content(target, lambda old: b"PAR1" + bytes(100) + b"\xff\xff\xff\x7fPAR1"),
        )
        for seed in range(12):
            yield f"{name} flipped {seed}", content(target, lambda old, s=seed: _flipped(old, s))
            yield (
                f"{name} footer flipped {seed}",
                content(target, lambda old, s=seed: old[:-700] + _flipped(old[-700:], s, 3)),
            )
        kinds = ("missing", "fifo", "socket", "folder", "device", "endless", "loop", "elsewhere", "broken link")
        for kind in kinds:
            yield f"{name} is {kind}", lambda folder, p=path, k=kind: _in_place(folder / p, k)
    for extra in (
        "splits/x.parquet",
        "splits/-.parquet",
        "shard-000009.tar",
        ".tmp-x",
        "videos-0123456789abcdef.parquet",
    ):
        for kind in ("fifo", "folder", "device", "loop", "broken link"):
            yield f"also {extra} as {kind}", lambda folder, p=extra, k=kind: _in_place(folder / p, k)
    for name in ("splits", ".tgprep"):
        for kind in ("fifo", "device", "loop"):
            yield f"folder {name} is {kind}", lambda folder, p=name, k=kind: _in_place(folder / p, k)


def _flipped(old: bytes, seed: int, count: int = 8) -> bytes:
    generator, new = random.Random(seed), bytearray(old)
    for _ in range(count):
        new[generator.randrange(len(new))] ^= 1 << generator.randrange(8)
    return bytes(new)


def _in_place(path: Path, kind: str) -> None:
    if path.is_dir() and not path.is_symlink():
        for inner in path.iterdir():
            inner.unlink()
        path.rmdir()
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        here = Path.cwd()
        os.chdir(path.parent)  # the name of a socket is short
        try:
            socket.socket(socket.AF_UNIX).bind(path.name)
        finally:
            os.chdir(here)
    elif kind == "folder":
        path.mkdir()
    elif kind != "missing":
        targets = {
            "device": "/dev/null",
            "endless": "/dev/zero",
            "loop": path.name,
            "elsewhere": "/proc/self/environ",
            "broken link": "nowhere",
        }
        path.symlink_to(targets[kind])


def sample_changes(data_set: Path) -> Iterator[tuple[str, Change]]:
    """Changes inside a shard whose digest is made to fit."""
    bomb = bytearray(simplejpeg.encode_jpeg(np.zeros((16, 16, 3), np.uint8), 50, "RGB", "420"))
    at = bomb.index(b"\xff\xc0") + 5
    bomb[at : at + 4] = (65_500).to_bytes(2, "big") * 2
    rows = read_table(data_set, "videos").to_pylist()
    kinds = [kind for kind in ("rgb", "tg", "flow") if any(row.get(f"{kind}_offset", -1) >= 0 for row in rows)]
    for kind in kinds:

        def write(name: str, new: bytes, data: bytearray, row: dict[str, Any], kind: str = kind) -> None:
            start = row[f"{kind}{name}_offset"]
            new = new[: row[f"{kind}{name}_bytes"]]
            data[start : start + len(new)] = new

        for name, new in {
            "a bomb": bytes(bomb),
            "zeros": bytes(3000),
            "a header": b"\xff\xd8\xff",
            "text": b"x" * 900,
        }.items():
            yield f"{kind} begins with {name}", shard(lambda d, r, n=new, w=write: w("", n, d, r))
        for name, numbers in {
            "falling": [0, 9, 5], "equal": [0, 0, 0], "huge": [0, 2**63, 2**64 - 1], "beyond": [0, 10**9, 10**12], "late": [5, 6, 7],
        }.items():  # fmt: skip
            yield f"{kind} offsets {name}", shard(lambda d, r, n=numbers, w=write: _offsets(d, r, n, w))
        for name, new in {
            "object": b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (9,), }", "no numpy": b"x" * 128,
            "code": b"\x93NUMPY\x01\x00v\x00{'descr': __import__('os').abort(), 'shape': (9,)}", "many": b"\x93NUMPY\x01\x00v\x00{'descr': '<u8', 'fortran_order': False, 'shape': (9999999999,), }",
        }.items():  # fmt: skip
            yield f"{kind} offsets {name}", shard(lambda d, r, n=new, w=write: w("_index", n, d, r))
    for name, new in {
        "bomb": b"[" * 400,
        "text": b"x" * 400,
        "numbers": b"9" * 400,
        "null": b"null" + b" " * 400,
        "latin-1": b'{"a": "\xe9"}',
    }.items():
        yield f"facts {name}", shard(lambda d, r, n=new: d.__setitem__(slice(512, 512 + 400), n[:400].ljust(400)))
    for name, new in {
        "negative": b"-0000000001",
        "huge": b"77777777777",
        "text": b"xxxxxxxxxxx",
        "base 256": b"\x80" + b"\xff" * 10,
    }.items():
        yield f"facts of {name} size", shard(lambda d, r, n=new: d.__setitem__(slice(124, 135), n))
    for kind in (b"1", b"2", b"5", b"x", b"g", b"S", b"3", b"6"):
        yield f"facts as tar type {kind!r}", shard(lambda d, r, k=kind: d.__setitem__(slice(156, 157), k))


def _offsets(data: bytearray, row: dict[str, Any], numbers: list[int], write: Any) -> None:
    head = data[row["rgb_index_offset"] : row["rgb_index_offset"] + 128]
    write("_index", bytes(head) + np.array(numbers, np.uint64).tobytes(), data, row)
