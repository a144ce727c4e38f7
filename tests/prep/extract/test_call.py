"""`tgprep.extract`, the function: what the command does, without its output."""

from __future__ import annotations

import doctest
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_type_hints

import pytest

import tgprep
from manifests.manifest_io import read_manifest
from tests.extraction import BACKENDS, alive, call, children, environment, tree, wait_until
from tests.prep.extract.support import fake_videos
from tgprep import extract
from tgprep.config import ExtractOptions, ExtractSettings, WorkerSettings

HEAVY = ("numpy", "pydantic", "torch", "av", "pyarrow", "dataclasses")


def test_examples_in_the_documentation_hold(
    video_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video_folder(videos_per_class=6)
    monkeypatch.chdir(tmp_path)
    assert doctest.testmod(tgprep, raise_on_error=True).attempted == 3


def test_it_writes_what_the_command_writes_and_prints_nothing(
    video_folder: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    videos, said = video_folder(), list[str]()
    (videos / "class0" / "broken.avi").write_bytes(b"RIFF no video")
    (videos / "class0" / "notes.avi.part").write_text("x")
    account = extract(videos, str(tmp_path / "mine"), threads=1, short_side=24, log=said.append)
    assert capfd.readouterr() == ("", "")
    assert call("extract", videos, tmp_path / "its", "--threads", "1", "--short-side", "24").returncode == 1
    assert tree(tmp_path / "mine") == tree(tmp_path / "its")
    assert (account.num_written, account.num_failed, account.out) == (6, 1, tmp_path / "mine")
    ((path, reason),) = account.failed
    assert path == "class0/broken.avi"
    assert f"failed: {path}: {reason}" in said
    assert set(account.notes) <= set(said)
    again = extract(videos, tmp_path / "mine", retry_failed=True, short_side=24)
    assert (again.num_written, again.num_failed) == (6, 1)


def test_videos_without_a_label_and_new_ones(video_folder: Callable[..., Path], tmp_path: Path) -> None:
    videos, pool = video_folder(), video_folder(name="pool", num_classes=1)
    assert extract(videos, tmp_path / "set", threads=1).num_written == 6
    assert extract(videos, tmp_path / "set", threads=1, unlabelled=pool, add=True).num_written == 9


def test_an_interrupted_call_leaves_no_process_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "fake_backends.py").write_text(BACKENDS)
    videos = fake_videos(tmp_path / "videos", *(f"v{number}" for number in range(8)))
    code = "import sys, tgprep; tgprep.extract(*sys.argv[1:], threads=2, videos_per_shard=2, decoder='fake_backends:open_video')"

    out = tmp_path / "out"

    def start(seconds: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", code, str(videos), str(out)]
        return subprocess.Popen(
            words, env=environment(tmp_path, FAKE_SECONDS=seconds), text=True, stderr=subprocess.PIPE
        )

    process = start("0.1")
    wait_until(lambda: list(out.glob("shard-*.tar")))
    workers = children(process.pid)
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=60)[1]
    wait_until(lambda: not any(map(alive, workers)))
    assert workers
    assert not (out / "dataset.json").exists()
    assert start("0").communicate(timeout=60)[1] == ""
    assert read_manifest(out).header.num_written == 8


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"qualty": 3}, "got the keyword qualty, .* did you mean quality"),
        ({"zzz": 3}, "zzz, which is no setting: there are store, quality"),
        ({"quality": 300}, "--quality: .*less than or equal to 100"),
        ({"crf": 20}, "add --store video"),
        ({"classes": "some"}, "classes is 'some', expected 'all' or 'present'"),
        ({"dataset": "imagenet"}, "no such data set; one of auto"),
        ({"annotations": "nowhere"}, "nowhere: no such file"),
        ({"unlabelled": "nowhere"}, "nowhere"),
        ({"videos": "nowhere"}, "nowhere"),
        ({"decoder": "no.module:name"}, "cannot be loaded"),
    ],
)
def test_mistakes_are_one_kind_of_error_and_leave_nothing(
    keywords: dict[str, object], message: str, video_folder: Callable[..., Path], tmp_path: Path
) -> None:
    places = {"videos": video_folder(num_classes=1, videos_per_class=1), "out": tmp_path / "set"}
    with pytest.raises(tgprep.InputError, match=message):
        extract(**{**places, **keywords})  # type: ignore[arg-type]
    assert not (tmp_path / "set").exists()


def test_keywords_are_the_fields_of_the_settings() -> None:
    fields = {**ExtractSettings.model_fields, **WorkerSettings.model_fields}
    assert get_type_hints(ExtractOptions) == {name: field.annotation for name, field in fields.items()}


def test_the_package_loads_nothing_and_its_modules_are_found() -> None:
    code = f"""
import sys, tgprep
assert not (loaded := set({HEAVY!r}) & set(sys.modules)), loaded
from tgprep import extract
import tgprep.extract.pipeline, tgprep.extract.workers.shards as shards
from tgprep.extract import call
from tgprep import extract as again, InputError, Extraction, ShardError, TooManyFailuresError, UnreachableError
assert again is extract and tgprep.extract is extract and call.Extraction is Extraction
assert tgprep.extract.pipeline.extract is not extract and tgprep.extract.workers.shards is shards
assert extract.__name__ == "extract" and extract.__doc__.startswith("Turn the videos")
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
