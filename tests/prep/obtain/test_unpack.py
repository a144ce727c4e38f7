"""Unpacking archives: all files come out, and nothing leaves the folder."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from manifests.records import InputError
from tests.prep.obtain.support import CONTENT, FILES, rarred, tarred, zipped
from tgprep.obtain.unpack import safe_name, unpack


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
def test_members_that_leave_the_folder_are_rejected(tmp_path: Path, name: str, pack: object, wrong: str) -> None:
    assert callable(pack)
    (tmp_path / name).write_bytes(pack({"good": b"1", wrong: b"2"}))
    with pytest.raises(InputError, match="leaves the folder"):
        unpack(tmp_path / name, tmp_path / "inner" / "out")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]


def test_links_and_damage_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(tarred({}, link="/etc"))
    with pytest.raises(InputError, match="no plain file"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out")
    entry = zipfile.ZipInfo("link")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as pack:
        pack.writestr(entry, "/etc")
    with pytest.raises(InputError, match="which is a link"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    (tmp_path / "b.zip").write_bytes(zipped(FILES)[:-30])
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(b"no tar" * 1000))
    (tmp_path / "c.tar.gz").write_bytes(tarred({"big": CONTENT})[:100_000])
    for name in ("b.zip", "b.tar.gz", "c.tar.gz"):
        with pytest.raises(InputError, match="cannot be unpacked"):
            unpack(tmp_path / name, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*"))


def deflated(num_bytes: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as pack:
        pack.writestr("zeros", bytes(num_bytes))
    return buffer.getvalue()


def entry(name: str, size: int, kind: bytes = tarfile.REGTYPE, **pax: str) -> bytes:
    """A tar header that says any size."""
    made = tarfile.TarInfo(name)
    made.size, made.type, made.pax_headers = size, kind, pax
    return made.tobuf(tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT)


ENCRYPTED = bytearray(zipped({"a": b"x"}))
ENCRYPTED[6] |= 1  # the flag of the local header, and that of the directory
ENCRYPTED[ENCRYPTED.index(b"PK\x01\x02") + 8] |= 1
OTHER_METHOD = bytearray(zipped({"a": b"x"}))
OTHER_METHOD[8] = OTHER_METHOD[OTHER_METHOD.index(b"PK\x01\x02") + 10] = 97
SPARSE = {"GNU.sparse.major": "0", "GNU.sparse.size": str(10**17), "GNU.sparse.map": "0,1"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.zip", deflated(80_000_000), "it holds more than 200 times its size"),
        ("a.tar.gz", tarred({"zeros": bytes(80_000_000)}), "it holds more than 200 times its size"),
        ("a.tar.gz", gzip.compress(entry("a", -512) * 3), "a"),
        ("a.tar.gz", gzip.compress(entry("a", 10**15) + bytes(5120)), "cannot be unpacked"),
        ("a.tar.gz", gzip.compress(entry("a", 512, **SPARSE) + bytes(5120)), "no plain file"),
        ("a.tar.gz", gzip.compress(entry("a", 10**15, tarfile.XHDTYPE)), "cannot be unpacked"),
        ("a.tar.gz", gzip.compress(entry("a", 0, tarfile.FIFOTYPE) + bytes(1024)), "no plain file"),
        ("a.tar.gz", gzip.compress(entry("a", 0, tarfile.CHRTYPE) + bytes(1024)), "no plain file"),
        ("a.tar.gz", gzip.compress(entry("/etc/x", 0, tarfile.LNKTYPE) + bytes(1024)), "no plain file"),
        ("a.zip", zipped({"d/" * 3000 + "x": b"1"}), "below 3001 folders"),
        ("a.zip", zipped({"n" * 5000: b"1"}), "cannot be unpacked"),
        ("a.zip", bytes(ENCRYPTED), "cannot be unpacked"),
        ("a.zip", bytes(OTHER_METHOD), "cannot be unpacked"),
        ("a.zip", zipped({"x": b"1", "x/y": b"2"}), "cannot be unpacked"),
    ],
    # The bytes hold the time, and test processes must name their tests alike.
    ids=[
        "zip bomb",
        "gzip bomb",
        "negative size",
        "endless member",
        "sparse",
        "endless header",
        "fifo",
        "device",
        "hard link",
        "deep folders",
        "long name",
        "encrypted",
        "unknown method",
        "file and folder",
    ],
)
def test_hostile_archives_cost_little_and_leave_nothing(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=message):
            unpack(tmp_path / name, tmp_path / "out")
        assert tracemalloc.get_traced_memory()[1] < 60e6
    finally:
        tracemalloc.stop()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("program", ["unar", "bsdtar"])
def test_a_rar_that_holds_too_much_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    only_program(tmp_path, monkeypatch, program)
    inner = deflated(80_000_000)
    for content in (inner, zipped({"inner.rar": inner})):
        (tmp_path / "a.rar").write_bytes(content)
        with pytest.raises(InputError, match="it holds more than 200 times its size"):
            unpack(tmp_path / "a.rar", tmp_path / "out", nested=True)
        assert not (tmp_path / "out").exists()


def test_safe_names() -> None:
    assert safe_name("./a//b.txt") == ("a", "b.txt")
    assert safe_name("a\\b.txt") == ("a", "b.txt")
    assert safe_name("..a/b..") == ("..a", "b..")
    with pytest.raises(InputError):
        safe_name("a/../b")


@pytest.mark.parametrize("program", ["unar", "bsdtar"])
def test_rar_is_unpacked_by_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Both detect an archive by its content, so a zip under another name shows how they are called; nested as in HMDB51."""
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


def test_missing_program_for_rar_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "a.rar").write_bytes(b"Rar!")
    with pytest.raises(InputError, match="apt-get install unar"):
        unpack(tmp_path / "a.rar", tmp_path / "out")


FILE_MODE, LINK_MODE = 0o100644, 0o120777


@pytest.mark.parametrize("program", ["unar", "bsdtar"])
@pytest.mark.parametrize(
    ("entries", "message"),
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, entries: list[tuple[str, bytes, int]], message: str
) -> None:
    """Real .rar files; programs reject such members or put them inside: both are right if nothing is left or lands outside."""
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
        assert not message
        assert (target / "good.avi").read_bytes() == b"1"
    except InputError as error:
        assert "hostile.rar" in str(error)
        assert message in str(error)
        assert not target.exists()
    after = {
        path: path.lstat().st_mtime_ns
        for path in tmp_path.rglob("*")
        if not path.is_dir() and target not in path.parents
    }
    assert after == before
    assert not any(path.is_symlink() for path in target.rglob("*"))


@pytest.mark.parametrize("program", ["unar", "bsdtar"])
def test_rar_of_rars_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
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
    """Let PATH lead only to this program; skip if it is not installed."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    (folder / "bin").mkdir()
    (folder / "bin" / program).symlink_to(found)
    monkeypatch.setenv("PATH", str(folder / "bin"))
