"""What is written comes out again, in memory and on disk."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest

from tgprep.encode.spool import Spool

PIECES = [bytes([number]) * (number * 7 % 50 + 1) for number in range(60)]


@pytest.mark.parametrize("bytes_in_memory", [0, 300, 1 << 20])
def test_what_is_written_is_read(tmp_path: Path, bytes_in_memory: int) -> None:
    with Spool(tmp_path, bytes_in_memory) as spool:
        for piece in PIECES:
            assert spool.write(piece) == len(piece)
        assert (spool.file is not None) == (sum(map(len, PIECES)) > bytes_in_memory)
        for _ in range(2):
            spool.seek(0)
            target = io.BytesIO()
            shutil.copyfileobj(spool, target, 16)
            assert target.getvalue() == b"".join(PIECES)
        spool.seek(0)
        first = spool.read(1)
        assert first + spool.read() == b"".join(PIECES)
        assert (spool.read(), spool.read(5)) == (b"", b"")
    assert list(tmp_path.iterdir()) == []


def test_pieces_are_not_copied(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        for piece in PIECES:
            spool.write(piece)
        spool.seek(0)
        assert all(spool.read(1) is piece for piece in PIECES)


def test_only_the_start_can_be_sought(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool, pytest.raises(io.UnsupportedOperation, match="from its start"):
        spool.seek(3)
