"""Folders and object stores behind the same functions: what is read is what was written, trouble passes, refusals say what to do."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from manifests import files as places
from manifests import object_store as stores
from manifests.files import Location, below, parse_location
from manifests.records import InputError
from tests.object_store import ObjectStore


@pytest.fixture(params=["folder", "s3", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    if request.param == "folder":
        return tmp_path
    if request.param == "memory":
        return f"memory://{tmp_path.name}"
    store: ObjectStore = request.getfixturevalue("store")
    return store.bucket(f"b{abs(hash(tmp_path)) % 10**9}") + "/in/it"


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    messages: list[str] = []
    monkeypatch.setattr(stores, "_warning_handler", lambda root, text: messages.append(text))
    monkeypatch.setattr(stores, "_last_failure", {})
    return messages


def test_the_same_functions_for_folders_and_stores(root: Location, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert places.list_folder(below(root, "deep")) == {}
    assert not places.exists(below(root, "a"))
    with pytest.raises(FileNotFoundError):
        places.read_bytes(below(root, "a"))
    for name, content in (("a", b"one"), ("b", b"")):
        with places.atomic_write(below(root, name)) as file:
            file.write(content)
    if isinstance(root, Path):
        (root / "deep").mkdir()
    with places.atomic_write(below(root, "deep", "c")) as file:
        file.write(b"xyz" * 1000)
    assert places.list_folder(root) == {"a": 3, "b": 0, "deep": -1}
    assert places.list_files(root) == {"a": 3, "b": 0}
    assert places.read_bytes(below(root, "deep", "c")) == b"xyz" * 1000
    assert places.exists(below(root, "b"))
    if isinstance(root, str):
        local = tmp_path_factory.mktemp("local") / "file"
        assert places.list_tree(root) == {"a": 3, "b": 0, "deep/c": 3000}
        assert places.read_many([str(below(root, "deep", "c")), str(below(root, "a"))]) == [b"xyz" * 1000, b"one"]
        assert places.read_many([str(below(root, "a"))]) == [b"one"]
        places.download(str(below(root, "deep", "c")), local)
        assert local.read_bytes() == b"xyz" * 1000
        places.upload(local, str(below(root, "up")))
        assert places.read_bytes(below(root, "up")) == b"xyz" * 1000
        assert places.create(str(below(root, "lock")), b"1")
        assert not places.create(str(below(root, "lock")), b"2")
        assert places.read_bytes(below(root, "lock")) == b"1"
    with pytest.raises(ZeroDivisionError), places.atomic_write(below(root, "torn")) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert not places.exists(below(root, "torn"))
    places.remove(below(root, "a"))
    places.remove(below(root, "a"))
    places.remove_tree(below(root, "deep"))
    places.remove_tree(below(root, "deep"))
    assert "deep" not in places.list_folder(root)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("out", Path("out")),
        ("file:///a/b", Path("/a/b")),
        ("s3://b/p/", "s3://b/p"),
        ("/a//b", Path("/a/b")),
    ],
)
def test_what_users_give(text: str, place: Location) -> None:
    assert parse_location(text) == place


def test_trouble_passes_with_one_warning(store: ObjectStore, warnings: list[str]) -> None:
    url = store.bucket("trouble") + "/x"
    with places.atomic_write(url) as file:
        file.write(b"content")
    store.gate.fail_next = 3  # retries of the client library are off
    assert places.read_bytes(url) == b"content"
    assert store.gate.fail_next == 0
    store.gate.shut()
    threading.Timer(2.0, store.gate.open).start()
    began = time.monotonic()
    assert places.list_files("s3://trouble") == {"x": 7}
    assert time.monotonic() - began > 1.5
    (warning,) = warnings
    assert warning.startswith("s3://trouble does not answer (")
    assert warning.endswith("retrying for up to 600 s")


def test_a_store_that_stays_away(store: ObjectStore, warnings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    url = store.bucket("away") + "/x"
    monkeypatch.setattr(stores, "patience", 0.5)
    store.gate.shut()
    with pytest.raises(
        InputError, match=r"s3://away/x: the store did not answer for .*Check its address and the network"
    ):
        places.read_bytes(url)
    store.gate.open()
    assert not places.exists(url)
    store.gate.shut()
    with pytest.raises(stores.UnreachableError, match="the store did not answer for"):
        places.read_bytes(url)


def test_what_the_user_can_mend_is_said(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        InputError, match="there is no bucket nowhere. Make it, or check its name, and AWS_ENDPOINT_URL"
    ):
        places.read_bytes("s3://nowhere/x")
    with pytest.raises(InputError, match="there is no bucket nowhere"):
        places.list_folder("s3://nowhere/x")
    with pytest.raises(InputError, match=r"foo:// cannot be used .*local folder is given as a path"):
        places.read_bytes("foo://a/b")
    with pytest.raises(InputError, match=r"gs:// needs a package that is not installed .*pip install gcsfs"):
        places.read_bytes("gs://a/b")
    with pytest.raises(InputError, match="the store refuses the request"):
        places.read_bytes("s3://a b!/x")


def test_without_credentials(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(InputError, match=r"no credentials for s3:// are set .*Set AWS_ACCESS_KEY_ID and"):
        places.read_bytes("s3://any/x")


def test_a_refusal_names_what_must_be_allowed() -> None:
    refused = stores._explained("s3://b/x", PermissionError("Access Denied"))
    assert isinstance(refused, InputError)
    assert "the store refuses access (Access Denied)" in str(refused)


def test_one_warning_from_several_threads(warnings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if processes share their warnings: the first of two threads waits inside the shared check."""
    monkeypatch.setattr(stores, "_last_failure", {})
    looked = threading.Event()
    asked: list[str] = []

    def heard(root: str) -> bool:
        asked.append(root)
        if len(asked) == 1:
            looked.wait(0.2)  # the other thread would be here before this one returns
        else:
            looked.set()
        is_repeated, warned[:] = bool(warned), [root]
        return is_repeated

    warned: list[str] = []
    monkeypatch.setattr(stores, "_already_warned", heard)
    threads = [threading.Thread(target=stores.warn_once, args=("s3://b", "s3://b does not answer")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings == ["s3://b does not answer"]
    assert len(asked) == 4
