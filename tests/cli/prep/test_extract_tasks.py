"""Array jobs: tasks on one OUT as real processes, side by side, killed, late, twice, and joined."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pytest

from tests.conftest import Reliability
from tests.extraction import alive, call, children, kill_group, start, tree, wait_until

HOW = ("--decoder", "fake_backends:open_video", "--videos-per-shard", "3", "--threads", "1", "--dataset", "folder")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus") / "videos"
    for number in range(26):
        path = root / f"class{number % 3}" / f"{'refuse' if number == 5 else 'v'}{number:02d}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number + 1]) * 10)
    return root


@pytest.fixture(scope="module")
def alone(videos: Path, modules: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The files of one run without tasks."""
    out = tmp_path_factory.mktemp("alone") / "out"
    assert call("extract", videos, out, *HOW, path=modules).returncode == 1
    return tree(out)


def test_tasks_side_by_side_give_the_same_bytes_and_the_last_one_joins(
    videos: Path, modules: Path, alone: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    tasks = [
        start("extract", videos, out, *HOW, "--num-tasks", "3", "--task-id", str(task), path=modules)
        for task in range(3)
    ]
    texts = [task.communicate(timeout=120)[1] for task in tasks]
    assert sum("26 inputs = 25 written + 1 failed + 0 skipped" in text for text in texts) == 1
    assert sum("The last task joins them" in text for text in texts) == 2
    # The one that joined, and the one that had the failed video (they may be the same).
    assert 1 <= sum(task.returncode == 1 for task in tasks) <= 2
    assert {task.returncode for task in tasks} <= {0, 1}
    assert tree(out) == alone
    late = call("extract", videos, out, *HOW, "--num-tasks", "3", "--task-id", "1", path=modules)
    assert late.returncode == 1
    assert "is finished already: nothing to do" in late.stderr
    assert tree(out) == alone


@pytest.mark.long
def test_killed_tasks_are_run_again_and_joined(
    videos: Path, modules: Path, alone: dict[str, str], tmp_path: Path, reliability: Reliability
) -> None:
    out = tmp_path / "out"
    draw = random.Random(3)
    share = [("--num-tasks", "2", "--task-id", str(task)) for task in range(2)]
    for _ in range(2):
        tasks = [start("extract", videos, out, *HOW, *mine, path=modules, FAKE_SECONDS="0.2") for mine in share]
        time.sleep(draw.uniform(1.0, 2.5))
        workers = [worker for task in tasks for worker in children(task.pid)]
        for task in tasks:
            kill_group(task)
        wait_until(lambda: not any(map(alive, workers)))  # noqa: B023 - called before the next round
    first = call("extract", videos, out, *HOW, *share[0], "--json", path=modules)
    facts = json.loads(first.stdout)
    assert (facts["task_id"], facts["num_tasks"], facts["num_shards"]) == (0, 2, 5)
    missing = call("finalize", out)
    if facts["num_shards_left"]:
        assert missing.returncode == 1
        assert f"{facts['num_shards_left']} of 9 shards are missing" in missing.stderr
    assert call("extract", videos, out, *HOW, *share[1], path=modules).returncode == 1
    assert tree(out) == alone
    assert call("finalize", out).returncode == 2
    reliability.record(
        "Extraction on several machines",
        "two array tasks killed (-9) twice at random moments, run again, joined; against one run",
        num_kills=4,
        differing_files=0,
    )


def test_a_task_is_refused_twice_and_beside_a_full_run(
    videos: Path, modules: Path, alone: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    mine = ("--num-tasks", "2", "--task-id", "0")
    task = start("extract", videos, out, *HOW, *mine, path=modules, FAKE_SECONDS="0.03")
    wait_until(lambda: list(out.glob("shard-*.tar")))
    task.send_signal(signal.SIGSTOP)  # so that it cannot end before the others have looked
    same = call("extract", videos, out, *HOW, *mine, path=modules)
    whole = call("extract", videos, out, *HOW, path=modules)
    task.send_signal(signal.SIGCONT)
    for refused, name in ((same, f"task 0 of {out}"), (whole, str(out))):
        assert refused.returncode == 2
        assert f"Error: {name} is in use by process {task.pid} on " in refused.stderr
    task.communicate(timeout=120)
    # What is left can be made by a run without tasks, too.
    assert call("extract", videos, out, *HOW, path=modules).returncode == 1
    assert tree(out) == alone


def test_finalize_joins_when_the_last_task_is_lost(
    videos: Path, modules: Path, alone: dict[str, str], tmp_path: Path
) -> None:
    """Here the last task cannot join, because another process holds the folder as it ends."""
    out = tmp_path / "out"
    first = call("extract", videos, out, *HOW, "--num-tasks", "2", "--task-id", "0", path=modules)
    assert first.returncode in (0, 1)
    slow = start("extract", videos, out, *HOW, "--num-tasks", "3", "--task-id", "0", path=modules, FAKE_SECONDS="3600")
    wait_until(lambda: children(slow.pid))
    last = call("extract", videos, out, *HOW, "--num-tasks", "2", "--task-id", "1", path=modules)
    assert "tgprep finalize" in last.stderr
    kill_group(slow)
    joined = call("finalize", out, "--json")
    assert joined.returncode == 1
    assert json.loads(joined.stdout)["num_written"] == 25
    assert tree(out) == alone


def test_the_last_task_finds_damage_in_the_journal_of_the_others(
    videos: Path, modules: Path, alone: dict[str, str], tmp_path: Path
) -> None:
    """A task reads its own entries; only the one that joins reads those of all, and it joins nothing that is damaged."""
    out = tmp_path / "out"
    task = [("--num-tasks", "2", "--task-id", str(number)) for number in range(2)]
    call("extract", videos, out, *HOW, *task[0], path=modules)
    entry = out / ".tgprep" / "done" / "shard-000002.tar.json"
    entry.write_bytes(entry.read_bytes()[:-1] + b"?")
    last = call("extract", videos, out, *HOW, *task[1], "--json", path=modules)
    assert "1 entry of the journal is damaged or of another plan, such as that of shard-000002.tar" in last.stderr
    facts = json.loads(last.stdout)
    assert (facts["num_shards"], facts["num_shards_left"], facts["joined"]) == (4, 1, False)
    again = call("extract", videos, out, *HOW, *task[0], path=modules)
    assert "26 inputs = 25 written + 1 failed + 0 skipped" in again.stderr
    assert tree(out) == alone


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--num-tasks", "2"), "--num-tasks N and --task-id I go together"),
        (("--num-tasks", "2", "--task-id", "2"), "tasks are numbered from 0 to 1"),
        (("--num-tasks", "2", "--task-id", "0", "--add"), "--add changes a finished data set in one run"),
    ],
)
def test_wrong_tasks_are_refused(videos: Path, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    refused = call("extract", videos, tmp_path / "out", *options)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert call("finalize", tmp_path).returncode == 2
