"""Shared fixtures: the folder of real videos and lists, the skip of GPU tests, and the record of long tests.

A long test (`@pytest.mark.long`) that measures kills, damage or long runs takes the fixture `reliability` and
ends with `reliability.record(section, name, num_kills=50, differing_files=0, peak_worker_mb=110.0)`: one line of
docs/reliability.md, which `pytest --reliability` (`make check-long`) writes. tests/reliability.py says how figures of
several tests on one line are combined.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import fsspec
import pytest

from manifests.object_store import giving_up
from tests.extraction import WITHOUT_PANDAS
from tests.object_store import ObjectStore, object_store
from tests.reliability import Figure, Reliability, write
from tgtrain.ranks.signals import EXIT_CODES

REPOSITORY = Path(__file__).resolve().parent.parent
RECORDS: pytest.StashKey[list[tuple[str, str, dict[str, Figure]]]] = pytest.StashKey()
OUTCOME: pytest.StashKey[bool] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--reliability", action="store_true", help="write docs/reliability.md from what the long tests record"
    )


@pytest.fixture(scope="session", autouse=True)
def _without_pandas() -> None:
    """Hide pandas from the processes that tests start, as a user without it has it.

    pyarrow imports it, where it is there, with the first list that it converts, in every process.
    """
    places = (str(WITHOUT_PANDAS), os.environ.get("PYTHONPATH"))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, places))


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    """Undo what a command that runs in this process sets for signals until the end of its process."""
    before = {number: signal.getsignal(number) for number in EXIT_CODES}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    yield
    signal.set_wakeup_fd(-1)  # else the thread of `note_signals` goes on to set `giving_up`
    for number, handler in before.items():
        if handler is not None:  # set by C code
            signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    giving_up.clear()


@pytest.fixture
def reliability(request: pytest.FixtureRequest) -> Iterator[Reliability]:
    """Takes the figures of a long test for docs/reliability.md; those of a test that fails are dropped."""
    taken = Reliability()
    yield taken
    if request.node.stash.get(OUTCOME, False):
        request.config.stash.setdefault(RECORDS, []).extend(taken.records)


@pytest.fixture(scope="session")
def store_server() -> Iterator[ObjectStore]:
    pytest.importorskip("moto", reason="the S3 server for tests comes with the extra `dev`")
    pytest.importorskip("s3fs", reason="s3:// needs the extra `s3`")
    with object_store() as running:
        yield running


@pytest.fixture
def store(store_server: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """A real S3-compatible server; the environment of this process (and of children that inherit it) leads to it."""
    for name, value in store_server.environment.items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield store_server
    store_server.gate.open()
    store_server.gate.fail_next = 0
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.stash[OUTCOME] = report.passed
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    records = session.config.stash.get(RECORDS, [])
    if records and session.config.getoption("--reliability"):
        write(records)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real videos, official lists and golden figures; tests that need it are skipped elsewhere."""
    folder = Path(os.environ.get("TG_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no shared material at {folder} (set TG_SHARED to its folder)")
    return folder


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium; without one, skip, or fail if REQUIRE_BROWSER=1."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next((found for name in names if (found := shutil.which(name))), None)
    if program is None:
        reason = "no chromium on this machine: the page is not tested in a browser"
        if os.environ.get("REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(f"{reason} (REQUIRE_BROWSER=1 makes this a failure)")
    return program


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip `gpu` tests without a CUDA device; with REQUIRE_GPU=1 they run and fail."""
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items or os.environ.get("REQUIRE_GPU") == "1":
        return
    try:
        import torch

        available = torch.cuda.is_available()
    except ImportError:
        available = False
    if not available:
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="no CUDA device (REQUIRE_GPU=1 makes this a failure)"))
