"""docs/format.md is right: its tables name the real columns and fields, and its code blocks run on a data set."""

from __future__ import annotations

import ast
import dataclasses
import io
import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg

from manifests.manifest_io import HEADER_NAME, read_manifest
from manifests.splits.label_split import SPLIT_SCHEMA, make_split, read_split, write_split
from manifests.splits.settings import SplitSettings
from manifests.table import FLOW_VIDEO_SCHEMA, SHARD_SCHEMA, VIDEO_SCHEMA, Manifest
from manifests.targets.target_file import TARGET_SCHEMA
from tests.prep.support import extract_videos
from tgprep.convert.materialise import materialise
from tgprep.decode.stored import stored_frames
from tgprep.obtain.sample import SampleSettings, render_sample

PAGE = Path(__file__).parent.parent / "docs" / "format.md"
TEXT = PAGE.read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds `dataset/` with a split, as the code blocks expect."""
    root = tmp_path_factory.mktemp("format")
    settings = SampleSettings(
        num_classes=2, num_groups=3, clips_per_group=1, width=64, height=48, min_frames=8, max_frames=12
    )
    render_sample(root / "videos", settings)
    outcome = extract_videos(root / "videos", root / "dataset", videos_per_shard=4)
    split = make_split(outcome.manifest, SplitSettings(percent=50))
    write_split(root / "dataset", split)
    materialise(read_manifest(root / "dataset"), split, root / "dataset-p50-s0-f1")
    return root


@pytest.fixture(scope="module")
def manifest(folder: Path) -> Manifest:
    return read_manifest(folder / "dataset")


def run(code: str, folder: Path) -> list[str]:
    """The lines that a code block prints, run as a program of its own beside `dataset/`."""
    environment = {
        **os.environ,
        "PYTHONPATH": "",  # `datasets` needs pandas, which the tests hide from other processes
        "HF_HOME": str(folder / "hf"),
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def block(word: str) -> str:
    (found,) = [code for code in BLOCKS if word in code]
    return found


def documented(heading: str) -> list[tuple[str, str]]:
    """Name and type of every row of the table below a heading."""
    section = re.split(r"^#+ ", TEXT.split(f"\n{heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", section, re.MULTILINE)


@pytest.mark.parametrize(
    ("heading", "schema"),
    [
        ("## videos.parquet", VIDEO_SCHEMA),
        ("## shards.parquet", SHARD_SCHEMA),
        ("## splits/NAME.parquet", SPLIT_SCHEMA),
        ("## targets/NAME.parquet", TARGET_SCHEMA),
    ],
)
def test_columns_are_documented(heading: str, schema: object) -> None:
    actual = [(field.name, str(field.type)) for field in schema]  # type: ignore[attr-defined]
    same_name = {"element": "item"}  # Arrow's name for the values of a list differs between versions

    def plain(kind: str) -> str:
        return re.sub("|".join(same_name), lambda match: same_name[match[0]], kind)

    assert [(name, plain(kind)) for name, kind in documented(heading)] == [(name, plain(kind)) for name, kind in actual]


def test_columns_of_flow_are_documented() -> None:
    section = TEXT.split("\n### Flow\n", 1)[1].split("\n### ", 1)[0]
    for field in FLOW_VIDEO_SCHEMA:
        assert field in list(VIDEO_SCHEMA) or f"`{field.name}`" in section


def test_header_fields_are_documented(folder: Path) -> None:
    header = json.loads((folder / "dataset" / HEADER_NAME).read_bytes())
    kinds = {"string": str, "integer": int, "object": dict, "list of strings": list}
    fields = documented("## dataset.json")
    assert sorted(name for name, _ in fields) == sorted(header)
    for name, kind in fields:
        assert type(header[name]) is kinds[kind], name


def samples(folder: Path) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    for shard in sorted((folder / "dataset").glob("shard-*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                content = tar.extractfile(member)
                assert content is not None
                yield member, content.read()


def test_sample_fields_are_documented(folder: Path) -> None:
    kinds = {"string": str, "integer": int, "number": float}
    fields = documented("### Fields of `{key}.json`")
    found = [json.loads(content) for member, content in samples(folder) if member.name.endswith(".json")]
    assert len(found) == 6
    for facts in found:
        assert [(name, type(facts[name])) for name in facts] == [(name, kinds[kind]) for name, kind in fields]


def test_members_are_documented(folder: Path) -> None:
    documented_names = re.findall(r"^\| `\{key\}\.([\w.]+)` \|", TEXT, re.MULTILINE)
    names = [member.name.split(".", 1)[1] for member, _ in samples(folder)]
    assert documented_names == names[:5]
    assert names == documented_names * 6


def expected(folder: Path) -> dict[str, tuple[int, int, tuple[int, int]]]:
    """key -> label, frames, (width, height), read with tarfile: the frames are counted by their JPEG end marks."""
    found = {}
    facts: dict[str, object] = {}
    for member, content in samples(folder):
        if member.name.endswith(".json"):
            facts = json.loads(content)
        elif member.name.endswith(".rgb.mjpeg"):
            first = simplejpeg.decode_jpeg(content[: content.index(b"\xff\xd9") + 2])
            found[str(facts["key"])] = (
                int(str(facts["label"])),
                content.count(b"\xff\xd9"),
                (first.shape[1], first.shape[0]),
            )
    return found


def test_seeks_read_any_frame(folder: Path, manifest: Manifest) -> None:
    code = block("def read_frames")
    assert len(code.split("def read_frames")[1].splitlines()) < 20
    truth = expected(folder)
    lines = run(code, folder)
    assert lines == [f"{key} {truth[key][0]} (2, 48, 64, 3) (1, 48, 64, 3)" for key in sorted(truth)]
    # The pixels too: the last frame of a video, against the frame cut out of the tar by its markers.
    video = manifest.videos[3]
    space: dict[str, object] = {}
    before = Path.cwd()
    os.chdir(folder)
    try:
        exec(compile(code.split("\nfor video in videos")[0], str(PAGE), "exec"), space)
        rows = space["videos"]
        assert isinstance(rows, list)
        frames = space["read_frames"](rows[3], [video.num_frames - 1])  # type: ignore[operator]
    finally:
        os.chdir(before)
    content = next(data for member, data in samples(folder) if member.name == f"{video.key}.rgb.mjpeg")
    last = content[content.rindex(b"\xff\xd8\xff") :]
    from PIL import Image

    assert np.array_equal(frames[0], np.asarray(Image.open(io.BytesIO(last))))


def test_a_split_is_a_plain_table(folder: Path) -> None:
    (line,) = run(block("splits/p50-s0-f1"), folder)
    truth = expected(folder)
    labelled = ast.literal_eval(line)
    assert len(labelled) == 3
    assert all(truth[key][0] == label for key, label in labelled)


def test_clips_of_stored_videos(folder: Path) -> None:
    manifest = extract_videos(folder / "videos", folder / "dataset-video", store="video", videos_per_shard=4).manifest
    code = block("def read_clip")
    assert run(code, folder) == [f"{row.key} {row.label} (2, 48, 64, 3)" for row in manifest.videos]
    space: dict[str, Any] = {}
    before = Path.cwd()
    os.chdir(folder)
    try:
        exec(compile(code.split("\nfor video in")[0], str(PAGE), "exec"), space)
        row = manifest.videos[2]
        video = {"shard": row.shard, "height": row.height, "width": row.width, **dataclasses.asdict(row.members)}
        wanted = [1, 5, 7]
        frames = space["read_clip"](video, wanted)
    finally:
        os.chdir(before)
    with (folder / "dataset-video" / row.shard).open("rb") as shard:
        exact = [frame for _, frame in stored_frames(shard, row, wanted)]
    assert np.abs(frames.astype(int) - exact).mean() < 1.5  # FFmpeg's way to RGB rounds down


@pytest.mark.parametrize("word", ["webdataset.WebDataset", "load_dataset", "import tarfile"])
def test_streams(folder: Path, word: str) -> None:
    lines = run(block(word), folder)
    truth = {f"{key} {label} {frames} {size}" for key, (label, frames, size) in expected(folder).items()}
    if word == "import tarfile":
        assert len(lines) == 4  # the first shard alone
        assert set(lines) < truth
    else:
        if word == "load_dataset":
            split = read_split(folder / "dataset", "p50-s0-f1")
            parts = {part: len(split.keys_of(part)) for part in ("labelled", "unlabelled")}
            assert ast.literal_eval(lines.pop()) == parts == {"labelled": 3, "unlabelled": 6}
        assert len(lines) == 6
        assert set(lines) == truth


def test_a_materialised_split_is_a_plain_stream(folder: Path) -> None:
    truth = expected(folder)
    lines = run(block("from webdataset"), folder)
    assert len(lines) == 3
    labelled = {key for key, _ in ast.literal_eval(run(block("splits/p50-s0-f1"), folder)[0])}
    assert set(lines) == {f"{key} {truth[key][0]} {truth[key][1]}" for key in labelled}


def test_every_code_block_is_run() -> None:
    words = (
        "def read_frames",
        "splits/p50-s0-f1",
        "webdataset.WebDataset",
        "from webdataset",
        "load_dataset",
        "def read_clip",
        "import tarfile",
    )
    assert len(BLOCKS) == len(words)
    assert {block(word) for word in words} == set(BLOCKS)
