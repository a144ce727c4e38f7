"""Parts of JPEG pictures between restart markers against the complete pictures."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from manifests.gradient import Frame
from manifests.manifest_io import read_manifest
from tests.prep.encode.support import picture
from tgprep import extract
from tgprep.encode import jpeg_tables
from tgprep.encode.fused import PlaneEncoder
from tgtrain.data import reader as reading
from tgtrain.data.clip import ClipPlan, ClipSettings, plan_eval, plan_train
from tgtrain.data.crop import CropBox, Size
from tgtrain.data.jpeg_bands import Bands, cut_bands
from tgtrain.data.reader import BadSampleError, open_reader
from tgtrain.randomness import sample_seed

HEIGHT, WIDTH = 100, 200  # 7 rows of 13 squares, in intervals of 13


def encoded(height: int, width: int, quality: int = 95, seed: int = 1) -> list[bytes]:
    """Two frames and their gradient."""
    encoder = PlaneEncoder(height, width, quality, limited=False)
    files = []
    for number in (seed, seed + 1):
        planes = picture(height, width, number)
        files += [file for file in encoder.encode(planes.y, planes.cb, planes.cr) if file]
    return files


def part_of(frame: Frame, box: CropBox) -> Frame:
    return frame[box.top : box.top + box.height, box.left : box.left + box.width]


def inside(box: CropBox, outer: CropBox) -> CropBox:
    """A box in pixels of a part."""
    return CropBox(box.top - outer.top, box.left - outer.left, box.height, box.width)


def decoded(jpeg: bytes | memoryview) -> Frame:
    pixels: Frame = simplejpeg.decode_jpeg(jpeg, colorspace="RGB")
    return pixels


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_pixels_are_those_of_the_complete_pictures(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 90), "height"), data.draw(st.integers(1, 330), "width")
    columns = -(-width // 16)
    interval = data.draw(st.sampled_from([n for n in range(1, columns + 1) if columns % n == 0]), "interval")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jpeg_tables, "restart_interval", lambda columns: interval)
        files = encoded(height, width, data.draw(st.sampled_from([5, 95, 100]), "quality"))
    for _ in range(6):
        top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
        box = CropBox(top, left, data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left)))
        bands = cut_bands(files, box, Size(height, width))
        assert bands is not None
        for file, jpeg in zip(files, bands.jpegs, strict=True):
            got = decoded(jpeg)
            assert got.shape[:2] == (bands.box.height, bands.box.width)
            np.testing.assert_array_equal(part_of(got, inside(box, bands.box)), part_of(decoded(file), box))


def test_only_the_rectangle_of_the_crop_is_decoded() -> None:
    files = encoded(240, 320)  # in intervals of 4 of 20 squares

    def shown(*box: int) -> tuple[int, int, int, int]:
        bands = cut_bands(files, CropBox(*box), Size(240, 320))
        assert bands is not None
        assert all(len(jpeg) < len(file) for file, jpeg in zip(files, bands.jpegs, strict=True))
        return bands.box.top, bands.box.left, bands.box.height, bands.box.width

    assert shown(33, 65, 14, 62) == (32, 64, 16, 64)
    assert shown(32, 65, 14, 62) == (16, 64, 32, 64)  # chroma of the first row is mixed with that above it
    assert shown(33, 65, 15, 63) == (32, 64, 32, 128)
    assert shown(0, 0, 1, 1) == (0, 0, 16, 64)
    assert shown(239, 319, 1, 1) == (224, 256, 16, 64)


def refused(files: list[bytes], size: Size = Size(HEIGHT, WIDTH)) -> bool:  # noqa: B008
    return cut_bands(files, CropBox(40, 40, 20, 20), size) is None


def test_other_pictures_are_left_whole() -> None:
    files = encoded(HEIGHT, WIDTH)
    assert not refused(files)
    assert refused(files, Size(HEIGHT, WIDTH + 1))
    pixels = decoded(files[0])
    foreign = [simplejpeg.encode_jpeg(pixels, 95, "RGB", form) for form in ("420", "444", "422", "Gray")]
    progressive = io.BytesIO()
    Image.fromarray(pixels).save(progressive, "JPEG", progressive=True, restart_marker_rows=1)
    baseline = io.BytesIO()
    Image.fromarray(pixels).save(baseline, "JPEG", subsampling=2, restart_marker_blocks=3, optimize=True)
    for file in (*foreign, progressive.getvalue(), baseline.getvalue(), b"", b"\xff\xd8"):
        assert refused([file])
        assert refused([files[0], file])
    assert refused([files[0], encoded(HEIGHT, WIDTH, quality=90)[0]])


def test_restart_markers_of_another_encoder_are_used() -> None:
    """Pillow writes the same form with the standard's Huffman tables."""
    file = io.BytesIO()
    Image.fromarray(decoded(encoded(HEIGHT, 192)[0])).save(file, "JPEG", subsampling=2, restart_marker_blocks=3)
    box = CropBox(50, 70, 33, 40)
    bands = cut_bands([file.getvalue()], box, Size(HEIGHT, 192))
    assert bands is not None
    assert bands.box == CropBox(48, 48, 48, 96)
    expected = part_of(decoded(file.getvalue()), box)
    np.testing.assert_array_equal(part_of(decoded(bands.jpegs[0]), inside(box, bands.box)), expected)


def changes(file: bytes) -> Iterator[tuple[str, bytes]]:
    """Damaged and inconsistent forms of a picture with a marker after each row of squares."""
    start = file.index(b"\xff\xda") + 14
    interval = file.index(b"\xff\xdd") + 4
    first, second, third = (file.index(bytes([0xFF, 0xD0 + n]), start) for n in range(3))
    for count in (0, 1, 12, 14, 26, 65535):
        yield f"interval {count}", file[:interval] + count.to_bytes(2, "big") + file[interval + 2 :]
    yield "missing marker", file[:second] + file[second + 2 :]
    yield "missing row", file[:second] + file[third:]
    yield "extra marker", file[: second + 9] + b"\xff\xd1" + file[second + 9 :]
    yield "wrong number", file[:second] + b"\xff\xd6" + file[second + 2 :]
    yield "two exchanged", file[:first] + b"\xff\xd1" + file[first + 2 : second] + b"\xff\xd0" + file[second + 2 :]
    yield "moved marker", file[:second] + file[second + 2 : second + 30] + b"\xff\xd1" + file[second + 30 :]
    yield "end in the middle", file[:second] + b"\xff\xd9" + file[second + 2 :]
    yield "fill bytes", file[:second] + b"\xff" + file[second:]
    yield "markers in the header", file[:40] + b"\xff\xd0\xff\xd1" + file[44:]
    yield "trailing bytes", file + b"\0\xff\xd9"
    for end in (start, first, second + 1, second + 40, len(file) - 2, len(file) - 1):
        yield f"cut at {end}", file[:end]
    yield "zeros", file[: first + 2] + b"\0" * (second - first - 2) + file[second:]


def test_damage_gives_the_error_of_the_complete_picture_or_the_same_pixels() -> None:
    """Whatever a file claims: within the part, never other pixels than a complete decoding gives."""
    file = encoded(HEIGHT, WIDTH)[0]
    expected: Frame | None
    box, outcomes = CropBox(20, 30, 30, 100), dict[str, str]()
    for name, changed in changes(file):
        try:
            expected = decoded(changed)
        except ValueError:
            expected = None
        bands = cut_bands([changed], box, Size(HEIGHT, WIDTH))
        if bands is None:
            outcomes[name] = "whole"
            continue
        try:
            got = part_of(decoded(bands.jpegs[0]), inside(box, bands.box))
        except ValueError:
            assert expected is None, name  # the reader then decodes the complete picture, for its message
            outcomes[name] = "error"
            continue
        outcomes[name] = "pixels"
        # Damage outside of the part is not seen, and does no harm.
        np.testing.assert_array_equal(got, part_of(decoded(file) if expected is None else expected, box), name)
    assert len(outcomes) > 20
    assert {name: outcome for name, outcome in outcomes.items() if outcome != "whole"} == {
        "moved marker": "error", "zeros": "error", "markers in the header": "pixels",
    }  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 4000), st.binary(min_size=0, max_size=6), st.integers(0, 12))
def test_no_bytes_lead_outside(at: int, replaced: bytes, removed: int) -> None:
    """Random damage: a refusal, an error, or a picture of the right size."""
    file = _FILE[: at % len(_FILE)] + replaced + _FILE[at % len(_FILE) + removed :]
    bands = cut_bands([file, file], CropBox(20, 30, 10, 100), Size(HEIGHT, WIDTH))
    for jpeg in bands.jpegs if bands else ():
        assert bands is not None
        try:
            assert decoded(jpeg).shape == (bands.box.height, bands.box.width, 3)
        except ValueError:
            continue


_FILE = encoded(HEIGHT, WIDTH, 30)[0]


@pytest.fixture(scope="module")
def real(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of UCF101 as a shard."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "videos" / "Punch").mkdir(parents=True)
    shutil.copy(shared / "videos" / "ucf101" / "Punch" / "v_Punch_g01_c03.avi", folder / "videos" / "Punch")
    extract(folder / "videos", folder / "out", dataset="folder", threads=1)
    return folder / "out"


def plans_of(num_frames: int, height: int, width: int, seed: int) -> Iterator[tuple[str, tuple[ClipPlan, ...]]]:
    rng = sample_seed(seed, 0, 0, "k", 0)
    for name, chosen in {
        "one": ClipSettings(clip_frames=2),
        "apart": ClipSettings(clip_frames=2, shared_crop=False),
        "two": ClipSettings(clip_frames=2, num_clips=2),
        "slow": ClipSettings(clip_frames=2, gradient="slow"),
        "jitter": ClipSettings(clip_frames=2, crop="jitter"),
    }.items():
        yield name, plan_train(num_frames, height, width, chosen, rng)
    for crops in (1, 3):
        yield f"{crops} crops", plan_eval(num_frames, height, width, ClipSettings(clip_frames=2), 1, crops)


@pytest.mark.parametrize("stored_tg", [True, False])
def test_clips_of_real_videos_are_those_of_complete_pictures(
    real: Path, monkeypatch: pytest.MonkeyPatch, stored_tg: bool
) -> None:
    manifest = read_manifest(real)
    reader = open_reader(manifest, manifest.videos.column("key"))
    if not stored_tg:  # TG is then computed from RGB
        reader.index.numbers[:, 7:11] = -1, 0, -1, 0
    used: dict[str, int] = {}
    for seed in range(2):
        for number, video in enumerate(reader.index):
            for name, plans in plans_of(video.num_frames, video.height, video.width, seed):
                cut: list[Bands | None] = []
                with monkeypatch.context() as patch:
                    patch.setattr(
                        reading, "cut_bands", lambda *given, cut=cut: cut.append(cut_bands(*given)) or cut[-1]
                    )
                    clips = reader.read_views(number, plans)
                with monkeypatch.context() as patch:
                    patch.setattr(reading, "cut_bands", lambda *given: None)
                    expected = reader.read_views(number, plans)
                for clip, whole in zip(clips, expected, strict=True):
                    np.testing.assert_array_equal(clip.rgb, whole.rgb)
                    assert clip.tg is not None
                    np.testing.assert_array_equal(clip.tg, whole.tg)
                used[name] = used.get(name, 0) + sum(bands is not None for bands in cut)
    assert used.pop("3 crops") == 0  # a test scales the complete frame first
    assert all(used.values())


def test_damage_in_a_part_is_named_as_before(real: Path, tmp_path: Path) -> None:
    shutil.copytree(real, tmp_path / "set")
    manifest = read_manifest(tmp_path / "set")
    row = manifest.videos[0]
    with (tmp_path / "set" / row.shard).open("r+b") as shard:
        shard.seek(row.members.rgb_offset + 3000)
        shard.write(b"\0" * 3000)
    reader = open_reader(manifest, [row.key])
    (plan,) = plan_eval(row.num_frames, row.height, row.width, ClipSettings(clip_frames=1, interval=1))
    plan = replace(plan, frames=(0,), tg_frames=(0,))
    with pytest.raises(BadSampleError, match=rf"{row.key} in {row.shard}: RGB frame 0 is damaged \(Corrupt JPEG data"):
        reader.read(0, plan)
