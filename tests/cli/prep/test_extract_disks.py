"""Full, limited, read-only and removed disks under `tgprep extract`, and two runs on one folder."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.prep.support import SLOW, one_message
from tests.extraction import call, command, environment, start, tree, wait_until


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a small file system in memory: `mounted("size=1m")`; needs root."""
    places: list[Path] = []

    def mount(options: str) -> Path:
        place = tmp_path / f"mounted{len(places)}"
        place.mkdir()
        done = (
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True, check=False
            )
            if os.geteuid() == 0
            else None
        )
        if done is None or done.returncode:
            pytest.skip("mounting a small file system needs root and CAP_SYS_ADMIN")
        places.append(place)
        return place

    yield mount
    for place in places:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_ends_the_run_with_one_message(
    videos: Path, whole: dict[str, str], whole_out: Path, mounted: Callable[[str], Path]
) -> None:
    num_bytes = sum(path.stat().st_size for path in whole_out.iterdir())
    place = mounted(f"size={num_bytes * 2 // 3 // 4096 * 4}k")
    full = call("extract", videos, place / "out", "--threads", "2")
    assert full.returncode == 1
    assert "No space left on device" in one_message(full)
    assert "Finished shards are kept; run the same command again to continue." in full.stderr
    assert not list((place / "out").rglob(".tmp-*"))
    subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
    assert call("extract", videos, place / "out", "--threads", "1").returncode == 1  # two videos fail, as always
    assert tree(place / "out") == whole


def test_a_file_size_limit_ends_the_run_with_one_message(videos: Path, whole: dict[str, str], tmp_path: Path) -> None:
    limited = subprocess.run(
        command("extract", videos, tmp_path / "out", "--threads", "1"),
        env=environment(),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY)),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert limited.returncode == 1
    assert "File too large" in one_message(limited)
    assert call("extract", videos, tmp_path / "out", "--threads", "1").returncode == 1
    assert tree(tmp_path / "out") == whole


def test_a_read_only_target_is_refused_unless_it_is_finished(videos: Path, mounted: Callable[[str], Path]) -> None:
    place = mounted("size=8m")
    (place / "out").mkdir()
    assert call("extract", videos, place / "finished", "--threads", "1").returncode == 1
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    for out in (place / "out", place / "other"):
        refused = call("extract", videos, out)
        assert refused.returncode == 2
        assert "Read-only file system" in one_message(refused)
    again = call("extract", videos, place / "finished")
    assert again.returncode == 1
    assert "finished already" in again.stderr


def test_a_removed_out_ends_the_run(videos: Path, modules: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start("extract", videos, out, *SLOW, path=modules, FAKE_SECONDS="0.05")
    wait_until(lambda: list(out.glob("shard-*.tar")))
    out.rename(tmp_path / "away")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.count("Error: ") == 1
    assert "Traceback" not in errors
    assert "No such file or directory" in errors or "removed" in errors


def test_a_second_run_on_the_same_folder_is_refused(
    videos: Path, modules: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = start("extract", videos, out, *SLOW, path=modules, FAKE_SECONDS="0.03")
    wait_until(lambda: list(out.glob("shard-*.tar")))
    first.send_signal(signal.SIGSTOP)  # so that it cannot end before the second has looked
    second = call("extract", videos, out, *SLOW, path=modules)
    first.send_signal(signal.SIGCONT)
    assert second.returncode == 2
    assert f"is in use by process {first.pid} on {os.uname().nodename}" in one_message(second)
    _, errors = first.communicate(timeout=120)
    assert first.returncode == 1, errors
    assert tree(out) == undisturbed
