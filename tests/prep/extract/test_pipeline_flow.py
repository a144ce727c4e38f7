"""`tgprep extract --flow` and `--compat`: what is stored is what the definitions say, and data sets without them keep their form."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
import webdataset
from pydantic import ValidationError

from manifests.manifest_io import read_manifest
from manifests.records import InputError, VideoRow
from manifests.sample import decode_offsets
from manifests.table import FLOW_VIDEO_SCHEMA, VIDEO_SCHEMA, Manifest
from tests.prep.support import extract_videos, moving_square, write_video
from tgprep.check.check import check
from tgprep.config import ExtractSettings
from tgprep.convert.export_rawframes import export_rawframes
from tgprep.convert.materialise import materialise
from tgprep.decode.open import open_video
from tgprep.encode.flow import FlowMethod, flow_estimator, flow_picture
from tgprep.extract.plan import Update
from tgprep.obtain.sample import SampleSettings, render_sample

Pixels = npt.NDArray[np.uint8]
SAMPLE = SampleSettings(num_classes=2, num_groups=2, clips_per_group=1, width=64, height=48, min_frames=6, max_frames=9)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("flow") / "videos"
    render_sample(root, SAMPLE)
    return root


def make(videos: Path, out: Path, update: Update | None = None, **settings: Any) -> Manifest:
    return extract_videos(videos, out, update=update, **{"videos_per_shard": 3, **settings}).manifest


def stored(manifest: Manifest, row: VideoRow, kind: str) -> list[bytes]:
    index_offset, index_bytes, offset, _ = row.members.place(kind)
    content = (Path(manifest.root) / row.shard).read_bytes()
    bounds = (decode_offsets(content[index_offset : index_offset + index_bytes]).astype(int) + offset).tolist()
    return [content[first:last] for first, last in zip(bounds, bounds[1:], strict=False)]


def frames_of(path: Path, **how: Any) -> list[Pixels]:
    return [np.asarray(frame).copy() for frame in open_video(path, **{"space": "rgb", "short_side": 0, **how}).frames]


@pytest.mark.parametrize(("method", "compat"), [("dis", ""), ("farneback", "flow_magnitude")])
def test_flow_is_computed_from_decoded_frames(videos: Path, tmp_path: Path, method: FlowMethod, compat: str) -> None:
    manifest = make(videos, tmp_path / "out", flow=method, compat=compat)
    assert manifest.videos.arrow.schema.equals(FLOW_VIDEO_SCHEMA)
    assert (manifest.header.settings["flow"], manifest.header.settings["compat"]) == (method, compat)
    estimate = flow_estimator(method)
    for row in manifest.videos:
        luma = [
            planes.y for planes in open_video(videos / row.path, decoder="pyav", space="ycbcr420", short_side=0).frames
        ]
        assert stored(manifest, row, "flow") == [
            simplejpeg.encode_jpeg(flow_picture(estimate(*pair), uncentred=bool(compat)), 95, "RGB", "444")
            for pair in zip(luma, luma[1:], strict=False)
        ]


def test_a_data_set_without_flow_keeps_its_form(videos: Path, tmp_path: Path) -> None:
    manifest = make(videos, tmp_path / "out")
    assert manifest.videos.arrow.schema.equals(VIDEO_SCHEMA)
    assert all(row.members.place("flow") == (-1, 0, -1, 0) for row in manifest.videos)
    with tarfile.open(tmp_path / "out/shard-000000.tar") as tar:
        assert not [name for name in tar.getnames() if "flow" in name]


def test_flow_does_not_change_other_members(videos: Path, tmp_path: Path) -> None:
    plain, flow = make(videos, tmp_path / "plain"), make(videos, tmp_path / "flow", flow="dis")
    for one, other in zip(plain.videos, flow.videos, strict=True):
        for kind in ("rgb", "tg"):
            assert stored(plain, one, kind) == stored(flow, other, kind)


def test_new_videos_get_flow_too(videos: Path, tmp_path: Path) -> None:
    few = tmp_path / "videos"
    paths = sorted(path.relative_to(videos) for path in videos.rglob("v_*") if path.is_file())
    for path in paths[:-1]:
        (few / path).parent.mkdir(parents=True, exist_ok=True)
        (few / path).write_bytes((videos / path).read_bytes())
    make(few, tmp_path / "out", flow="dis")
    (few / paths[-1]).parent.mkdir(parents=True, exist_ok=True)
    (few / paths[-1]).write_bytes((videos / paths[-1]).read_bytes())
    manifest = make(few, tmp_path / "out", Update(add=True), flow="dis")
    assert len(manifest.videos) == len(paths)
    assert all(row.members.flow_offset > 0 for row in manifest.videos)
    assert check(str(tmp_path / "out"), deep=True, against=few).findings == ()
    with pytest.raises(InputError, match="--flow is dis in it, none requested"):
        make(few, tmp_path / "out")


def test_other_tools_read_and_export_flow(videos: Path, tmp_path: Path) -> None:
    manifest = make(videos, tmp_path / "out", flow="dis")
    row = manifest.videos[0]
    wanted = stored(manifest, row, "flow")
    for sample in webdataset.WebDataset(str(tmp_path / "out/shard-000000.tar"), shardshuffle=False):
        if sample["__key__"] == row.key:
            offsets = np.load(io.BytesIO(sample["flow.offsets.npy"])).tolist()
            content = sample["flow.mjpeg"]
            assert [content[first:last] for first, last in zip(offsets, offsets[1:], strict=False)] == wanted
    export_rawframes(str(tmp_path / "out"), tmp_path / "raw")
    files = sorted((tmp_path / "raw" / row.key).glob("flow_xym_*.jpg"))
    assert files[0].name == "flow_xym_00000.jpg"
    assert [file.read_bytes() for file in files] == wanted


def test_a_damaged_flow_frame_is_found(videos: Path, tmp_path: Path) -> None:
    manifest = make(videos, tmp_path / "out", flow="dis")
    row = manifest.videos[0]
    shard = tmp_path / "out" / row.shard
    content = bytearray(shard.read_bytes())
    content[row.members.flow_offset : row.members.flow_offset + 200] = bytes(200)
    shard.write_bytes(content)
    found = [finding.message for finding in check(str(tmp_path / "out"), deep=True).findings]
    assert any("flow frame 0" in message for message in found), found


def test_compat_stores_what_the_reference_stores(videos: Path, tmp_path: Path) -> None:
    manifest = make(videos, tmp_path / "out", compat="opencv_frames, gradient_of_jpeg")
    assert manifest.header.settings["compat"] == "gradient_of_jpeg,opencv_frames"
    for row in manifest.videos:
        capture = cv2.VideoCapture(str(videos / row.path))
        jpegs = []
        while (read := capture.read())[0]:
            jpegs.append(cv2.imencode(".jpg", read[1])[1].tobytes())
        frames = [cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) for jpeg in jpegs]
        gradients = [
            ((one.astype(np.float32) - two.astype(np.float32) + 255) / 2).astype(np.uint8)
            for one, two in zip(frames, frames[1:], strict=False)
        ]
        assert stored(manifest, row, "rgb") == jpegs
        assert stored(manifest, row, "tg") == [cv2.imencode(".jpg", gradient)[1].tobytes() for gradient in gradients]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"compat": "nothing_known"}, "nothing_known is unknown: one or more of opencv_frames, gradient_of_jpeg"),
        ({"compat": "flow_magnitude"}, "applies to stored flow: add --flow dis"),
        ({"compat": "opencv_frames", "decoder": "pyav"}, "stands for --decoder opencv, got --decoder pyav"),
        ({"flow": "raft"}, "'none', 'dis' or 'farneback'"),
    ],
)
def test_contradicting_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ExtractSettings(**settings)


def test_materialised_tars_keep_flow(videos: Path, tmp_path: Path) -> None:
    from manifests.splits.label_split import make_split
    from manifests.splits.settings import SplitSettings

    manifest = make(videos, tmp_path / "out", flow="dis")
    split = make_split(manifest, SplitSettings(percent=50, strategy="stratified"))
    materialise(manifest, split, tmp_path / "plain")
    names = set()
    for path in (tmp_path / "plain").rglob("*.tar"):
        with tarfile.open(path) as tar:
            names.update(tar.getnames())
    assert sum(name.endswith(".flow.mjpeg") for name in names) == len(manifest.videos)
    assert read_manifest(tmp_path / "out").digest == manifest.digest


@pytest.mark.parametrize("method", ["dis", "farneback"])
def test_flow_of_full_range_planes_with_padded_rows(tmp_path: Path, method: FlowMethod) -> None:
    """A width that is no multiple of what decoders align rows to, and levels that no pass over the pixels copies."""
    root = tmp_path / "videos"
    write_video(root / "c" / "v.avi", moving_square(6, width=100, height=48), "mjpeg", "yuvj420p")
    manifest = make(root, tmp_path / "out", flow=method)
    (row,) = manifest.videos
    assert (row.status, row.error, row.pixel_format) == ("written", "", "yuvj420p")
    assert len(stored(manifest, row, "flow")) == 5
