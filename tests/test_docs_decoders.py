"""docs/decoders.md: its example decodes videos as written there, and errors end as the page says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import tgprep.decode
from manifests.manifest_io import read_manifest
from tests.extraction import call
from tests.prep.support import decoded, moving_square, write_video

PAGE = (Path(__file__).parents[1] / "docs" / "decoders.md").read_text("utf-8")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # imageio_ffmpeg leaves its pipes open
def test_example_decodes(tmp_path: Path) -> None:
    (source,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (command,) = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "ffmpeg_decoder.py").write_text(source)
    video = write_video(tmp_path / "videos/square/a.avi", moving_square(7), **{"q:v": "2"})
    (tmp_path / "videos/square/broken.avi").write_bytes(b"not a video\n" * 50)

    path, *words = command.split()
    assert path == "PYTHONPATH=."
    program, *arguments = [str(tmp_path / word) if word in ("videos", "dataset") else word for word in words]
    assert program == "tgprep"
    done = call(*arguments, path=tmp_path)
    assert done.returncode == 1, done.stderr
    manifest = read_manifest(tmp_path / "dataset")
    rows = {row.path: row for row in manifest.videos}
    row = rows["square/a.avi"]
    assert (row.status, row.num_frames, row.width, row.height, row.fps) == ("written", 7, 64, 48, 25.0)
    assert rows["square/broken.avi"].status == "failed"
    assert rows["square/broken.avi"].error.startswith("ffmpeg cannot read it: ")
    versions = json.loads((tmp_path / "dataset/dataset.json").read_text())["versions"]
    assert versions["ffmpeg_decoder"]

    # The frames are those of the default decoder, up to the conversion to RGB.
    namespace: dict[str, object] = {}
    exec(source, namespace)
    opened = namespace["open_video"](video)  # type: ignore[operator]
    pairs = list(zip(opened.frames, decoded(video, "rgb"), strict=True))
    assert len(pairs) == 7
    assert max(float(np.abs(np.asarray(a, int) - b).mean()) for a, b in pairs) < 4  # type: ignore[operator]
    opened.close()


def test_page_names_the_public_names() -> None:
    names = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert sorted(names) == sorted(tgprep.decode.__all__)


def test_missing_module_is_reported_first(tmp_path: Path) -> None:
    write_video(tmp_path / "videos/square/a.avi", moving_square(3))
    for decoder, message in (("no_such_module:open", "no_such_module"), ("json:no_such", "no function no_such")):
        done = call("extract", tmp_path / "videos", tmp_path / "out", "--decoder", decoder, path=tmp_path)
        assert done.returncode == 2
        assert message in done.stderr
        assert not (tmp_path / "out").exists()
