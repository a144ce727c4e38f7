"""`tgprep extract` as a real process: account, exit codes, options, JSON, lists."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.extraction import call, command, environment, tree
from tests.prep.support import moving_square, write_video

ONE = ("--threads", "1")


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


def test_a_closed_stderr_does_not_end_the_run(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shell = f"{' '.join(command('extract', videos, out, *ONE))} 2>&1 | head -n 1; exit ${{PIPESTATUS[0]}}"
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


def test_log_json_gives_one_object_a_line(videos: Path, tmp_path: Path) -> None:
    done = call("extract", videos, tmp_path / "out", "--log-json", *ONE)
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
    assert "--quality is 95 in it, 50 requested" in json.loads(refused.stderr.splitlines()[-1])["message"]


def test_missing_videos_are_reported_per_class(videos: Path, tmp_path: Path) -> None:
    """Partial data sets are fine: nothing fails."""
    listing = tmp_path / "list.csv"
    rows = ["class0/v000.avi,walk", "class1/v001.avi,run", "class1/gone1.avi,run", "class2/gone2.avi,run", "x.avi,jump"]
    listing.write_text("path,label\n" + "\n".join(rows) + "\n")
    arguments = ("extract", videos, tmp_path / "out", "--dataset", "csv", "--annotations", listing, *ONE)
    done = call(*arguments)
    assert done.returncode == 0, done.stderr
    account = done.stderr[done.stderr.index("2 inputs = 2 written") :]
    assert "3 listed videos are missing from VIDEOS" in account
    assert "  jump: 1 of 1 (x.avi)\n  run: 2 of 3 (class1/gone1.avi, …)\n" in account
    facts = json.loads(call(*arguments, "--json").stdout)
    missing = facts["missing"]
    assert [(entry["class_name"], entry["num_missing"], entry["num_listed"]) for entry in missing] == [
        ("jump", 1, 1),
        ("run", 2, 3),
    ]
    assert missing[1]["examples"] == ["class1/gone1.avi", "class2/gone2.avi"]
    # Of 32 files the list names two; none of the others lies in a folder with the name of a class.
    assert "30 videos in VIDEOS are in no list (not used):\n  no class: 30 (class0/empty.avi, …)\n" in account
    assert [(entry["class_name"], entry["num_extra"], len(entry["examples"])) for entry in facts["extra"]] == [
        ("", 30, 5)
    ]


def test_unlisted_videos_are_reported_per_class(tmp_path: Path) -> None:
    """They are used, in no official subset."""
    videos, lists = tmp_path / "videos", tmp_path / "annotations"
    listed = ["v_Punch_g01_c01", "v_YoYo_g01_c01"]
    for name in [*listed, "v_Punch_g99_c01", "v_Punch_g99_c02", "v_YoYo_g98_c01"]:
        write_video(videos / name.split("_")[1] / f"{name}.avi", moving_square(3))
    lists.mkdir()
    (lists / "trainlist01.txt").write_text("Punch/v_Punch_g01_c01.avi 71\r\n")
    (lists / "testlist01.txt").write_text("YoYo/v_YoYo_g01_c01.avi\r\n\r\n")
    done = call("extract", videos, tmp_path / "out", "--json", *ONE)
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
        "3 videos in VIDEOS are in no list (used, in no official subset):\n"
        "  Punch: 2 (Punch/v_Punch_g99_c01.avi, …)\n  YoYo: 1 (YoYo/v_YoYo_g98_c01.avi)\n"
    ) in again.stderr


def test_every_known_data_set_is_accepted(tmp_path: Path) -> None:
    """Kinetics-700, by name and detected: subset folders, class names with spaces, the official csv beside them."""
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
        done = call("extract", videos, out, *how, *ONE)
        assert done.returncode == 0, done.stderr
        header = json.loads((out / "dataset.json").read_bytes())
        assert (header["dataset"], len(header["classes"])) == ("kinetics700", 690)
    refused = call("extract", videos, tmp_path / "other", "--dataset", "kinetics300")
    assert refused.returncode == 2
    for name in ("auto", "ucf101", "hmdb51", "kinetics400", "kinetics600", "kinetics700", "folder", "csv"):
        assert f"'{name}'" in refused.stderr


def test_retry_failed_and_add(tmp_path: Path) -> None:
    videos, out = tmp_path / "videos", tmp_path / "out"
    write_video(videos / "a" / "one.avi", moving_square(5))
    (videos / "a" / "two.avi").write_bytes(b"")
    assert call("extract", videos, out, *ONE).returncode == 1
    write_video(videos / "a" / "two.avi", moving_square(6))
    write_video(videos / "b" / "three.avi", moving_square(7))
    done = call("extract", videos, out, "--retry-failed", "--add", "--json", *ONE)
    assert done.returncode == 0, done.stderr
    account = json.loads(done.stdout)
    assert (account["num_written"], account["num_failed"], account["num_frames"]) == (3, 0, 18)
    assert call("extract", videos, out).returncode == 0
