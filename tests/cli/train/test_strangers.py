"""The run folder of a stranger is data: the commands read what it names, and start nothing that the user has not typed."""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli.train import main
from tests.prep.support import moving_square, write_video
from tests.train.data.support import Quiet
from tgtrain.data.stores.cache import CacheSettings

FIXTURE = Path(__file__).parents[2] / "fixtures" / "old_run"
DECODER = """
from pathlib import Path
import numpy as np
from tgprep.decode import DecodedVideo

def open_video(path):
    Path(__file__).with_name("called").touch()
    return DecodedVideo(frames=iter(np.full((60, 32, 32, 3), 90, np.uint8)))
"""


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with its data set, of which `write_config` changes what it names."""
    shutil.copytree(FIXTURE, tmp_path / "old")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    run = tmp_path / "old" / "run"
    for path in run.glob("test-*"):
        path.unlink()
    write_config(run, "data.root", str(tmp_path / "old" / "dataset"))
    return run


def write_config(run: Path, name: str, value: Any) -> None:
    facts = json.loads((run / "config.json").read_bytes())
    *parents, last = name.split(".")
    functools.reduce(lambda part, key: part.setdefault(key, {}), parents, facts)[last] = value
    (run / "config.json").write_text(json.dumps(facts))


def tgtrain(*words: object) -> Result:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    return done


def test_predict_calls_no_function_that_a_run_names(stranger: Path, tmp_path: Path) -> None:
    video = tmp_path / "a.avi"
    write_video(video, moving_square(12))
    for decoder in ("os:remove", "os", "decoder_of_user:open_video", "", "pyav:x", ["pyav"], None, 7, "x; id"):
        write_config(stranger, "data.extraction.decoder", decoder)
        done = tgtrain("predict", stranger, video, "--views", "1x1")
        assert done.exit_code == 2, done.output
        assert f"names the decoder {decoder!r}" in done.output
        assert "add --decoder" in done.output
        assert video.exists()


def test_predict_refuses_settings_of_another_type(stranger: Path, tmp_path: Path) -> None:
    (tmp_path / "a.avi").write_bytes(b"x")
    for name, value in (("short_side", "x"), ("short_side", -5), ("short_side", 10**9), ("short_side", []), ("flow", "x"), ("flow", None)):  # fmt: skip
        write_config(stranger, "data.extraction", {name: value})
        done = tgtrain("predict", stranger, tmp_path / "a.avi", "--views", "1x1")
        assert done.exit_code == 2, done.output
        assert f"{name} is {value!r}" in done.output


def test_predict_calls_the_decoder_that_the_user_types(
    stranger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "decoder_of_user.py").write_text(DECODER)
    monkeypatch.syspath_prepend(str(tmp_path))
    video, name = tmp_path / "a.avi", "decoder_of_user:open_video"
    write_video(video, moving_square(12))
    done = tgtrain("predict", stranger, video, "--views", "1x1", "--decoder", name)
    assert done.exit_code == 2
    assert f"--decoder {name}: " in done.output
    assert "names the decoder 'pyav'. Name the same one" in done.output
    write_config(stranger, "data.extraction.decoder", name)
    assert tgtrain("predict", stranger, video, "--views", "1x1").exit_code == 2
    assert not (tmp_path / "called").exists()
    done = tgtrain("predict", stranger, video, "--views", "1x1", "--decoder", name, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["videos"][0]["num_frames"] == 60
    assert (tmp_path / "called").exists()


def refusal(run: Path, command: str) -> str:
    """What test or report says about the data of a run that it does not use."""
    done = tgtrain(command, run)
    if command == "test":
        assert done.exit_code == 2, done.output
        return done.output
    assert done.exit_code == 0, done.output
    return (run / "report.html").read_text()


@pytest.mark.parametrize(
    ("command", "setting", "value", "kind", "option"),
    [
        ("test", "config.data.shards", "pipe:touch {mark} {shard}", "a command", "--shards"),
        ("report", "config.data.shards", "pipe:touch {mark} {shard}", "a command", "--shards"),
        ("test", "config.data.shards", "pipe:sh -c 'touch {mark}' {shard} http://", "a command", "--shards"),
        (
            "test",
            "config.data.shards",
            "simplecache::http://127.0.0.1:9/{shard}",
            "a chain of file systems",
            "--shards",
        ),
        (
            "test",
            "config.data.shards",
            "http://127.0.0.1:9/{shard}::file:///etc",
            "a chain of file systems",
            "--shards",
        ),
        ("test", "config.data.shards", "ssh://host/{shard}", "a file system of another kind", "--shards"),
        ("report", "data.root", "filecache::file:///etc", "a chain of file systems", "--data"),
        ("test", "data.root", "reference://x", "a file system of another kind", "--data"),
        ("test", "data.root", "file:///etc", "a file system of another kind", "--data"),
    ],
)
def test_nothing_that_a_run_names_is_started(
    stranger: Path, tmp_path: Path, command: str, setting: str, value: str, kind: str, option: str
) -> None:
    mark = tmp_path / "started"
    value = value.replace("{mark}", str(mark))
    write_config(stranger, setting, value)
    write_config(stranger, "config.data.reader", "stream")
    text = refusal(stranger, command)
    assert f"names {kind}" in text
    assert f"add {option} " in text
    assert not mark.exists()


def test_a_pipe_that_the_user_types_is_started(stranger: Path, tmp_path: Path) -> None:
    write_config(stranger, "config.data.reader", "stream")
    write_config(stranger, "config.data.shards", "pipe:false {shard}")
    pipe = f"pipe:sh -c 'touch {tmp_path}/started && cat {stranger.parent}/dataset/{{shard}}'"
    done = tgtrain("test", stranger, "--views", "1x1", "--shards", pipe)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "started").exists()
    assert tgtrain("report", stranger, "--shards", pipe).exit_code == 0
    assert "There are no pictures" not in (stranger / "report.html").read_text()
    assert tgtrain("test", stranger, "--views", "1x1", "--data", stranger.parent / "dataset").exit_code == 0


@pytest.fixture
def served(stranger: Path) -> Iterator[str]:
    """The data set of the run on a web server that sends parts of files."""

    class Parts(Quiet):
        def do_GET(self) -> None:  # noqa: N802 - the name of http.server
            content = (
                Path(self.translate_path(self.path)).read_bytes()
                if Path(self.translate_path(self.path)).is_file()
                else b""
            )
            if not content:
                return self.send_error(404)
            first, last = 0, len(content) - 1
            if span := self.headers.get("Range"):
                first, last = int(span[6:].split("-")[0]), min(last, int(span.split("-")[1] or last))
            self.send_response(206 if span else 200)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            self.send_header("Content-Length", str(last - first + 1))
            self.end_headers()
            self.wfile.write(content[first : last + 1] if self.command == "GET" else b"")
            return None

        do_HEAD = do_GET

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Parts, directory=str(stranger.parent))) as running:
        Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/dataset"
        running.shutdown()


def test_a_cache_that_a_run_names_is_used_only_if_it_is_one(
    stranger: Path, served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "film.part").write_text("mine")
    write_config(stranger, "data.root", served)
    write_config(stranger, "config.runtime.cache", str(folder))
    assert tgtrain("test", stranger, "--views", "1x1").exit_code == 0
    assert os.listdir(folder) == ["film.part"]  # noqa: PTH208
    assert list((tmp_path / "xdg" / "tgtrain" / "tgtrain-shards").glob("*.*"))
    CacheSettings(str(folder), 10**9).open()  # as an earlier run of the user has done
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert tgtrain("test", stranger, "--views", "1x1").exit_code == 0
    assert not (tmp_path / "other").exists()
