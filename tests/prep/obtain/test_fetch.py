"""Fetching one file from a real HTTP server on this machine that drops connections, lies and changes its files."""

from __future__ import annotations

import hashlib
import threading
import urllib.request
from pathlib import Path

import pytest

from tests.prep.obtain.support import CONTENT, Site
from tgprep.obtain import fetch as fetching
from tgprep.obtain.fetch import DownloadError, RemoteFile, fetch


def remote(site: Site, **facts: object) -> RemoteFile:
    site.files["big.bin"] = CONTENT
    return RemoteFile(f"{site.url}/big.bin", **facts)  # type: ignore[arg-type]


PUBLISHED = {"num_bytes": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()}


@pytest.mark.parametrize("facts", [{}, PUBLISHED])
def test_file_is_fetched_once(site: Site, tmp_path: Path, facts: dict[str, object]) -> None:
    calls: list[tuple[int, int]] = []
    file = remote(site, **facts)
    assert fetch(file, tmp_path / "big.bin", on_progress=lambda done, total: calls.append((done, total))) is True
    assert (tmp_path / "big.bin").read_bytes() == CONTENT
    assert calls[-1] == (len(CONTENT), len(CONTENT))
    assert [path.name for path in tmp_path.iterdir()] == ["big.bin"]
    assert fetch(file, tmp_path / "big.bin") is False
    assert len(site.requests) == 1


def test_dropped_connections_are_resumed(site: Site, tmp_path: Path) -> None:
    site.drop_after = [1_000_000, 500_000, 0, 100]
    fetch(remote(site, **PUBLISHED), tmp_path / "big.bin", wait_seconds=0.01)
    assert (tmp_path / "big.bin").read_bytes() == CONTENT
    assert [asked for _, asked in site.requests] == ["", "bytes=1000000-", *["bytes=1500000-"] * 2, "bytes=1500100-"]


def test_temporary_errors_are_retried(site: Site, tmp_path: Path) -> None:
    site.errors = [503, 500, 429]
    fetch(remote(site), tmp_path / "big.bin", wait_seconds=0.01)
    assert (tmp_path / "big.bin").read_bytes() == CONTENT


def test_part_is_kept_after_the_last_attempt(site: Site, tmp_path: Path) -> None:
    site.drop_after = [700_000]
    file = remote(site, **PUBLISHED)
    site.errors = []
    stop_after_first = [503] * 3

    def fail_next(done: int, total: int) -> None:
        site.errors = list(stop_after_first)

    with pytest.raises(DownloadError, match="700000 bytes are kept"):
        fetch(file, tmp_path / "big.bin", attempts=3, wait_seconds=0.01, on_progress=fail_next)
    assert not (tmp_path / "big.bin").exists()
    site.errors = []
    fetch(file, tmp_path / "big.bin")
    assert site.requests[-1] == ("big.bin", "bytes=700000-")
    assert (tmp_path / "big.bin").read_bytes() == CONTENT


def test_server_without_ranges_starts_over(site: Site, tmp_path: Path) -> None:
    site.ranges = False
    site.drop_after = [700_000]
    fetch(remote(site, **PUBLISHED), tmp_path / "big.bin", wait_seconds=0.01)
    assert (tmp_path / "big.bin").read_bytes() == CONTENT


def test_versions_of_a_file_are_not_mixed(site: Site, tmp_path: Path) -> None:
    (tmp_path / "big.bin.part").write_bytes(b"old" * 1000)
    (tmp_path / "big.bin.part.json").write_text('{"version": "\\"older\\""}')
    fetch(remote(site), tmp_path / "big.bin")
    assert (tmp_path / "big.bin").read_bytes() == CONTENT


def test_complete_part_is_recognised(site: Site, tmp_path: Path) -> None:
    (tmp_path / "big.bin.part").write_bytes(CONTENT)
    fetch(remote(site, **PUBLISHED), tmp_path / "big.bin", wait_seconds=0.01)
    assert (tmp_path / "big.bin").read_bytes() == CONTENT
    (tmp_path / "big.bin.part").write_bytes(CONTENT + b"too much")
    (tmp_path / "big.bin").unlink()
    fetch(remote(site, **PUBLISHED), tmp_path / "big.bin", wait_seconds=0.01)
    assert (tmp_path / "big.bin").read_bytes() == CONTENT


def test_other_than_the_published_file_is_rejected(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="offers 3000000 bytes, published are 5"):
        fetch(remote(site, num_bytes=5), tmp_path / "big.bin")
    with pytest.raises(DownloadError, match="damaged file was removed"):
        fetch(remote(site, sha256="0" * 64), tmp_path / "big.bin")
    assert not list(tmp_path.glob("big.bin*")) or not (tmp_path / "big.bin").exists()
    with pytest.raises(DownloadError, match="404"):
        fetch(RemoteFile(f"{site.url}/no.bin"), tmp_path / "no.bin")
    (tmp_path / "big.bin").write_bytes(b"mine")
    with pytest.raises(DownloadError, match="not the published file"):
        fetch(remote(site, **PUBLISHED), tmp_path / "big.bin")
    assert (tmp_path / "big.bin").read_bytes() == b"mine"


def test_file_of_a_false_length_is_rejected(site: Site, tmp_path: Path) -> None:
    site.lie_bytes = 10
    with pytest.raises(DownloadError, match=r"attempts in a row"):
        fetch(remote(site), tmp_path / "big.bin", attempts=2, wait_seconds=0.01)
    assert not (tmp_path / "big.bin").exists()


def test_interrupted_download_is_resumed(site: Site, tmp_path: Path) -> None:
    stop = threading.Event()
    with pytest.raises(KeyboardInterrupt):
        fetch(remote(site), tmp_path / "big.bin", stop=stop, on_progress=lambda done, total: stop.set())
    part = (tmp_path / "big.bin.part").stat().st_size
    assert 0 < part < len(CONTENT)
    fetch(remote(site), tmp_path / "big.bin")
    assert site.requests[-1] == ("big.bin", f"bytes={part}-")
    assert (tmp_path / "big.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:text/plain,x", "gopher://x", "//", "{url}/big.bin"]
)
def test_redirects_lead_to_web_servers_alone(site: Site, tmp_path: Path, target: str) -> None:
    file = remote(site)
    site.redirect = target.format(url=site.url)
    with pytest.raises(DownloadError):
        fetch(file, tmp_path / "big.bin", attempts=1)
    assert not (tmp_path / "big.bin").exists()
    assert not (tmp_path / "big.bin.part").exists()
    site.files["end.bin"] = CONTENT
    site.redirect = f"{site.url}/end.bin"
    assert fetch(file, tmp_path / "big.bin")
    assert (tmp_path / "big.bin").read_bytes() == CONTENT


def test_redirects_stay_out_of_the_local_network() -> None:
    follow = fetching._Redirects().redirect_request
    request = urllib.request.Request("https://8.8.8.8/a")
    for host in ("127.0.0.1", "localhost", "169.254.169.254", "10.1.2.3", "[::1]", "2130706433", "0x7f.1", "[fe80::1]"):
        with pytest.raises(DownloadError, match="to a machine of the local network"):
            follow(request, None, 302, "", {}, f"https://{host}/latest/meta-data")
    with pytest.raises(DownloadError, match="from https: to http:"):
        follow(request, None, 302, "", {}, "http://8.8.4.4/b")
    assert follow(request, None, 302, "", {}, "https://8.8.4.4/b").full_url == "https://8.8.4.4/b"
    local = urllib.request.Request("http://127.0.0.1:1/a")  # which the user has typed
    assert follow(local, None, 302, "", {}, "http://10.0.0.1/b") is not None


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Length": "-5"},
        {"Content-Length": "9" * 5000},
        {"Content-Length": "many"},
        {"ETag": '"\x1b\xff"'},
        {"Content-Encoding": "gzip"},
    ],
)
def test_odd_headers_end_in_the_file_or_a_message(site: Site, tmp_path: Path, headers: dict[str, str]) -> None:
    site.headers = headers
    file = remote(site)
    try:
        fetch(file, tmp_path / "big.bin", attempts=1, wait_seconds=0.01)
        assert (tmp_path / "big.bin").read_bytes() == CONTENT
    except DownloadError as error:
        assert file.url in str(error)


def test_an_answer_without_end_is_cut(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_MOST_BYTES", 2_000_000)
    with pytest.raises(DownloadError, match="offers 3000000 bytes, which is more"):
        fetch(remote(site), tmp_path / "big.bin")
    site.headers = {"Content-Length": ""}
    with pytest.raises(DownloadError, match="sends more than 2000000 bytes"):
        fetch(remote(site), tmp_path / "big.bin")
    assert not list(tmp_path.iterdir())
