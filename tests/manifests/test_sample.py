"""A shard is a plain ustar WebDataset tar: stdlib tarfile, webdataset and PyAV read it."""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import simplejpeg
import webdataset
from hypothesis import example, given
from hypothesis import strategies as st

from manifests.records import Members
from manifests.sample import (
    MAX_MEMBER_BYTES,
    EncodedVideo,
    FrameSpool,
    MemberTooLargeError,
    decode_offsets,
    encode_offsets,
    member_header,
    write_end,
    write_sample,
)

SUFFIXES = ["json", "rgb.offsets.npy", "rgb.mjpeg", "tg.offsets.npy", "tg.mjpeg"]


def picture(level: int) -> bytes:
    """A flat 32x16 JPEG of one grey level."""
    encoded: bytes = simplejpeg.encode_jpeg(np.full((16, 32, 3), level, np.uint8), 95, "RGB", "420")
    return encoded


def spool(levels: list[int]) -> FrameSpool:
    frames = FrameSpool(io.BytesIO())
    for level in levels:
        frames.append(picture(level))
    return frames


def encoded(key: str, levels: list[int], tg: bool = True) -> EncodedVideo:
    meta = {"key": key, "class_name": key.split("/")[0], "label": 3, "num_frames": len(levels), "fps": 25.0}
    return EncodedVideo(key, meta, spool(levels), spool(levels[:-1]) if tg else None)


@pytest.fixture
def shard(tmp_path: Path) -> tuple[Path, list[tuple[int, int, Members]]]:
    path = tmp_path / "shard-000000.tar"
    with path.open("w+b") as file:
        places = [write_sample(file, encoded("Dive/v_Dive_g01_c01", [10, 60, 110]))]
        places.append(write_sample(file, encoded("Run/v_Run_g02_c01", [200, 150])))
        write_end(file)
    return path, places


def test_tarfile_reads_it(shard: tuple[Path, list[tuple[int, int, Members]]]) -> None:
    path, _ = shard
    with tarfile.open(path) as tar:
        members = tar.getmembers()
        assert [member.name for member in members] == [
            f"{key}.{suffix}" for key in ("Dive/v_Dive_g01_c01", "Run/v_Run_g02_c01") for suffix in SUFFIXES
        ]
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode, m.type) for m in members} == {
            (0, 0, 0, "", "", 0o644, tarfile.REGTYPE)
        }
        content = tar.extractfile(members[0])
        assert content is not None
        assert json.loads(content.read())["num_frames"] == 3
    assert path.stat().st_size % 10240 == 0
    assert path.read_bytes()[257:263] == b"ustar\0"  # POSIX ustar, no GNU or pax extension


def test_webdataset_reads_it(shard: tuple[Path, list[tuple[int, int, Members]]]) -> None:
    path, _ = shard
    samples: list[dict[str, Any]] = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == ["Dive/v_Dive_g01_c01", "Run/v_Run_g02_c01"]
    assert all(set(SUFFIXES) <= set(sample) for sample in samples)
    offsets = np.load(io.BytesIO(samples[0]["rgb.offsets.npy"]))
    assert offsets.dtype == np.uint64
    frames = [samples[0]["rgb.mjpeg"][a:b] for a, b in zip(offsets[:-1], offsets[1:], strict=True)]
    assert [int(simplejpeg.decode_jpeg(frame).mean()) for frame in frames] == [10, 60, 110]


def test_members_are_legal_mjpeg_streams(shard: tuple[Path, list[tuple[int, int, Members]]]) -> None:
    path, places = shard
    data = path.read_bytes()
    for (_, _, members), count in zip(places, (3, 2), strict=True):
        for offset, size, expected in (
            (members.rgb_offset, members.rgb_bytes, count),
            (members.tg_offset, members.tg_bytes, count - 1),
        ):
            with av.open(io.BytesIO(data[offset : offset + size]), format="mjpeg") as container:
                assert sum(1 for _ in container.decode(video=0)) == expected


def test_places_point_at_the_members(shard: tuple[Path, list[tuple[int, int, Members]]]) -> None:
    path, places = shard
    data = path.read_bytes()
    with tarfile.open(path) as tar:
        found = {member.name: (member.offset_data, member.size) for member in tar.getmembers()}
    for key, (_, _, m) in zip(("Dive/v_Dive_g01_c01", "Run/v_Run_g02_c01"), places, strict=True):
        assert found[f"{key}.rgb.offsets.npy"] == (m.rgb_index_offset, m.rgb_index_bytes)
        assert found[f"{key}.rgb.mjpeg"] == (m.rgb_offset, m.rgb_bytes)
        assert found[f"{key}.tg.offsets.npy"] == (m.tg_index_offset, m.tg_index_bytes)
        assert found[f"{key}.tg.mjpeg"] == (m.tg_offset, m.tg_bytes)
        offsets = decode_offsets(data[m.rgb_index_offset : m.rgb_index_offset + m.rgb_index_bytes])
        assert int(offsets[-1]) == m.rgb_bytes
    (start, size, _), (second, _, _) = places
    assert (start, second) == (0, size)


@given(
    st.text("abcXYZ019_-/.", min_size=1, max_size=120).filter(
        lambda name: not name.startswith("/") and "//" not in name
    ),
    st.integers(0, MAX_MEMBER_BYTES),
)
@example("é" * 50, 0)
@example("x" * 100, 8**11 - 1)
@example("C/" + "x" * 98 + ".tg.offsets.npy", 7)
def test_member_headers_are_those_of_tarfile(name: str, num_bytes: int) -> None:
    wanted = tarfile.TarInfo(name)
    wanted.size, wanted.mode = num_bytes, 0o644
    try:
        header = wanted.tobuf(format=tarfile.USTAR_FORMAT, encoding="utf-8")
    except ValueError:  # no slash to cut it at
        with pytest.raises(ValueError):
            member_header(name, num_bytes)
    else:
        assert member_header(name, num_bytes) == header


def test_without_gradient_the_members_are_three(tmp_path: Path) -> None:
    path = tmp_path / "shard.tar"
    with path.open("w+b") as file:
        _, _, members = write_sample(file, encoded("A/b", [1, 2], tg=False))
        write_end(file)
    with tarfile.open(path) as tar:
        assert [m.name for m in tar.getmembers()] == ["A/b.json", "A/b.rgb.offsets.npy", "A/b.rgb.mjpeg"]
    assert (members.tg_offset, members.tg_bytes) == (-1, 0)


def test_bytes_depend_on_the_sample_alone() -> None:
    files = [io.BytesIO(), io.BytesIO()]
    for file in files:
        write_sample(file, encoded("A/b", [1, 2, 3]))
    assert files[0].getvalue() == files[1].getvalue()


def test_a_member_over_8_gib_is_refused_before_anything_is_written() -> None:
    huge = FrameSpool(io.BytesIO(), [0, 8 * 1024**3])
    file = io.BytesIO()
    with pytest.raises(MemberTooLargeError, match="8589934592 bytes"):
        write_sample(file, EncodedVideo("A/b", {}, huge, None))
    assert file.getvalue() == b""


@given(st.lists(st.integers(1, 2**40), max_size=50))
def test_offsets_survive_the_round_trip(sizes: list[int]) -> None:
    offsets = [0, *np.cumsum(sizes).tolist()] if sizes else [0]
    assert decode_offsets(encode_offsets(offsets)).tolist() == offsets
    assert np.load(io.BytesIO(encode_offsets(offsets))).tolist() == offsets


@pytest.mark.parametrize("wrong", [[1, 2], [0, 5, 5], [0, 9, 3]])
def test_offsets_that_do_not_rise_are_refused(wrong: list[int]) -> None:
    with pytest.raises(ValueError, match="rise"):
        decode_offsets(encode_offsets(wrong))


def test_garbage_is_no_index() -> None:
    with pytest.raises(ValueError):
        decode_offsets(b"\x93NUMPY\x01\x00 not an array at all" * 8)


def test_every_damaged_index_is_a_value_error() -> None:
    """numpy reads the header as Python text, which fails in many ways: all of them must be the one that callers expect."""
    good = encode_offsets([0, 5, 9])
    for place in range(128):
        for bit in range(8):
            wrong = good[:place] + bytes([good[place] ^ 1 << bit]) + good[place + 1 :]
            with contextlib.suppress(ValueError):  # blanks of the header may change without harm
                decode_offsets(wrong)
