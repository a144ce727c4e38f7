"""The extraction on a real Dask cluster: a scheduler and two workers as processes, one of them killed half-way."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Reliability
from tests.extraction import BACKENDS, call, children, environment, start, tree, wait_until
from tests.object_store import ObjectStore

Client = pytest.importorskip("distributed", reason="the extra `dask` is not installed").Client

HOW = ("--decoder", "fake_backends:open_video", "--videos-per-shard", "3", "--dataset", "folder")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]], Path]]:
    """Address of a scheduler, its two worker processes, and the folder of their backends."""
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "fake_backends.py").write_text(BACKENDS)
    address_file = tmp_path / "scheduler.json"
    running: list[subprocess.Popen[bytes]] = []

    def begin(*arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_scheduler", *arguments]
            if arguments[0] == "--host"
            else [sys.executable, "-m", "distributed.cli.dask_worker", *arguments],
            env=environment(modules, FAKE_SECONDS="0.02", DASK_LOGGING__DISTRIBUTED="error"),
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        running.append(process)
        return process

    begin("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(address_file))
    wait_until(address_file.exists)
    own = ("--scheduler-file", str(address_file), "--no-nanny", "--nthreads", "1", "--no-dashboard")
    workers = [begin(*own, "--local-directory", str(tmp_path / f"w{number}")) for number in range(2)]
    try:
        wait_until(lambda: address_file.read_text().strip())
        address = json.loads(address_file.read_text())["address"]
        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
        yield address, workers, modules
    finally:
        for process in running:
            process.kill()
            process.wait()


def test_a_cluster_gives_the_same_bytes_after_a_killed_worker(
    cluster: tuple[str, list[subprocess.Popen[bytes]], Path], tmp_path: Path, reliability: Reliability
) -> None:
    address, workers, modules = cluster
    videos, out = tmp_path / "videos", tmp_path / "out"
    for number in range(30):
        path = videos / f"class{number % 3}" / f"{'refuse' if number == 5 else 'v'}{number:02d}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number + 1]) * 10)
    run = start("extract", videos, out, *HOW, "--engine", "dask", "--scheduler", address, path=modules)
    try:
        wait_until(lambda: len(list(out.glob("shard-*.tar"))) >= 2 and children(workers[0].pid))
        os.kill(workers[0].pid, signal.SIGKILL)
        _, errors = run.communicate(timeout=120)
    finally:
        run.kill()
    assert run.returncode == 1, errors
    assert "30 inputs = 29 written + 1 failed + 0 skipped" in errors
    assert call("extract", videos, tmp_path / "local", *HOW, "--threads", "1", path=modules).returncode == 1
    assert tree(out) == tree(tmp_path / "local")
    reliability.record(
        "Extraction on several machines",
        "Dask cluster of two workers, one killed (-9) half-way; against a local run",
        num_kills=1,
        num_videos=30,
        differing_files=0,
    )


@pytest.mark.long
@pytest.mark.parametrize("killed", [False, True], ids=["whole", "killed"])
def test_a_cluster_reads_and_writes_an_object_store(
    store: ObjectStore,
    cluster: tuple[str, list[subprocess.Popen[bytes]], Path],
    tmp_path: Path,
    killed: bool,
    reliability: Reliability,
) -> None:
    """Each worker downloads its videos to a scratch folder on its machine and uploads complete shards; nothing stays there."""
    address, workers, modules = cluster
    videos, scratch = tmp_path / "videos", tmp_path / "scratch"
    scratch.mkdir()
    for number in range(30 if killed else 9):
        path = videos / "some class" / f"{'refuse' if number == 5 else 'v'} {number:02d}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number + 1]) * 10)
    bucket = store.bucket(f"dask-{'killed' if killed else 'whole'}")
    store.upload(videos, f"{bucket}/videos")
    urls = (f"{bucket}/videos", f"{bucket}/out")
    how = (*HOW, "--engine", "dask", "--scheduler", address, "--scratch", scratch)
    run = start("extract", *urls, *how, path=modules)
    try:
        if killed:
            made = f"{bucket.removeprefix('s3://')}/out/shard-*.tar"
            wait_until(lambda: len(store.files().glob(made)) >= 2 and children(workers[0].pid))
            os.kill(workers[0].pid, signal.SIGKILL)
        _, errors = run.communicate(timeout=180)
    finally:
        run.kill()
    assert run.returncode == 1, errors
    assert "1 failed + 0 skipped" in errors, errors
    assert call("extract", videos, tmp_path / "local", *HOW, "--threads", "1", path=modules).returncode == 1
    there = {name: hashlib.sha256(content).hexdigest() for name, content in store.tree(f"{bucket}/out").items()}
    assert there == tree(tmp_path / "local")
    if killed:
        reliability.record(
            "Extraction on several machines",
            "Dask cluster of two workers from and to an S3 store, one killed (-9) half-way; against a local run",
            num_kills=1,
            num_videos=30,
            differing_files=0,
        )
    else:
        assert not list(scratch.iterdir())


@pytest.mark.long
def test_an_interrupted_run_on_a_cluster_is_finished_later(
    cluster: tuple[str, list[subprocess.Popen[bytes]], Path], tmp_path: Path
) -> None:
    address, _, modules = cluster
    videos, out = tmp_path / "videos", tmp_path / "out"
    for number in range(20):
        path = videos / "class" / f"v{number:02d}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number + 1]) * 10)
    how = (*HOW, "--engine", "dask", "--scheduler", address)
    run = start("extract", videos, out, *how, path=modules)
    wait_until(lambda: list(out.glob("shard-*.tar")))
    run.send_signal(signal.SIGTERM)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 143, errors
    assert "to continue:" in errors
    assert call("extract", videos, out, *how, path=modules).returncode == 0
    assert call("extract", videos, tmp_path / "local", *HOW, path=modules).returncode == 0
    assert tree(out) == tree(tmp_path / "local")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--engine", "dask"), "--engine dask and --scheduler ADDRESS go together"),
        pytest.param(
            ("--engine", "dask", "--scheduler", "tcp://127.0.0.1:1"),
            "no Dask scheduler answers at this address",
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_wrong_scheduler_is_refused(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    (tmp_path / "videos" / "a").mkdir(parents=True)
    (tmp_path / "videos" / "a" / "v.avi").write_bytes(b"x")
    refused = call("extract", tmp_path / "videos", tmp_path / "out", *options)
    assert refused.returncode == 2, refused.stderr
    assert message in refused.stderr
