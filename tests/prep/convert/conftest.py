"""A small data set and its rawframes tree."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from manifests.manifest_io import read_manifest
from manifests.splits.label_split import make_split, write_split
from manifests.splits.settings import SplitSettings
from tests.prep.support import extract_videos
from tgprep.convert.export_rawframes import export_rawframes
from tgprep.obtain.sample import SampleSettings, render_sample, write_annotations
from tgprep.scan.scan import scan


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of four videos in UCF101's form, with official lists and a split."""
    root = tmp_path_factory.mktemp("raw")
    settings = SampleSettings(
        num_classes=2, num_groups=4, clips_per_group=1, width=64, height=48, min_frames=8, max_frames=12
    )
    render_sample(root / "videos", settings)
    write_annotations(root / "annotations", settings)
    found = scan(root / "videos", dataset="ucf101", annotations=root / "annotations")
    extract_videos(root / "videos", root / "dataset", found, videos_per_shard=3)
    write_split(root / "dataset", make_split(read_manifest(root / "dataset"), SplitSettings(percent=50, name="half")))
    return root / "dataset"


@pytest.fixture(scope="module")
def tree(dataset: Path) -> Path:
    folder = dataset.parent / "rawframes"
    export_rawframes(str(dataset), folder)
    return folder


@pytest.fixture
def copy(tree: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tree, tmp_path / "rawframes"))
