"""`tgprep extract` from and to an object store, as real processes: same bytes as on disk, whatever is killed or fails between."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from click.testing import CliRunner, Result

from cli.prep import main
from tests.cli.prep.support import SLOW
from tests.conftest import Reliability
from tests.extraction import alive, call, children, kill_group, start, tree, wait_until
from tests.object_store import ObjectStore
from tests.prep.support import moving_square, write_video

GATE_REPEATS = 1
LONG_REPEATS = 20


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 real videos with names of all kinds, two of them damaged."""
    root = tmp_path_factory.mktemp("corpus") / "videos"
    for number in range(22):
        name = ("v{:03d}", "with space {:03d}", "[b] (c) & d+e%20#{:03d}", "naïve_видео_{:03d}")[number % 4].format(
            number
        )
        write_video(root / f"class {number % 3}" / f"{name}.avi", moving_square(6 + number % 5, start=3 * number))
    (root / "class 0" / "empty.avi").write_bytes(b"")
    (root / "class 1" / "text.mp4").write_text("no video\n" * 50)
    (root / "class 1" / "notes.txt").write_text("no video\n")
    return root


@pytest.fixture(scope="module")
def undisturbed(videos: Path, modules: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert call("extract", videos, out, *SLOW, path=modules).returncode == 1
    return tree(out)


@pytest.fixture
def place(store: ObjectStore, videos: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A new bucket with the videos in it: its URL."""
    url = store.bucket(f"tgprep-{abs(hash(request.node.name)) % 10**12}")
    store.upload(videos, f"{url}/my videos")
    yield url
    store.files().rm(url.removeprefix("s3://"), recursive=True)


def in_store(store: ObjectStore, url: str) -> dict[str, str]:
    """As `tests.extraction.tree`, of a folder in the store."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in store.tree(url).items()}


def here(*arguments: str | Path) -> Result:
    """`tgprep ARGUMENTS` in this process."""
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    return CliRunner().invoke(main, list(map(str, arguments)))


def no_scratch(folder: Path) -> bool:
    return not list(folder.iterdir())


def test_from_store_to_store_gives_the_same_bytes(store: ObjectStore, place: str, videos: Path, tmp_path: Path) -> None:
    local = tmp_path / "local"
    assert call("extract", videos, local, "--threads", "1").returncode == 1
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    out = f"{place}/deep/out"
    done = call("extract", f"{place}/my videos/", out, "--threads", "2", "--scratch", scratch, "--json")
    assert done.returncode == 1, done.stderr
    account = json.loads(done.stdout)
    assert (account["num_inputs"], account["num_written"], account["num_failed"]) == (24, 22, 2)
    assert {entry["error"] for entry in account["failed"]} >= {"the file is empty (0 bytes)"}
    assert in_store(store, out) == tree(local)
    assert no_scratch(scratch)
    again = call("extract", f"{place}/my videos", out)
    assert again.returncode == 1
    assert "is finished already: nothing to do" in again.stderr
    # One side remote, the other local; and what reads a data set reads it there.
    assert call("extract", f"{place}/my videos", tmp_path / "fetched", "--threads", "1").returncode == 1
    assert tree(tmp_path / "fetched") == tree(local)
    for root in (out, local):
        assert here("split", root, "--percent", "50").exit_code == 0
    assert in_store(store, out) == tree(local)
    facts = [json.loads(here("info", root, "--json").stdout) for root in (out, local)]
    assert [entry.pop("path") for entry in facts] == [out, str(local)]
    assert facts[0] == facts[1]
    checked = here("check", out, "--deep", "--against", videos, "--threads", "1")
    assert checked.exit_code == 0, checked.output
    assert here("preview", out, "--output", tmp_path / "page.html", "--max-videos", "4").exit_code == 0
    assert (tmp_path / "page.html").stat().st_size > 10_000
    estimated = here("extract", f"{place}/my videos", f"{place}/none", "--dry-run", "--json")
    assert json.loads(estimated.stdout)["num_videos"] == 24
    assert json.loads(estimated.stdout)["num_free_bytes"] == -1


@pytest.mark.parametrize(
    "seed",
    [*range(GATE_REPEATS), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(GATE_REPEATS, LONG_REPEATS))],
)
def test_a_killed_run_is_finished_on_another_machine(
    store: ObjectStore,
    place: str,
    modules: Path,
    undisturbed: dict[str, str],
    tmp_path: Path,
    seed: int,
    reliability: Reliability,
) -> None:
    """kill -9 of the whole run and of workers; the second run sees nothing of the first one's disk."""
    draw = random.Random(seed)
    out = f"{place}/out"
    moments = []
    for number in range(2):
        scratch = tmp_path / f"scratch{number}"
        scratch.mkdir()
        process = start(
            "extract", f"{place}/my videos", out, *SLOW, "--scratch", scratch, path=modules, FAKE_SECONDS="0.02"
        )
        began = time.monotonic()
        workers: list[int] = []
        moment = draw.uniform(2.0, 7.0)
        while time.monotonic() < began + moment and process.poll() is None:
            workers = children(process.pid) or workers
            time.sleep(0.02)
        moments.append(round(time.monotonic() - began, 2))
        kill_group(process)
        wait_until(lambda: not any(map(alive, workers)))  # noqa: B023 - called before the next round
    scratch = tmp_path / "last"
    scratch.mkdir()
    done = call("extract", f"{place}/my videos", out, *SLOW, "--scratch", scratch, path=modules)
    assert done.returncode == 1, done.stderr
    assert "24 inputs = 23 written + 1 failed + 0 skipped" in done.stderr
    assert in_store(store, out) == undisturbed
    assert no_scratch(scratch)
    reliability.record(
        "Extraction to an object store",
        "kill -9 of the whole run at a random moment, then the same command with another disk",
        num_kills=2,
        at_seconds=moments,
        differing_files=0,
    )


@pytest.mark.long
def test_scratch_of_a_killed_run_is_removed_by_the_next(
    store: ObjectStore, place: str, modules: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    how = ("extract", f"{place}/my videos", f"{place}/out", *SLOW, "--scratch", tmp_path)
    process = start(*how, path=modules, FAKE_SECONDS="0.05")
    wait_until(lambda: list(tmp_path.rglob(".tmp-*")))
    kill_group(process)
    assert not no_scratch(tmp_path)
    assert call(*how, path=modules).returncode == 1
    assert no_scratch(tmp_path)
    assert in_store(store, f"{place}/out") == undisturbed


def test_a_second_run_is_refused_and_an_interrupt_releases_the_lease(
    store: ObjectStore, place: str, modules: Path, undisturbed: dict[str, str]
) -> None:
    how = ("extract", f"{place}/my videos", f"{place}/out", *SLOW)
    first = start(*how, path=modules, FAKE_SECONDS="0.6")
    try:
        wait_until(lambda: "out/.tgprep/plan.json" in store.tree(place))
        second = call(*how, path=modules)
        assert second.returncode == 2
        assert f"{place}/out is in use by process {first.pid} on " in second.stderr
        first.send_signal(signal.SIGTERM)
        _, errors = first.communicate(timeout=60)
    finally:
        kill_group(first)
    assert first.returncode == 143, errors
    assert "to continue:" in errors
    assert not [name for name in store.tree(place) if "lock" in name]
    assert call(*how, path=modules).returncode == 1
    assert in_store(store, f"{place}/out") == undisturbed


@pytest.mark.long
def test_a_store_that_fails_and_restarts_costs_one_warning_each(
    store: ObjectStore, place: str, modules: Path, undisturbed: dict[str, str], reliability: Reliability
) -> None:
    how = ("extract", f"{place}/my videos", f"{place}/out", *SLOW)
    run = start(*how, path=modules, FAKE_SECONDS="0.02")
    try:
        wait_until(lambda: "out/.tgprep/plan.json" in store.tree(place))
        store.gate.fail_next = 12
        wait_until(lambda: store.gate.fail_next == 0)
        wait_until(lambda: any(name.startswith("out/shard-") for name in store.tree(place)))
        store.gate.shut()
        time.sleep(6)
        store.gate.open()
        _, errors = run.communicate(timeout=120)
    finally:
        kill_group(run)
    assert run.returncode == 1, errors
    warnings = [line for line in errors.splitlines() if "does not answer" in line]
    assert 1 <= len(warnings) <= 2, errors
    assert in_store(store, f"{place}/out") == undisturbed
    reliability.record(
        "Extraction to an object store",
        "answers 503, then a server that is away for six seconds, while the run goes on",
        num_answers_503=12,
        num_warnings=len(warnings),
        differing_files=0,
    )


def test_array_tasks_share_a_store(store: ObjectStore, place: str, modules: Path, undisturbed: dict[str, str]) -> None:
    how = ("extract", f"{place}/my videos", f"{place}/out", *SLOW, "--num-tasks", "2")
    running = [start(*how, "--task-id", str(number), path=modules) for number in range(2)]
    outputs = [process.communicate(timeout=120)[1] for process in running]
    assert [process.returncode for process in running].count(1) >= 1, outputs
    if "dataset.json" not in in_store(store, f"{place}/out"):
        assert call("finalize", f"{place}/out").returncode == 1
    assert in_store(store, f"{place}/out") == undisturbed
    late = call(*how, "--task-id", "1", path=modules)
    assert late.returncode == 1
    assert "is finished already" in late.stderr
    refused = call("finalize", f"{place}/out")
    assert refused.returncode == 2
    assert "is finished already" in refused.stderr


def test_add_and_retry_failed_in_a_store(store: ObjectStore, place: str, videos: Path, modules: Path) -> None:
    how = ("extract", f"{place}/my videos", f"{place}/out", *SLOW)
    assert call(*how, path=modules).returncode == 1
    before = in_store(store, f"{place}/out")
    folder = f"{place.removeprefix('s3://')}/my videos"
    store.files().pipe_file(f"{folder}/class 0/empty.avi", b"no longer empty")
    store.files().pipe_file(f"{folder}/class 9/new.avi", b"new")
    done = call(*how, "--add", "--retry-failed", path=modules)
    assert done.returncode == 0, done.stderr
    assert "25 inputs = 25 written + 0 failed + 0 skipped" in done.stderr
    after = in_store(store, f"{place}/out")
    shards = {name: digest for name, digest in before.items() if name.startswith("shard-")}
    assert shards.items() <= after.items()
    assert {name for name in after if not name.startswith("shard-")} == {
        "dataset.json",
        "README.md",
        "shards.parquet",
        "videos.parquet",
    }
    assert call("check", f"{place}/out", "--deep").returncode == 0


def test_mistakes_are_one_message(
    store: ObjectStore, place: str, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def message(*arguments: str | Path) -> str:
        done = here(*arguments)
        assert done.exit_code == 2, done.output
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
        return line

    with monkeypatch.context() as without:
        without.delenv("AWS_ACCESS_KEY_ID")
        without.delenv("AWS_SECRET_ACCESS_KEY")
        without.setenv("HOME", str(tmp_path))
        assert "no credentials for s3://" in message("info", f"{place}/out")
        assert "no credentials for s3://" in message("extract", videos, f"{place}/out")
    assert call("info", "s3://nowhere-at-all/out").returncode == 2
    for command in ("info", "check", "split", "preview"):
        assert "there is no bucket nowhere-at-all" in message(command, "s3://nowhere-at-all/out")
        assert f"{place}/out holds no data set" in message(command, f"{place}/out")
    assert "there is no bucket nowhere-at-all" in message("extract", videos, "s3://nowhere-at-all/out")
    assert "there is no bucket nowhere-at-all" in message("extract", "s3://nowhere-at-all", tmp_path / "out")
    assert "holds no files at all" in message("extract", f"{place}/nothing", tmp_path / "out2")
    assert "is not empty (my videos) and holds no data set" in message("extract", videos, place)
    assert "gs:// needs a package that is not installed" in message("info", "gs://bucket/out")
    assert "foo:// cannot be used" in message("extract", videos, "foo://bucket/out")
    assert "--scratch /nowhere/at/all" in message("extract", videos, f"{place}/out", "--scratch", "/nowhere/at/all")
    assert "no such file or folder" in message("extract", videos, tmp_path / "o", "--annotations", f"{place}/none")
    assert "is gone when this program ends" in message("info", "memory://a/b")
