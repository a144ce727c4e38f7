"""Videos, a data set of six shards and a web server that several tests of this room read."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.prep.support import numbered, write_video
from tests.train.data.support import Quiet
from tests.train.support import write_data_set


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of three sizes, one of them odd, whose frames carry their number."""
    root = tmp_path_factory.mktemp("gop") / "videos"
    for number, (width, height) in enumerate([(72, 40), (96, 64), (73, 41), (72, 40)]):
        frames = [numbered(k, height, width) for k in range(30 + number)]
        write_video(root / f"class{number % 2}" / f"v{number}.avi", frames, "png", "rgb24")
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stream") / "set"
    write_data_set(folder, num_shards=6)
    return folder


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[str]:
    handler = functools.partial(Quiet, directory=str(root.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
