"""A data set in the object store of the tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from manifests import object_store as stores
from tests.object_store import ObjectStore
from tests.train.data.stores.support import NUM_SHARDS
from tests.train.support import write_data_set


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set on local disk; do not change it."""
    root = tmp_path_factory.mktemp("remote") / "set"
    write_data_set(root, num_shards=NUM_SHARDS)
    return root


@pytest.fixture(scope="session")
def uploaded(store_server: ObjectStore, local: Path) -> str:
    location = store_server.bucket("remote-shards") + "/set"
    store_server.upload(local, location)
    return location


@pytest.fixture
def url(uploaded: str, store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The data set in the store; do not change it."""
    monkeypatch.setattr(stores, "_last_failure", {})
    monkeypatch.setattr(stores, "_already_warned", None)
    yield uploaded
    store.gate.delay_seconds, store.gate.cut_next = 0.0, 0


@pytest.fixture
def own_url(url: str, store: ObjectStore, local: Path, tmp_path: Path) -> str:
    """A copy that a test may change."""
    location = store.bucket(f"b{abs(hash(tmp_path)) % 10**9}") + "/set"
    store.upload(local, location)
    return location


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Warnings about the store."""
    lines: list[str] = []
    monkeypatch.setattr(stores, "_warning_handler", lambda root, text: lines.append(text))
    return lines
