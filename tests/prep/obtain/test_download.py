"""`tgprep download` against a real HTTP server on this machine that drops, lies and changes its mind."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import shutil
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cli.prep import main
from manifests.records import InputError
from tgprep.obtain.download import SOURCES, Archive, Source, download
from tgprep.obtain.fetch import DownloadError, RemoteFile, fetch
from tgprep.obtain.unpack import safe_name, unpack

CONTENT = np.random.default_rng(1).integers(0, 256, 3_000_000, dtype=np.uint8).tobytes()


@dataclass
class Site:
    """Files by name, and how the server is to misbehave. requests: (name, Range header) of every request."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    drop_after: list[int] = field(default_factory=list)
    errors: list[int] = field(default_factory=list)
    ranges: bool = True
    lie_bytes: int = 0


@pytest.fixture
def site() -> Iterator[Site]:
    """An HTTP server with range requests and entity tags."""
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            asked = self.headers.get("Range", "")
            site.requests.append((name, asked))
            self.close_connection = True
            if site.errors:
                self.send_error(site.errors.pop(0))
                return
            if name not in site.files:
                self.send_error(404)
                return
            content = site.files[name]
            tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and site.ranges else 0
            if self.headers.get("If-Range", tag) != tag:
                start = 0
            if start and start >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start + site.lie_bytes))
            self.send_header("ETag", tag)
            self.end_headers()
            body = content[start:]
            if site.drop_after:
                body = body[: site.drop_after.pop(0)]
            with contextlib.suppress(ConnectionError):  # the client may have gone
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.url = f"http://127.0.0.1:{server.server_port}/data"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield site
    server.shutdown()
    server.server_close()
    thread.join()


def remote(site: Site, **facts: object) -> RemoteFile:
    site.files["big.bin"] = CONTENT
    return RemoteFile(f"{site.url}/big.bin", **facts)  # type: ignore[arg-type]


PUBLISHED = {"num_bytes": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()}


@pytest.mark.parametrize("facts", [{}, PUBLISHED])
def test_a_file_comes_whole_and_once(site: Site, tmp_path: Path, facts: dict[str, object]) -> None:
    told: list[tuple[int, int]] = []
    file = remote(site, **facts)
    assert fetch(file, tmp_path / "big.bin", on_progress=lambda done, total: told.append((done, total))) is True
    assert (tmp_path / "big.bin").read_bytes() == CONTENT
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert [path.name for path in tmp_path.iterdir()] == ["big.bin"]
    assert fetch(file, tmp_path / "big.bin") is False
    assert len(site.requests) == 1


def test_dropped_connections_are_gone_on_with(site: Site, tmp_path: Path) -> None:
    site.drop_after = [1_000_000, 500_000, 0, 100]
    fetch(remote(site, **PUBLISHED), tmp_path / "big.bin", wait_seconds=0.01)
    assert (tmp_path / "big.bin").read_bytes() == CONTENT
    assert [asked for _, asked in site.requests] == ["", "bytes=1000000-", *["bytes=1500000-"] * 2, "bytes=1500100-"]


def test_errors_that_pass_are_waited_for(site: Site, tmp_path: Path) -> None:
    site.errors = [503, 500, 429]
    fetch(remote(site), tmp_path / "big.bin", wait_seconds=0.01)
    assert (tmp_path / "big.bin").read_bytes() == CONTENT


def test_a_server_that_stays_away_is_given_up_and_the_part_kept(site: Site, tmp_path: Path) -> None:
    site.drop_after = [700_000]
    file = remote(site, **PUBLISHED)
    site.errors = []
    stop_after_first = [503] * 3

    def tell(done: int, total: int) -> None:
        site.errors = list(stop_after_first)

    with pytest.raises(DownloadError, match="700000 bytes are kept"):
        fetch(file, tmp_path / "big.bin", attempts=3, wait_seconds=0.01, on_progress=tell)
    assert not (tmp_path / "big.bin").exists()
    site.errors = []
    fetch(file, tmp_path / "big.bin")
    assert site.requests[-1] == ("big.bin", "bytes=700000-")
    assert (tmp_path / "big.bin").read_bytes() == CONTENT


def test_a_server_without_ranges_begins_anew(site: Site, tmp_path: Path) -> None:
    site.ranges = False
    site.drop_after = [700_000]
    fetch(remote(site, **PUBLISHED), tmp_path / "big.bin", wait_seconds=0.01)
    assert (tmp_path / "big.bin").read_bytes() == CONTENT


def test_a_file_that_changed_on_the_server_is_not_mixed(site: Site, tmp_path: Path) -> None:
    (tmp_path / "big.bin.part").write_bytes(b"old" * 1000)
    (tmp_path / "big.bin.part.json").write_text('{"version": "\\"older\\""}')
    fetch(remote(site), tmp_path / "big.bin")
    assert (tmp_path / "big.bin").read_bytes() == CONTENT


def test_a_part_that_is_whole_is_recognised(site: Site, tmp_path: Path) -> None:
    (tmp_path / "big.bin.part").write_bytes(CONTENT)
    fetch(remote(site, **PUBLISHED), tmp_path / "big.bin", wait_seconds=0.01)
    assert (tmp_path / "big.bin").read_bytes() == CONTENT
    (tmp_path / "big.bin.part").write_bytes(CONTENT + b"too much")
    (tmp_path / "big.bin").unlink()
    fetch(remote(site, **PUBLISHED), tmp_path / "big.bin", wait_seconds=0.01)
    assert (tmp_path / "big.bin").read_bytes() == CONTENT


def test_what_is_not_the_published_file_is_refused(site: Site, tmp_path: Path) -> None:
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


def test_a_lying_length_never_ends_as_a_file(site: Site, tmp_path: Path) -> None:
    site.lie_bytes = 10
    with pytest.raises(DownloadError, match=r"attempts in a row"):
        fetch(remote(site), tmp_path / "big.bin", attempts=2, wait_seconds=0.01)
    assert not (tmp_path / "big.bin").exists()


def test_interrupted_and_gone_on_with(site: Site, tmp_path: Path) -> None:
    stop = threading.Event()
    with pytest.raises(KeyboardInterrupt):
        fetch(remote(site), tmp_path / "big.bin", stop=stop, on_progress=lambda done, total: stop.set())
    part = (tmp_path / "big.bin.part").stat().st_size
    assert 0 < part < len(CONTENT)
    fetch(remote(site), tmp_path / "big.bin")
    assert site.requests[-1] == ("big.bin", f"bytes={part}-")
    assert (tmp_path / "big.bin").read_bytes() == CONTENT


# ------------------------------------------------------------------------------------------------------- unpacking


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as pack:
        for name, content in files.items():
            pack.writestr(name, content)
    return buffer.getvalue()


def tarred(files: dict[str, bytes], link: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as pack:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            pack.addfile(entry, io.BytesIO(content))
        if link:
            entry = tarfile.TarInfo("link")
            entry.type, entry.linkname = tarfile.SYMTYPE, link
            pack.addfile(entry)
    return buffer.getvalue()


FILES = {"kinetics400/train.csv": b"label,youtube_id\n", "kinetics400/deep/er.txt": b"x"}


@pytest.mark.parametrize(("name", "pack"), [("a.zip", zipped), ("a.tar.gz", tarred)])
def test_archives_are_unpacked(tmp_path: Path, name: str, pack: object) -> None:
    assert callable(pack)
    (tmp_path / name).write_bytes(pack(FILES))
    assert unpack(tmp_path / name, tmp_path / "out") == 2
    found = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert found == FILES
    assert unpack(tmp_path / name, tmp_path / "out") == 2


@pytest.mark.parametrize("wrong", ["../evil", "a/../../evil", "/evil", "\\evil", "C:\\evil", "..\\evil"])
@pytest.mark.parametrize(("name", "pack"), [("a.zip", zipped), ("a.tar.gz", tarred)])
def test_members_that_leave_the_folder_are_refused(tmp_path: Path, name: str, pack: object, wrong: str) -> None:
    assert callable(pack)
    (tmp_path / name).write_bytes(pack({"good": b"1", wrong: b"2"}))
    with pytest.raises(InputError, match="leaves the folder"):
        unpack(tmp_path / name, tmp_path / "inner" / "out")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]


def test_links_and_damage_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(tarred({}, link="/etc"))
    with pytest.raises(InputError, match="no plain file"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out")
    entry = zipfile.ZipInfo("link")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as pack:
        pack.writestr(entry, "/etc")
    with pytest.raises(InputError, match="holds a link"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    (tmp_path / "b.zip").write_bytes(zipped(FILES)[:-30])
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(b"no tar" * 1000))
    (tmp_path / "c.tar.gz").write_bytes(tarred({"big": CONTENT})[:100_000])
    for name in ("b.zip", "b.tar.gz", "c.tar.gz"):
        with pytest.raises(InputError, match="cannot be unpacked"):
            unpack(tmp_path / name, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*"))


def test_safe_names() -> None:
    assert safe_name("./a//b.txt") == ("a", "b.txt")
    assert safe_name("a\\b.txt") == ("a", "b.txt")
    assert safe_name("..a/b..") == ("..a", "b..")
    with pytest.raises(InputError):
        safe_name("a/../b")


@pytest.mark.parametrize("program", ["unar", "bsdtar"])
def test_rar_by_an_installed_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Both tell an archive by its content, so a zip under another name shows how they are called; nested as in HMDB51."""
    only_program(tmp_path, monkeypatch, program)
    inner = zipped({"wave/one.avi": b"1", "wave/two [x].avi": b"2"})
    (tmp_path / "hmdb51_org.rar").write_bytes(zipped({"wave.rar": inner}))
    assert unpack(tmp_path / "hmdb51_org.rar", tmp_path / "out", nested=True) == 2
    found_files = {
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()
    }
    assert found_files == {"wave/one.avi", "wave/two [x].avi"}
    (tmp_path / "broken.rar").write_bytes(b"Rar!\x1a\x07\x00 and nothing else")
    with pytest.raises(InputError, match="broken.rar"):
        unpack(tmp_path / "broken.rar", tmp_path / "broken")


def test_without_a_program_for_rar_the_message_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "a.rar").write_bytes(b"Rar!")
    with pytest.raises(InputError, match="apt-get install unar"):
        unpack(tmp_path / "a.rar", tmp_path / "out")


# ------------------------------------------------------------------------------------------------------ the command


def test_a_data_set_is_fetched_and_unpacked_once(site: Site, tmp_path: Path) -> None:
    site.files = {
        "lists.zip": zipped({"ucfTrainTestlist/classInd.txt": b"1 A\n"}),
        "videos.tar.gz": tarred({"UCF-101/A/a.avi": b"v"}),
    }
    digest = hashlib.sha256(site.files["lists.zip"]).hexdigest()
    source = Source(
        (
            Archive(RemoteFile(f"{site.url}/lists.zip", len(site.files["lists.zip"]), digest), "annotations"),
            Archive(RemoteFile(f"{site.url}/videos.tar.gz"), "videos"),
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


def test_the_command(site: Site, tmp_path: Path) -> None:
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


def test_the_table_is_whole() -> None:
    for name, source in SOURCES.items():
        assert source.archives, name
        for archive in source.archives:
            assert archive.remote.url.startswith(("https://", "http://"))
            assert archive.folder in ("videos", "annotations")
            assert archive.remote.sha256 == "" or len(archive.remote.sha256) == 64
            assert archive.remote.name.endswith((".zip", ".rar", ".tar.gz"))


def rarred(entries: list[tuple[str, bytes, int]]) -> bytes:
    """A .rar (version 4, nothing compressed) of (name, content, Unix mode), written from the description of the format, in
    which folders are parted by backslashes."""

    def block(kind: int, flags: int, body: bytes, content: bytes = b"") -> bytes:
        head = struct.pack("<BHH", kind, flags, 7 + len(body)) + body
        return struct.pack("<H", zlib.crc32(head) & 0xFFFF) + head + content

    packed = b"Rar!\x1a\x07\x00" + block(0x73, 0, bytes(6))
    for name, content, mode in entries:
        body = struct.pack(
            "<IIBIIBBHI", len(content), len(content), 3, zlib.crc32(content), 0x5A21A000, 20, 0x30, len(name), mode
        )
        packed += block(0x74, 0x8000, body + name.replace("/", "\\").encode(), content)
    return packed + block(0x7B, 0x4000, b"")


FILE_MODE, LINK_MODE = 0o100644, 0o120777


@pytest.mark.parametrize("program", ["unar", "bsdtar"])
@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ([("../../evil", b"2", FILE_MODE)], ""),
        ([("a/../../../evil", b"2", FILE_MODE)], ""),
        ([("{outside}/evil", b"2", FILE_MODE)], ""),
        ([("link", b"{outside}/secret", LINK_MODE)], "no plain file"),
        ([("link", b"{outside}", LINK_MODE), ("link/evil", b"2", FILE_MODE)], "hostile.rar"),
        ([("link", b"../../../outside", LINK_MODE), ("link/evil", b"2", FILE_MODE)], "hostile.rar"),
    ],
)
def test_hostile_rar_archives_write_nothing_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, entries: list[tuple[str, bytes, int]], told: str
) -> None:
    """Real .rar files; programs refuse, or put such members inside: both is well, as long as nothing is left or lands outside."""
    only_program(tmp_path, monkeypatch, program)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    entries = [
        (name.format(outside=outside), content.replace(b"{outside}", str(outside).encode()), mode)
        for name, content, mode in entries
    ]
    (tmp_path / "hostile.rar").write_bytes(rarred([("good.avi", b"1", FILE_MODE), *entries]))
    target = tmp_path / "deep" / "target"
    before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*") if not path.is_dir()}
    try:
        unpack(tmp_path / "hostile.rar", target)
        assert not told
        assert (target / "good.avi").read_bytes() == b"1"
    except InputError as error:
        assert "hostile.rar" in str(error)
        assert told in str(error)
        assert not any(target.iterdir())
    after = {
        path: path.lstat().st_mtime_ns
        for path in tmp_path.rglob("*")
        if not path.is_dir() and target not in path.parents
    }
    assert after == before
    assert not any(path.is_symlink() for path in target.rglob("*"))


@pytest.mark.parametrize("program", ["unar", "bsdtar"])
def test_a_real_rar_of_rars_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    only_program(tmp_path, monkeypatch, program)
    inner = rarred([("wave/one.avi", b"1", FILE_MODE), ("wave/two [x]!.avi", b"22", FILE_MODE)])
    (tmp_path / "hmdb51_org.rar").write_bytes(rarred([("wave.rar", inner, FILE_MODE)]))
    assert unpack(tmp_path / "hmdb51_org.rar", tmp_path / "out", nested=True) == 2
    found = {path.relative_to(tmp_path / "out").as_posix(): path for path in (tmp_path / "out").rglob("*.avi")}
    assert {name: path.read_bytes() for name, path in found.items()} == {
        "wave/one.avi": b"1",
        "wave/two [x]!.avi": b"22",
    }


def only_program(folder: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Let PATH lead to this program alone; skip where it is not installed."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed: unpacking by it is not tried")
    (folder / "bin").mkdir()
    (folder / "bin" / program).symlink_to(found)
    monkeypatch.setenv("PATH", str(folder / "bin"))
