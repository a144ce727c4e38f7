"""`tgprep extract` as real processes: exit codes, kills, signals, full and read-only disks, two runs at once."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Reliability
from tests.extraction import BACKENDS, alive, call, children, command, environment, kill_group, start, tree, wait_until
from tests.prep.support import moving_square, write_video

GATE_REPEATS = 3
LONG_REPEATS = 50
SLOW = ("--decoder", "fake_backends:open_video", "--videos-per-shard", "4", "--threads", "2")

kill_series = pytest.mark.parametrize(
    "seed",
    [*range(GATE_REPEATS), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(GATE_REPEATS, LONG_REPEATS))],
)


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("modules")
    (folder / "fake_backends.py").write_text(BACKENDS)
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 real videos, two of them damaged."""
    root = tmp_path_factory.mktemp("corpus") / "videos"
    for number in range(30):
        frames = moving_square(6 + number % 5, start=3 * number)
        write_video(root / f"class{number % 3}" / f"v{number:03d}.avi", frames, **{"q:v": "3"})
    (root / "class0" / "empty.avi").write_bytes(b"")
    (root / "class1" / "text.mp4").write_text("no video\n" * 50)
    return root


@pytest.fixture(scope="module")
def undisturbed(videos: Path, modules: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The files of a run that nothing disturbed, with the slow decoder."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    done = call("extract", videos, out, *SLOW, path=modules)
    assert done.returncode == 1, done.stderr  # the empty file fails
    return tree(out)


@pytest.fixture(scope="module")
def whole(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The files of a run that nothing disturbed, with the default decoder."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert call("extract", videos, out, "--threads", "2").returncode == 1
    return tree(out)


@pytest.fixture(scope="module")
def num_bytes(videos: Path, whole: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> int:
    """Size of those files together."""
    (out,) = tmp_path_factory.getbasetemp().glob("whole?/out")
    return sum((out / name).stat().st_size for name in whole)


def finish(videos: Path, out: Path, modules: Path) -> None:
    done = call("extract", videos, out, *SLOW, path=modules)
    assert done.returncode == 1, done.stderr
    assert "32 inputs = 31 written + 1 failed + 0 skipped" in done.stderr


def test_account_exit_code_and_json(videos: Path, whole: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = call("extract", videos, out, "--threads", "2", "--json")
    assert first.returncode == 1
    account = json.loads(first.stdout)
    assert account["num_inputs"] == 32 == account["num_written"] + account["num_failed"] + account["num_skipped"]
    assert (account["num_written"], account["num_failed"], account["num_skipped"]) == (30, 2, 0)
    assert [entry["path"] for entry in account["failed"]] == ["class0/empty.avi", "class1/text.mp4"]
    assert "failed: class0/empty.avi: the file is empty (0 bytes)" in first.stderr
    before = tree(out)
    assert before == whole
    again = call("extract", videos, out)
    assert again.returncode == 1  # as the first run
    assert "is finished already: nothing to do" in again.stderr
    assert "32 inputs = 30 written + 2 failed + 0 skipped" in again.stderr
    assert again.stdout == ""
    assert tree(out) == before


@kill_series
def test_a_killed_run_is_finished_by_the_same_command(
    videos: Path, modules: Path, undisturbed: dict[str, str], tmp_path: Path, seed: int, reliability: Reliability
) -> None:
    """kill -9 of the whole run at random moments, up to three times in a row."""
    draw = random.Random(seed)
    out = tmp_path / "out"
    moments = []
    for _ in range(1 + seed % 3 // 2):
        process = start("extract", videos, out, *SLOW, path=modules, FAKE_SECONDS="0.01")
        moments.append(draw.uniform(0.4, 3.0))
        kill_after(process, moments[-1])
    finish(videos, out, modules)
    assert tree(out) == undisturbed
    reliability.record(
        "Extraction",
        "kill -9 of the whole run at a random moment, then the same command",
        num_kills=len(moments),
        at_seconds=moments,
        differing_files=0,
        lost_videos=0,
    )


def kill_after(process: subprocess.Popen[str], seconds: float) -> None:
    """kill -9 of the whole run after so many seconds; its workers have ended when this returns."""
    workers: list[int] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        workers = children(process.pid) or workers
        time.sleep(0.02)
    kill_group(process)
    wait_until(lambda: not any(map(alive, workers)))


@dataclass(frozen=True)
class Grown:
    """A finished data set, its videos that have grown since, and what the update gives where nothing disturbs it."""

    videos: Path
    out: Path
    before: dict[str, str]
    after: dict[str, str]


UPDATE = ("--add", "--retry-failed")


@pytest.fixture(scope="module")
def grown(modules: Path, tmp_path_factory: pytest.TempPathFactory) -> Grown:
    root = tmp_path_factory.mktemp("grown")
    videos = root / "videos"
    (videos / "class0").mkdir(parents=True)
    (videos / "class1").mkdir()
    for number in range(10):
        (videos / f"class{number % 2}" / f"v{number:02d}.avi").write_bytes(bytes([number + 1]) * 10)
    for number in range(6):
        (videos / "class0" / f"empty{number}.avi").write_bytes(b"")
    assert call("extract", videos, root / "out", *SLOW, path=modules).returncode == 1
    before = tree(root / "out")
    for number in range(6):
        (videos / "class0" / f"empty{number}.avi").write_bytes(bytes([number + 50]) * 10)
    for number in range(10, 24):
        (videos / "class1" / f"v{number:02d}.avi").write_bytes(bytes([number + 1]) * 10)
    shutil.copytree(root / "out", root / "undisturbed")
    assert call("extract", videos, root / "undisturbed", *SLOW, *UPDATE, path=modules).returncode == 0
    return Grown(videos, root / "out", before, tree(root / "undisturbed"))


@kill_series
def test_a_killed_update_is_finished_by_the_same_command(
    grown: Grown, modules: Path, tmp_path: Path, seed: int, reliability: Reliability
) -> None:
    """--add and --retry-failed: at every moment the folder holds the old data set or the new one, whole."""
    draw = random.Random(2000 + seed)
    out = tmp_path / "out"
    shutil.copytree(grown.out, out)
    process = start("extract", grown.videos, out, *SLOW, *UPDATE, path=modules, FAKE_SECONDS="0.01")
    moment = draw.uniform(0.4, 3.0)
    kill_after(process, moment)
    read = call("info", out, "--json")
    assert json.loads(read.stdout)["num_written"] in (10, 30)
    shards = {name: digest for name, digest in grown.before.items() if name.endswith(".tar")}
    assert shards.items() <= tree(out).items()
    done = call("extract", grown.videos, out, *SLOW, *UPDATE, path=modules)
    assert done.returncode == 0, done.stderr
    assert "30 inputs = 30 written + 0 failed + 0 skipped" in done.stderr
    assert tree(out) == grown.after
    reliability.record(
        "Extraction",
        "kill -9 of `--add --retry-failed` at a random moment, then the same command",
        num_kills=1,
        at_seconds=[moment],
        differing_files=0,
        lost_videos=0,
    )


@kill_series
def test_killed_workers_cost_nothing(
    videos: Path, modules: Path, undisturbed: dict[str, str], tmp_path: Path, seed: int, reliability: Reliability
) -> None:
    draw = random.Random(1000 + seed)
    out = tmp_path / "out"
    process = start("extract", videos, out, *SLOW, path=modules, FAKE_SECONDS="0.01")
    num_killed = 0
    while num_killed < 6 and process.poll() is None:
        time.sleep(draw.uniform(0.05, 0.5))
        there = children(process.pid)
        for worker in draw.sample(there, k=min(1, len(there))):
            try:
                os.kill(worker, signal.SIGKILL)
                num_killed += 1
            except ProcessLookupError:
                pass
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1, errors
    assert num_killed > 0
    assert "Error: " not in errors
    assert tree(out) == undisturbed
    reliability.record(
        "Extraction",
        "kill -9 of workers at random moments while the run goes on",
        num_kills=num_killed,
        differing_files=0,
        lost_videos=0,
    )


def test_a_killed_run_leaves_no_process_behind(modules: Path, tmp_path: Path) -> None:
    """Not even one whose decoder hangs with every signal blocked."""
    videos = tmp_path / "videos"
    (videos / "class").mkdir(parents=True)
    for name in ("hang1", "hang2"):
        (videos / "class" / f"{name}.avi").write_bytes(b"x")
    process = start("extract", videos, tmp_path / "out", *SLOW, "--videos-per-shard", "1", path=modules)
    try:
        wait_until(lambda: len(children(process.pid)) == 2)
        workers = children(process.pid)
        time.sleep(1.5)  # they hang by now
        os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: not any(map(alive, workers)), seconds=20)
    finally:
        kill_group(process)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_says_how_to_go_on(
    videos: Path, modules: Path, undisturbed: dict[str, str], tmp_path: Path, number: int, code: int
) -> None:
    out = tmp_path / "out"
    process = start("extract", videos, out, *SLOW, path=modules, FAKE_SECONDS="0.05")
    wait_until(lambda: list(out.glob("shard-*.tar")))
    workers = children(process.pid)
    os.killpg(process.pid, number)  # as a terminal's Ctrl-C does
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Interrupted after " in errors
    assert f"to go on:\n  tgprep extract {videos} {out} --decoder fake_backends:open_video" in errors
    assert "Traceback" not in errors
    assert not any(map(alive, workers))
    assert not [path for path in out.rglob("*") if path.name.startswith(".tmp-")]
    finish(videos, out, modules)
    assert tree(out) == undisturbed


def one_message(done: subprocess.CompletedProcess[str]) -> str:
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert "Traceback" not in done.stderr
    return line


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
    videos: Path, whole: dict[str, str], num_bytes: int, mounted: Callable[[str], Path]
) -> None:
    place = mounted(f"size={num_bytes * 2 // 3 // 4096 * 4}k")
    full = call("extract", videos, place / "out", "--threads", "2")
    assert full.returncode == 1
    assert "No space left on device" in one_message(full)
    assert "Finished shards are kept; run the same command again to go on." in full.stderr
    assert not list((place / "out").rglob(".tmp-*"))
    subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
    assert call("extract", videos, place / "out", "--threads", "2").returncode == 1  # two videos fail, as always
    assert tree(place / "out") == whole


def test_a_file_size_limit_ends_the_run_with_one_message(videos: Path, whole: dict[str, str], tmp_path: Path) -> None:
    limited = subprocess.run(
        command("extract", videos, tmp_path / "out"),
        env=environment(),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY)),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert limited.returncode == 1
    assert "File too large" in one_message(limited)
    assert call("extract", videos, tmp_path / "out").returncode == 1
    assert tree(tmp_path / "out") == whole


def test_a_read_only_target_is_refused_unless_it_is_finished(videos: Path, mounted: Callable[[str], Path]) -> None:
    place = mounted("size=8m")
    (place / "out").mkdir()
    assert call("extract", videos, place / "finished").returncode == 1
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    for out in (place / "out", place / "other"):
        refused = call("extract", videos, out)
        assert refused.returncode == 2
        assert "Read-only file system" in one_message(refused)
    again = call("extract", videos, place / "finished")
    assert again.returncode == 1
    assert "finished already" in again.stderr


def test_an_out_that_is_removed_ends_the_run(videos: Path, modules: Path, tmp_path: Path) -> None:
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


def test_a_reader_that_goes_away_does_not_end_the_work(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shell = f"{' '.join(command('extract', videos, out))} 2>&1 | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], env=environment(), capture_output=True, check=False, timeout=120)
    assert done.returncode == 1  # two videos fail, as always
    assert (out / "dataset.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--quality", "0"), "--quality"),
        (("--decoder", "vlc"), "decoder 'vlc' is unknown"),
        (("--subsampling", "444", "--space", "ycbcr420"), "needs space rgb"),
        (("--max-memory-mb", "1"), "--max-memory-mb"),
    ],
)
def test_wrong_options_are_refused_before_any_work(
    videos: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    refused = call("extract", videos, tmp_path / "out", *options)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert not (tmp_path / "out").exists()


def test_a_dry_run_says_what_it_would_take_and_writes_nothing(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "not" / "yet"
    dry = call("extract", videos, out, "--dry-run", "--json", "--threads", "2")
    assert dry.returncode == 0, dry.stderr
    told = json.loads(dry.stdout)
    assert not out.parent.exists()
    done = call("extract", videos, out, "--json", "--threads", "2")
    account = json.loads(done.stdout)
    assert told["num_videos"] == account["num_inputs"]
    assert told["num_shards"] == account["num_shards"]
    assert told["num_unreadable"] == 2
    # All headers of this small set are read, and tell the truth; bytes are those of six videos on average.
    assert told["num_frames"] == account["num_frames"]
    assert told["num_loose_files"] == pytest.approx(2 * account["num_frames"] - account["num_written"], rel=0.05)
    assert told["num_bytes"] == pytest.approx(account["num_bytes"], rel=0.5)
    assert told["seconds"] > 0
    plan = call("plan", videos, out, "--json", "--threads", "2")
    assert plan.returncode == 0, plan.stderr
    same = ("num_videos", "num_frames", "num_bytes", "num_shards", "num_loose_files", "num_unreadable")
    assert {name: json.loads(plan.stdout)[name] for name in same} == {name: told[name] for name in same}
    assert call("plan", videos, out, "--retry-failed").returncode == 2  # there is nothing that a plan could retry


ONE_CORE = """
import os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_a_dry_run_outlives_files_that_crash_or_hang_the_decoder(modules: Path, tmp_path: Path) -> None:
    """Already when they are opened."""
    names = [*(f"v{number}" for number in range(6)), "shut", "locked"]
    for number, name in enumerate(names):
        path = tmp_path / "videos" / "class" / f"{name}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number + 1]) * 10)
    limits = ("--decoder", "fake_backends:open_video", "--timeout-seconds", "1.5", "--videos-per-shard", "2")
    words = ("extract", tmp_path / "videos", tmp_path / "out", "--dry-run", "--json", *limits)
    dry = call(*words, path=modules, prefix=(sys.executable, "-c", ONE_CORE))
    assert dry.returncode == 0, dry.stderr
    told = json.loads(dry.stdout)
    assert (told["num_videos"], told["num_headers"], told["num_unreadable"]) == (8, 8, 2)
    assert told["num_workers"] == 1  # all that taskset, or a batch system, leaves it
    assert not (tmp_path / "out").exists()


SLOW_SCAN = """
import os, pathlib, time
real = os.scandir
def scandir(folder):
    if str(folder).endswith("videos"):
        pathlib.Path(os.environ["MARK"]).touch()
        time.sleep(600)
    return real(folder)
os.scandir = scandir
open_video = print
"""


@pytest.mark.parametrize("dry", [False, True], ids=["scan", "dry-run"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_before_the_first_video_is_obeyed_at_once(
    tmp_path: Path, number: signal.Signals, code: int, dry: bool
) -> None:
    """While a large folder is looked through, or a dry run waits for a decoder that hangs."""
    mark, out = tmp_path / "mark", tmp_path / "out"
    (tmp_path / "slow_scan.py").write_text(SLOW_SCAN)
    (tmp_path / "fake_backends.py").write_text(BACKENDS)
    (tmp_path / "videos" / "class").mkdir(parents=True)
    (tmp_path / "videos" / "class" / "locked.avi").write_bytes(b"x")
    decoder = ("--dry-run", "--decoder", "fake_backends:open_video") if dry else ("--decoder", "slow_scan:open_video")
    process = start("extract", tmp_path / "videos", out, *decoder, path=tmp_path, MARK=str(mark))
    wait_until(lambda: children(process.pid) if dry else mark.exists())
    workers = children(process.pid)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert f"Interrupted before the first video; to go on:\n  tgprep extract {tmp_path / 'videos'} {out}" in errors
    assert "Traceback" not in errors
    assert not out.exists()
    assert not any(map(alive, workers))


def test_log_json_gives_one_object_a_line(videos: Path, tmp_path: Path) -> None:
    done = call("extract", videos, tmp_path / "out", "--log-json", "--threads", "2")
    assert done.returncode == 1
    assert done.stdout == ""
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert [e["event"] for e in events if e["event"] != "video"] == ["note", "note", "planned", "finished"]
    rows = [event for event in events if event["event"] == "video"]
    assert len(rows) == 32
    assert {row["path"]: row["error"] for row in rows if row["status"] == "failed"} == {
        "class0/empty.avi": "the file is empty (0 bytes)",
        "class1/text.mp4": "cannot be opened as a video: Invalid data found when processing input",
    }
    assert sum(row["num_frames"] for row in rows) == events[-1]["num_frames"]
    assert all(event["time"] > 1e9 for event in events)
    refused = call("extract", videos, tmp_path / "out", "--log-json", "--quality", "50")
    assert refused.returncode == 2
    assert "--quality is 95 there, 50 asked" in json.loads(refused.stderr.splitlines()[-1])["message"]


def test_what_lists_name_and_the_folder_lacks_is_told_per_class(videos: Path, tmp_path: Path) -> None:
    """A part of a data set is a data set: nothing fails."""
    listing = tmp_path / "list.csv"
    rows = ["class0/v000.avi,walk", "class1/v001.avi,run", "class1/gone1.avi,run", "class2/gone2.avi,run", "x.avi,jump"]
    listing.write_text("path,label\n" + "\n".join(rows) + "\n")
    arguments = ("extract", videos, tmp_path / "out", "--dataset", "csv", "--annotations", listing)
    done = call(*arguments)
    assert done.returncode == 0, done.stderr
    account = done.stderr[done.stderr.index("2 inputs = 2 written") :]
    assert "3 videos that the lists name are not in VIDEOS" in account
    assert "  jump: 1 of 1 (x.avi)\n  run: 2 of 3 (class1/gone1.avi, …)\n" in account
    facts = json.loads(call(*arguments, "--json").stdout)
    missing = facts["missing"]
    assert [(entry["class_name"], entry["num_missing"], entry["num_listed"]) for entry in missing] == [
        ("jump", 1, 1),
        ("run", 2, 3),
    ]
    assert missing[1]["examples"] == ["class1/gone1.avi", "class2/gone2.avi"]
    # Of 32 files the list names two; none of the others lies in a folder with the name of a class.
    assert "30 videos in VIDEOS are in no list (left aside):\n  no class: 30 (class0/empty.avi, …)\n" in account
    assert [(entry["class_name"], entry["num_extra"], len(entry["examples"])) for entry in facts["extra"]] == [
        ("", 30, 5)
    ]


def test_videos_beside_the_lists_are_told_per_class(tmp_path: Path) -> None:
    """They are taken; the lists give them no subset."""
    videos, lists = tmp_path / "videos", tmp_path / "annotations"
    listed = ["v_Punch_g01_c01", "v_YoYo_g01_c01"]
    for name in [*listed, "v_Punch_g99_c01", "v_Punch_g99_c02", "v_YoYo_g98_c01"]:
        write_video(videos / name.split("_")[1] / f"{name}.avi", moving_square(3))
    lists.mkdir()
    (lists / "trainlist01.txt").write_text("Punch/v_Punch_g01_c01.avi 71\r\n")
    (lists / "testlist01.txt").write_text("YoYo/v_YoYo_g01_c01.avi\r\n\r\n")
    done = call("extract", videos, tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["extra"] == [
        {
            "class_name": "Punch",
            "num_extra": 2,
            "examples": ["Punch/v_Punch_g99_c01.avi", "Punch/v_Punch_g99_c02.avi"],
        },
        {"class_name": "YoYo", "num_extra": 1, "examples": ["YoYo/v_YoYo_g98_c01.avi"]},
    ]
    assert (facts["missing"], facts["num_written"]) == ([], 5)
    again = call("extract", videos, tmp_path / "out")
    assert (
        "3 videos in VIDEOS are in no list (taken; the lists give them no subset):\n"
        "  Punch: 2 (Punch/v_Punch_g99_c01.avi, …)\n  YoYo: 1 (YoYo/v_YoYo_g98_c01.avi)\n"
    ) in again.stderr


def test_every_known_data_set_can_be_chosen(tmp_path: Path) -> None:
    """Kinetics-700, by name and by what lies there: subset folders, class names with spaces, the official csv beside them."""
    videos = tmp_path / "videos"
    names = [f"class number {number}" for number in range(690)]
    write_video(videos / "train" / names[1] / "AAAAAAAAAAA_000001_000011.mp4", moving_square(4), codec="libx264")
    write_video(videos / "val" / names[2] / "BBBBBBBBBBB_000001_000011.mp4", moving_square(4), codec="libx264")
    (tmp_path / "annotations").mkdir()
    rows = [f"{name},CCCCCCC{number:04d},1,11,train" for number, name in enumerate(names)]
    rows[1:3] = [f"{names[1]},AAAAAAAAAAA,1,11,train", f"{names[2]},BBBBBBBBBBB,1,11,validate"]
    table = "label,youtube_id,time_start,time_end,split\n" + "\n".join(rows) + "\n"
    (tmp_path / "annotations" / "kinetics700_train.csv").write_text(table)
    for number, how in enumerate((("--dataset", "kinetics700"), ())):
        out = tmp_path / f"out{number}"
        done = call("extract", videos, out, *how)
        assert done.returncode == 0, done.stderr
        header = json.loads((out / "dataset.json").read_bytes())
        assert (header["dataset"], len(header["classes"])) == ("kinetics700", 690)
    refused = call("extract", videos, tmp_path / "other", "--dataset", "kinetics300")
    assert refused.returncode == 2
    for name in ("auto", "ucf101", "hmdb51", "kinetics400", "kinetics600", "kinetics700", "folder", "csv"):
        assert f"'{name}'" in refused.stderr


def test_failed_videos_can_be_tried_again_and_new_ones_added(tmp_path: Path) -> None:
    videos, out = tmp_path / "videos", tmp_path / "out"
    write_video(videos / "a" / "one.avi", moving_square(5))
    (videos / "a" / "two.avi").write_bytes(b"")
    assert call("extract", videos, out).returncode == 1
    write_video(videos / "a" / "two.avi", moving_square(6))
    write_video(videos / "b" / "three.avi", moving_square(7))
    done = call("extract", videos, out, "--retry-failed", "--add", "--json")
    assert done.returncode == 0, done.stderr
    account = json.loads(done.stdout)
    assert (account["num_written"], account["num_failed"], account["num_frames"]) == (3, 0, 18)
    assert call("extract", videos, out).returncode == 0
