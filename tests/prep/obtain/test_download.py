"""`tgprep download`: archives are fetched and unpacked once."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from click.testing import CliRunner

from cli.prep import main
from tests.prep.obtain.support import FILES, Site, tarred, zipped
from tgprep.obtain.download import SOURCES, Archive, Source, download


def test_data_set_is_fetched_and_unpacked_once(site: Site, tmp_path: Path) -> None:
    site.files = {
        "lists.zip": zipped({"ucfTrainTestlist/classInd.txt": b"1 A\n"}),
        "videos.tar.gz": tarred({"UCF-101/A/a.avi": b"v"}),
    }
    digest = hashlib.sha256(site.files["lists.zip"]).hexdigest()
    source = Source(
        (
            Archive(f"{site.url}/lists.zip", len(site.files["lists.zip"]), digest, folder="annotations"),
            Archive(f"{site.url}/videos.tar.gz"),
        ),
        "home",
        "terms",
        "tgprep extract {dir}/videos",
    )
    first = download("some", tmp_path / "d", sources={"some": source})
    assert (first.num_fetched, first.num_files) == (2, 2)
    assert first.next_step == f"tgprep extract {tmp_path / 'd'}/videos"
    assert (tmp_path / "d" / "annotations" / "ucfTrainTestlist" / "classInd.txt").read_bytes() == b"1 A\n"
    assert (tmp_path / "d" / "videos" / "UCF-101" / "A" / "a.avi").read_bytes() == b"v"
    again = download("some", tmp_path / "d", sources={"some": source})
    assert (again.num_fetched, again.num_files) == (0, 0)
    assert len(site.requests) == 2


def test_command(site: Site, tmp_path: Path) -> None:
    site.files["kinetics400.tar.gz"] = tarred(FILES)
    arguments = ["download", "kinetics400-annotations", str(tmp_path / "k"), "--base", f"{site.url}/", "--json"]
    run = CliRunner().invoke(main, arguments)
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout) == {"path": str(tmp_path / "k"), "num_fetched": 1, "num_files": 2}
    assert (tmp_path / "k" / "annotations" / "kinetics400" / "train.csv").exists()
    run = CliRunner().invoke(main, ["download", "ucf101", str(tmp_path / "u"), "--base", site.url])
    assert run.exit_code == 1
    assert "404" in run.stderr
    assert CliRunner().invoke(main, ["download", "imagenet", str(tmp_path)]).exit_code == 2


def test_table_is_complete() -> None:
    for name, source in SOURCES.items():
        assert source.archives, name
        for archive in source.archives:
            assert archive.url.startswith(("https://", "http://"))
            assert archive.folder in ("videos", "annotations")
            assert archive.sha256 == "" or len(archive.sha256) == 64
            assert archive.name.endswith((".zip", ".rar", ".tar.gz"))
