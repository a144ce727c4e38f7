"""Repairing shards: the recorded bytes come back, or nothing is replaced."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cli.prep import main
from manifests.manifest_io import HEADER_NAME, header_digest, json_bytes, read_header
from manifests.records import InputError
from tests.prep.check.support import SAMPLE
from tgprep.check.check import check
from tgprep.check.repair import repair
from tgprep.obtain.sample import render_sample


def test_repair_restores_the_recorded_bytes(copy: Path, sound: Path, videos: Path) -> None:
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


DECODER = """
from pathlib import Path
from tgprep.decode.pyav import open_pyav

Path(__file__).with_name("imported").touch()

def open_video(path):
    return open_pyav(path, space="ycbcr420", short_side=0)
"""


def name_decoder(root: Path, decoder: Any) -> None:
    """Write another decoder into the header, with the digest that it needs."""
    facts = json.loads((root / HEADER_NAME).read_bytes())
    facts["settings"]["decoder"] = decoder
    header = read_header(root)
    header = dataclasses.replace(header, settings=facts["settings"])
    facts["header_sha256"] = header_digest(header)
    (root / HEADER_NAME).write_bytes(json_bytes(facts))


def test_repair_calls_no_function_that_the_header_names(
    copy: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the header nor a file beside the data set says which code runs; the user may, if both name the same."""
    (tmp_path / "decoder_of_user.py").write_text(DECODER)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # of the workers
    monkeypatch.chdir(copy)
    bad = copy / "shard-000001.tar"
    bad.write_bytes(b"gone")
    command = ["check", str(copy), "--repair", "--against", str(videos), "--threads", "1"]
    for decoder in ("runpy:run_path", "decoder_of_user:open_video", "decoder_of_user", "os:remove", "", 3):
        name_decoder(copy, decoder)
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 2, done.output
        assert f"names the decoder {decoder!r}, which is none of pyav, opencv, decord" in done.output
    assert not (tmp_path / "imported").exists()
    assert bad.read_bytes() == b"gone"
    name_decoder(copy, "decoder_of_user:open_video")
    done = CliRunner().invoke(main, [*command, "--decoder", "os:remove"])
    assert done.exit_code == 2
    assert "Name the same one" in done.output
    assert not (tmp_path / "imported").exists()
    done = CliRunner().invoke(main, [*command, "--decoder", "decoder_of_user:open_video"])
    assert (tmp_path / "imported").exists()
    assert "decoder_of_user None then" in done.output  # in truth the data set was made with another
