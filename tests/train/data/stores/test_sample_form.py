"""What can be known of a sample that came without its shard: intact ones have no fault, damage at each place is named."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from manifests.manifest_io import read_manifest
from manifests.sample import video_gop
from manifests.table import Manifest
from tests.prep.support import extract_videos, numbered, write_video
from tgtrain.data.stores.remote import sample_fault
from tgtrain.data.stores.video_index import index_of


def faults(manifest: Manifest, flipped: tuple[str, int] = ("", 0)) -> list[str]:
    """Of every sample; flipped: shard and place of a byte of which all bits are."""
    shards = {shard.name: bytearray((Path(manifest.root) / shard.name).read_bytes()) for shard in manifest.shards}
    if flipped[0]:
        shards[flipped[0]][flipped[1]] ^= 0xFF
    places = index_of(manifest, manifest.videos.column("key"))
    return [
        sample_fault(
            place,
            lambda offset, size, place=place: bytes(shards[place.shard][offset : offset + size]),  # type: ignore[misc]
            mp4=video_gop(manifest.header) > 0,
        )
        for place in places
    ]


@pytest.mark.parametrize("options", [{"store": "video", "flow": "dis"}, {"store": "frames", "flow": "dis"}, {}])
def test_extracted_samples_have_no_fault(options: dict[str, str], tmp_path: Path) -> None:
    for number in range(2):
        write_video(
            tmp_path / "videos" / "c" / f"v{number}.avi",
            [numbered(k, 40, 64) for k in range(9 + number)],
            "png",
            "rgb24",
        )
    made = extract_videos(tmp_path / "videos", tmp_path / "set", **options)
    assert faults(made.manifest) == ["", ""]


def test_damage_at_each_member_is_named(data_set: Path) -> None:
    manifest = read_manifest(data_set)
    row = manifest.videos[0]
    m = row.members

    def fault(at: int) -> str:
        found, *others = faults(manifest, (row.shard, at))
        assert not any(others)
        return found

    content = (data_set / row.shard).read_bytes()
    index = np.load(io.BytesIO(content[m.tg_index_offset : m.tg_index_offset + m.tg_index_bytes]))
    assert fault(m.rgb_index_offset - 500) == "the tar header of its rgb.offsets.npy is not the one of the manifest"
    assert fault(m.tg_offset - 380) == "the tar header of its tg.mjpeg is not the one of the manifest"
    assert fault(m.rgb_index_offset + 3).startswith("rgb.offsets.npy: not a valid .npy file")
    assert fault(m.tg_index_offset + 128 + 8 + 1).startswith("tg.offsets.npy: frame offsets must")
    assert fault(
        m.tg_index_offset + 128 + 8 * 19
    ) == "tg.offsets.npy names 19 frames, expected 19 that end at byte " + str(m.tg_bytes)
    assert fault(m.rgb_offset) == "RGB frame 0 does not begin as a JPEG file"
    assert fault(m.tg_offset + int(index[7]) + 1) == "TG frame 7 does not begin as a JPEG file"
    assert fault(m.tg_offset + int(index[7]) + 300) == ""  # this shows when it is decoded
