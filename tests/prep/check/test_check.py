"""`tgprep check`: a sound data set passes, every changed byte and every broken promise is found, named and mended."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from click.testing import CliRunner

from cli.prep import main
from manifests.gradient import temporal_gradient
from manifests.manifest_io import read_manifest
from manifests.records import GradientCoding, InputError, Members
from manifests.sample import decode_offsets
from manifests.splits.label_split import make_split, write_split
from manifests.splits.settings import SplitSettings
from manifests.table import Manifest
from tests.conftest import Reliability
from tests.prep.support import check_after, extract_videos
from tgprep.check.check import CheckReport, check
from tgprep.check.frames import FrameError, check_frames, decode, luma_error
from tgprep.check.repair import repair
from tgprep.obtain.sample import SampleSettings, render_sample

SAMPLE = SampleSettings(
    num_classes=2, num_groups=4, clips_per_group=1, width=64, height=48, min_frames=8, max_frames=12
)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight small videos and one that does not decode."""
    root = tmp_path_factory.mktemp("check") / "videos"
    render_sample(root, SAMPLE)
    (min(path for path in root.iterdir() if path.is_dir()) / "broken.avi").write_bytes(b"no video at all")
    return root


def make(videos: Path, out: Path, **settings: object) -> Manifest:
    manifest = extract_videos(videos, out, **{"videos_per_shard": 3, **settings}).manifest
    write_split(out, make_split(manifest, SplitSettings(percent=50)))
    return manifest


@pytest.fixture(scope="module")
def sound(videos: Path) -> Path:
    out = videos.parent / "dataset"
    make(videos, out)
    return out


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "dataset"))


def kinds(report: CheckReport) -> set[str]:
    return {finding.kind for finding in report.findings}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"space": "rgb", "quality": 60},
        {"gradient_source": "jpeg"},
        {"gradient": "derived"},
        {"subsampling": "444"},
        {"store": "video"},
        {"flow": "dis"},
        {"store": "video", "flow": "farneback", "compat": "flow_magnitude"},
    ],
)
def test_what_extract_writes_is_sound(videos: Path, tmp_path: Path, settings: dict[str, object]) -> None:
    manifest = make(videos, tmp_path / "out", **settings)
    report = check(str(tmp_path / "out"), deep=True, against=videos)
    assert report.findings == ()
    frames = sum(manifest.videos.column("num_frames"))
    num_pair_streams = manifest.header.gradient.stored + ("flow" in settings)
    assert report.num_frames == frames + num_pair_streams * (frames - 8)
    assert (report.num_videos, report.num_shards, report.num_splits, report.num_sources) == (9, 3, 1, 8)
    assert report.num_bytes == sum(shard.num_bytes for shard in manifest.shards)


def flip_all(folder: Path, count: int, seed: int) -> None:
    """Flip single bits at random places of every file, weighted by size, with at least a share for the small ones."""
    generator = random.Random(seed)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert {path.name.split(".")[-1] for path in files} == {"tar", "parquet", "json"}
    for number in range(count):
        path = generator.choice(files) if number % 2 else max(files, key=lambda file: file.stat().st_size)
        good = path.read_bytes()
        place, bit = generator.randrange(len(good)), generator.randrange(8)
        path.write_bytes(good[:place] + bytes([good[place] ^ 1 << bit]) + good[place + 1 :])
        try:
            report = check(str(folder), threads=1)
        except InputError as error:
            pytest.fail(f"{path.name}, byte {place}, bit {bit}: {error}")
        assert not report.sound, f"{path.name}, byte {place}, bit {bit} was not found"
        assert any(path.name in finding.place for finding in report.findings), (path.name, report.findings)
        path.write_bytes(good)
    assert check(str(folder)).sound


def test_every_flipped_bit_is_found(copy: Path) -> None:
    flip_all(copy, 60, seed=6)


@pytest.mark.long
def test_every_flipped_bit_is_found_in_full(copy: Path, reliability: Reliability) -> None:
    flip_all(copy, 500, seed=500)
    reliability.record(
        "Damage to a data set",
        "one bit flipped at a random place of shards, tables, header and split; told by `tgprep check`",
        num_flips=500,
        num_not_found=0,
    )


def test_every_byte_of_header_and_split_counts(copy: Path) -> None:
    for path in (copy / "dataset.json", next((copy / "splits").iterdir())):
        good = path.read_bytes()
        for place in range(0, len(good), 23):
            path.write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
            assert not check(str(copy), threads=1).sound, (path.name, place)
        path.write_bytes(good)


def first_changed(**changes: object) -> Callable[[Manifest], Manifest]:
    def change(manifest: Manifest) -> Manifest:
        rows = list(manifest.videos)
        place = next(at for at, row in enumerate(rows) if row.status == "written" and row.sample_offset == 0)
        members = {name: value for name, value in changes.items() if name in Members.__slots__}
        rows[place] = dataclasses.replace(
            rows[place],
            members=dataclasses.replace(rows[place].members, **members),  # type: ignore[arg-type]
            **{name: value for name, value in changes.items() if name not in members},
        )
        return dataclasses.replace(manifest, videos=type(manifest.videos).from_rows(rows))

    return change


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"class_name": "Nothing"}, "label"),
        ({"label": 7}, "label"),
        ({"num_frames": 5}, "members"),
        ({"fps": 24.0}, "facts"),
        ({"group": "g99"}, "facts"),
        ({"source_sha256": "0" * 64}, "facts"),
        ({"height": 32}, "facts"),
        ({"height": 0}, "frames"),
        ({"rgb_offset": 5000}, "member-place"),
        ({"sample_bytes": 512}, "sample-place"),
        ({"subsets": ("train", "test", "train")}, "subsets"),
        ({"error": "odd"}, "error"),
        ({"source_sha256": ""}, "source"),
        ({"shard": "shard-000099.tar"}, "shard-unknown"),
        ({"status": "failed", "error": "odd"}, "count"),
        ({"status": "lost"}, "status"),
        ({"key": "no-slash"}, "key"),
    ],
)
def test_rows_that_break_a_rule_are_found(copy: Path, changes: dict[str, object], kind: str) -> None:
    assert kind in kinds(check_after(copy, first_changed(**changes)))


def test_unchanged_rows_pass_the_same_way(copy: Path) -> None:
    assert check_after(copy, lambda manifest: manifest).sound


def patched(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert len(old) == len(new)
    assert old in data
    path.write_bytes(data.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        (b'"fps": 25.0', b'"fps": null', "facts"),
        (b'"fps": 25.0', b'"fps":  25.', "facts"),
        (b"0000644\0", b"0000755\0", "tar-header"),
        (b".rgb.mjpeg", b".rgb.mjpag", "tar-header"),
        (b"\x93NUMPY", b"\x93NUMPX", "offsets"),
        (b"\xff\xd9\xff\xd8", b"\xff\xd9\xff\xd9", "frames"),
    ],
)
def test_shard_bytes_that_break_the_format_are_found(copy: Path, old: bytes, new: bytes, kind: str) -> None:
    patched(copy / "shard-000001.tar", old, new)
    report = check_after(copy, lambda manifest: manifest)
    assert kinds(report) == {kind}
    assert "shard-000001.tar, " in report.findings[0].place


def test_a_wrong_gradient_is_found(copy: Path) -> None:
    """TG frames in another order are perfectly good JPEG files: only the recomputed gradient tells."""
    manifest = read_manifest(copy)
    row = next(row for row in manifest.videos if row.status == "written")
    path = copy / row.shard
    data = bytearray(path.read_bytes())
    place, size = row.members.tg_index_offset, row.members.tg_index_bytes
    offsets = decode_offsets(bytes(data[place : place + size])).astype(int).tolist()
    tg = bytes(data[row.members.tg_offset : row.members.tg_offset + row.members.tg_bytes])
    parts = [tg[a:b] for a, b in zip(offsets, offsets[1:], strict=False)]
    parts.insert(0, parts.pop())
    moved = [0]
    for part in parts:
        moved.append(moved[-1] + len(part))
    data[row.members.tg_offset : row.members.tg_offset + row.members.tg_bytes] = b"".join(parts)
    data[place + size - 8 * len(moved) : place + size] = np.asarray(moved, "<u8").tobytes()
    path.write_bytes(data)
    report = check_after(copy, lambda same: same)
    assert kinds(report) == {"frames"}
    assert row.key in report.findings[0].place
    assert "not the temporal gradient" in report.findings[0].message


def test_strangers_and_lost_shards(copy: Path) -> None:
    shutil.copy(copy / "shard-000000.tar", copy / "shard-000003.tar")
    (copy / "shard-000001.tar").unlink()
    (copy / ".tmp-1-shard-000001.tar").write_bytes(b"x")
    report = check(str(copy))
    assert kinds(report) == {"stranger", "shard-missing"}
    assert report.damaged_shards == ("shard-000001.tar",)
    assert any(".tmp-1" in note for note in report.notes)


def test_a_quick_check_knows_tables_splits_and_the_sizes_of_shards(copy: Path, videos: Path) -> None:
    assert check(str(copy), quick=True).sound
    patched(copy / "shard-000002.tar", b"\x93NUMPY", b"\x93NUMPX")
    report = check(str(copy), quick=True)
    assert (report.sound, report.quick, report.num_shards) == (True, True, 3)  # not told: it reads no bytes of shards
    assert not check(str(copy)).sound
    (copy / "shard-000000.tar").unlink()
    with (copy / "shard-000001.tar").open("ab") as file:
        file.write(b"x")
    report = check(str(copy), quick=True)
    assert [(finding.place, finding.kind) for finding in report.findings] == [
        ("shard-000000.tar", "shard-missing"),
        ("shard-000001.tar", "shard-size"),
    ]
    assert report.damaged_shards == ("shard-000000.tar", "shard-000001.tar")
    (split,) = (copy / "splits").iterdir()
    split.write_bytes(split.read_bytes()[:-1])
    assert "split" in {finding.kind.partition("-")[0] for finding in check(str(copy), quick=True).findings}
    for words in (["--deep"], ["--against", str(videos)], ["--repair", "--against", str(videos)]):
        refused = CliRunner().invoke(main, ["check", str(copy), "--quick", *words])
        assert refused.exit_code == 2
        assert "--quick looks at no bytes" in refused.stderr
    told = CliRunner().invoke(main, ["check", str(copy), "--quick"])
    assert told.exit_code == 1
    assert "bytes of shards not read" in told.stdout


def test_the_data_set_of_the_scale_benchmark_is_sound(tmp_path: Path) -> None:
    place = Path(__file__).parents[3] / "benchmarks" / "scale.py"
    loaded = importlib.util.spec_from_file_location("scale", place)
    assert loaded is not None
    assert loaded.loader is not None
    scale = importlib.util.module_from_spec(loaded)
    loaded.loader.exec_module(scale)
    scale.make(tmp_path / "dataset", 150)
    report = check(str(tmp_path / "dataset"), threads=1)
    assert (report.findings, report.num_videos, report.num_shards) == ((), 150, 3)


def test_sources_that_changed_are_found(sound: Path, videos: Path, tmp_path: Path) -> None:
    changed = Path(shutil.copytree(videos, tmp_path / "videos"))
    first, second, *_ = sorted(changed.rglob("v_*"))
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes(data)
    second.unlink()
    report = check(str(sound), against=changed)
    assert {(finding.kind, Path(finding.place).name) for finding in report.findings} == {
        ("source", first.name),
        ("source", second.name),
    }
    with pytest.raises(InputError, match="no such folder"):
        check(str(sound), against=tmp_path / "nowhere")


def test_repair_brings_the_recorded_bytes_back(copy: Path, sound: Path, videos: Path) -> None:
    untouched = (copy / "shard-000000.tar").stat().st_mtime_ns
    (copy / "shard-000001.tar").write_bytes(b"gone")
    (copy / "shard-000002.tar").unlink()
    report = check(str(copy))
    assert report.damaged_shards == ("shard-000001.tar", "shard-000002.tar")
    outcome = repair(copy, videos, report.damaged_shards)
    assert outcome.repaired == report.damaged_shards
    assert outcome.failed == ()
    assert check(str(copy), deep=True, against=videos).sound
    for path in sound.iterdir():
        if path.is_file():
            assert (copy / path.name).read_bytes() == path.read_bytes()
    assert (copy / "shard-000000.tar").stat().st_mtime_ns == untouched
    assert not (copy / ".tgprep").exists()


def test_repair_from_other_videos_replaces_nothing(copy: Path, videos: Path, tmp_path: Path) -> None:
    other = tmp_path / "videos"
    render_sample(other, dataclasses.replace(SAMPLE, seed=1))
    (copy / "shard-000001.tar").write_bytes(b"gone")
    outcome = repair(copy, other, ["shard-000001.tar"])
    assert outcome.repaired == ()
    assert "videos are not those that were extracted" in outcome.failed[0][1]
    assert (copy / "shard-000001.tar").read_bytes() == b"gone"
    for path in other.rglob("v_*"):
        path.write_bytes(b"no video")
    assert "cannot be extracted" in repair(copy, other, ["shard-000001.tar"]).failed[0][1]
    shutil.rmtree(other)
    with pytest.raises(InputError, match="no such folder"):
        repair(copy, other, ["shard-000001.tar"])


def test_the_command(copy: Path, videos: Path) -> None:
    run = CliRunner()
    good = run.invoke(main, ["check", str(copy), "--deep", "--json"])
    assert good.exit_code == 0, good.output
    assert json.loads(good.stdout)["sound"] is True
    (copy / "shard-000001.tar").write_bytes(b"gone")
    bad = run.invoke(main, ["check", str(copy)])
    assert bad.exit_code == 1
    assert "shard-000001.tar" in bad.stdout
    assert "--repair" in bad.stdout
    assert run.invoke(main, ["check", str(copy), "--repair"]).exit_code == 2
    mended = run.invoke(main, ["check", str(copy), "--repair", "--against", str(videos), "--json"])
    assert mended.exit_code == 0, mended.output
    assert json.loads(mended.stdout)["repaired"] == ["shard-000001.tar"]
    nothing = run.invoke(main, ["check", str(copy / "splits")])
    assert nothing.exit_code == 2
    assert "no data set" in nothing.stderr


def jpeg(frame: np.ndarray, quality: int = 95) -> bytes:  # type: ignore[type-arg]
    encoded: bytes = simplejpeg.encode_jpeg(frame, quality, "RGB", "420")
    return encoded


@pytest.mark.parametrize("quality", [30, 75, 95, 100])
def test_honest_gradients_stay_within_the_bound(quality: int) -> None:
    """Noise is what JPEG bears worst; the bound must hold for it too, with pixels at both ends of the range."""
    generator = np.random.default_rng(quality)
    frames = [generator.integers(0, 256, (48, 64, 3)).astype(np.uint8) for _ in range(3)]
    frames += [np.zeros((48, 64, 3), np.uint8), np.full((48, 64, 3), 255, np.uint8)]
    tg = [jpeg(temporal_gradient(a, b), quality) for a, b in zip(frames, frames[1:], strict=False)]
    rgb = [jpeg(frame, quality) for frame in frames]
    assert check_frames(iter(rgb), iter(tg), GradientCoding(space="rgb"), 48, 64) == (9, [])
    tg[0], tg[2] = tg[2], tg[0]
    assert check_frames(iter(rgb), iter(tg), GradientCoding(space="rgb"), 48, 64)[1]


def test_luma_error_is_read_from_the_file() -> None:
    flat = np.full((16, 16, 3), 90, np.uint8)
    # Quality 100 has steps of 1 everywhere; quality 50 the table of ITU-T T.81, annex K.1, whose first step is 16.
    assert luma_error(jpeg(flat, 100)).rms == 0.5
    assert luma_error(jpeg(flat, 100)).mean == 1 / 16
    assert luma_error(jpeg(flat, 50)).mean == 1.0
    with pytest.raises(FrameError, match="tables"):
        luma_error(b"\xff\xd8\xff\xd9")


def test_frames_of_another_size_or_cut_off_are_refused() -> None:
    good = jpeg(np.full((16, 24, 3), 90, np.uint8))
    assert decode(good, 16, 24).shape == (16, 24)
    with pytest.raises(FrameError, match="24x16, expected 16x24"):
        decode(good, 24, 16)
    with pytest.raises(FrameError, match="begin and end"):
        decode(good[:-1], 16, 24)
    with pytest.raises(FrameError, match="decode"):
        decode(good[:-12] + b"\xff\xd9", 16, 24)
