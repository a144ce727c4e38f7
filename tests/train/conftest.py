"""A small data set of real shards, made once: noise-free synthetic frames with known values, packed by the contract."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg

from manifests.gradient import temporal_gradient
from manifests.manifest_io import file_sha256, write_manifest
from manifests.records import WRITTEN, GradientCoding, ManifestHeader, ShardRow, VideoRow
from manifests.sample import EncodedVideo, FrameSpool, write_end, write_sample
from manifests.splits.label_split import LabelSplit, make_split, write_split
from manifests.splits.settings import SplitSettings
from manifests.table import Manifest
from tests.train.report.pages import write_run, write_test

HEIGHT, WIDTH = 48, 64


def frame(label: int, number: int, index: int) -> npt.NDArray[np.uint8]:
    """A picture that tells class, video and frame: a block that moves down (class 0), right (1) or stays (2)."""
    picture = np.full((HEIGHT, WIDTH, 3), (30 + 5 * number, 60, 90), np.uint8)
    row, column = {0: (index % 32, 20), 1: (16, index % 48), 2: (16, 20)}[label % 3]
    picture[row : row + 12, column : column + 12] = (220, 200 - 7 * number, 40)
    return picture


def _spool(pictures: list[npt.NDArray[np.uint8]]) -> FrameSpool:
    spool = FrameSpool(io.BytesIO())
    for picture in pictures:
        spool.append(simplejpeg.encode_jpeg(picture, 95, "RGB", "444"))
    return spool


def write_data_set(
    root: Path, num_classes: int = 3, groups: int = 6, num_frames: int = 20, stored_tg: bool = True, num_shards: int = 2
) -> tuple[Manifest, LabelSplit]:
    """A data set of num_classes x groups videos (the last two groups test) with one 50 % split, in num_shards shards."""
    root.mkdir(parents=True)
    rows: list[VideoRow] = []
    shards: list[ShardRow] = []
    videos = [(label, group) for group in range(groups) for label in range(num_classes)]
    each = -(-len(videos) // num_shards)
    for number, part in enumerate(videos[start : start + each] for start in range(0, len(videos), each)):
        name = f"shard-{number:06d}.tar"
        with (root / name).open("w+b") as tar:
            for label, group in part:
                pictures = [frame(label, group, index) for index in range(num_frames)]
                gradients = [temporal_gradient(a, b) for a, b in zip(pictures, pictures[1:], strict=False)]
                key = f"class{label}/v_{group:02d}"
                encoded = EncodedVideo(key, {"key": key}, _spool(pictures), _spool(gradients) if stored_tg else None)
                offset, size, members = write_sample(tar, encoded)
                subset = "test" if group >= groups - 2 else "train"
                rows.append(
                    VideoRow(
                        key=key, path=f"{key}.avi", class_name=f"class{label}", label=label, group=f"g{group:02d}",
                        subsets=(subset,), status=WRITTEN, shard=name, sample_offset=offset, sample_bytes=size,
                        members=members, num_frames=num_frames, height=HEIGHT, width=WIDTH, fps=25.0,
                    )
                )  # fmt: skip
            write_end(tar)
        shards.append(ShardRow(name, len(part), (root / name).stat().st_size, file_sha256(root / name)))
    header = ManifestHeader(
        dataset="folder",
        classes=tuple(f"class{label}" for label in range(num_classes)),
        gradient=GradientCoding(space="rgb") if stored_tg else GradientCoding("jpeg", "rgb", stored=False),
        settings={"quality": 95},
        versions={},
        num_folds=1,
        num_written=len(rows),
    )
    manifest = write_manifest(root, header, sorted(rows, key=lambda row: row.key), shards)
    split = make_split(manifest, SplitSettings(percent=50, strategy="stratified"))
    write_split(root, split)
    return manifest, split


@pytest.fixture(scope="session")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small data set; do not change it."""
    root = tmp_path_factory.mktemp("data") / "set"
    write_data_set(root)
    return root


@pytest.fixture
def make_data_set(tmp_path: Path) -> Callable[..., Path]:
    """Makes data sets of its own for a test that changes them."""

    def make(name: str = "set", **options: int) -> Path:
        write_data_set(tmp_path / name, **options)  # type: ignore[arg-type]
        return tmp_path / name

    return make


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a tested run, made up."""
    folder = write_run(tmp_path / "runs" / "first")
    write_test(folder, [[3, 1], [2, 4]])
    return folder
