"""Lists with times: which rows cut which files, how samples are named and grouped, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from manifests.records import InputError
from tests.prep.scan.support import fill
from tests.prep.support import moving_square, write_video
from tgprep.extract.plan import plan_shards
from tgprep.scan.scan import Scan, scan


def cut(folder: Path, text: str, *names: str, dataset: str = "auto") -> Scan:
    fill(folder / "v", *names)
    (folder / "list.csv").write_text(text)
    return scan(folder / "v", dataset=dataset, annotations=folder / "list.csv")


def test_times_cut_files(tmp_path: Path) -> None:
    text = (
        "path,label,start_seconds,end_seconds,group,subset\n"
        "a/long.mp4,run,12,22,,train\na/long.mp4,jump,12.5,22.25,,train\na/long.mp4,run,0.000001,1e3,anna,train\n"
        "b.mp4,jump,,,,test\ngone.mp4,run,1,2,,train\n"
    )
    result = cut(tmp_path, text, "a/long.mp4", "b.mp4")
    assert [(v.key, v.path, v.group, v.start_seconds, v.end_seconds) for v in result.videos] == [
        ("jump/b", "b.mp4", "b.mp4", 0.0, -1.0),
        ("jump/long_000012-5_000022-25", "a/long.mp4", "a/long.mp4", 12.5, 22.25),
        ("run/long_000000-000001_001000", "a/long.mp4", "anna", 0.000001, 1000.0),
        ("run/long_000012_000022", "a/long.mp4", "a/long.mp4", 12.0, 22.0),
    ]
    assert "3 segments of 1 file" in result.notes
    assert any("1 file has segments of several groups" in note for note in result.notes)
    assert [(entry.class_name, entry.num_missing) for entry in result.missing] == [("run", 1)]


def test_a_list_without_times_gives_whole_files(tmp_path: Path) -> None:
    result = cut(tmp_path, "path,label,time_start,time_end\na.mp4,run,1,2\n", "a.mp4")
    (video,) = result.videos
    assert (video.start_seconds, video.end_seconds, video.group) == (-1.0, -1.0, "")
    assert any("not read: time_start, time_end" in note for note in result.notes)


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        ("5", "5", "line 3: start_seconds '5' is not before end_seconds '5'"),
        ("6", "5", "line 3: start_seconds '6' is not before end_seconds '5'"),
        ("-1", "5", "line 3: start_seconds is '-1'; expected seconds from 0"),
        ("nan", "5", "line 3: start_seconds is 'nan'"),
        ("1", "nan", "line 3: end_seconds is 'nan'"),
        ("1", "inf", "line 3: end_seconds is 'inf'"),
        ("1", "", "line 3: end_seconds is"),
        ("", "5", "line 3: start_seconds is"),
        ("0:01", "5", "line 3: start_seconds is '0:01'"),
        ("1", "1e300", "line 3: end_seconds is"),
        ("1.0", "2.0", "line 3: a.mp4 is listed twice with these times"),
    ],
)
def test_impossible_times_are_refused_by_line(tmp_path: Path, start: str, end: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        cut(tmp_path, f"path,label,start_seconds,end_seconds\na.mp4,run,1,2\na.mp4,run,{start},{end}\n", "a.mp4")
    assert f"list.csv, {message}" in str(refused.value)


KINETICS = "label,youtube_id,time_start,time_end,split\nrun fast,aaaaaaaaaaa,1,2,train\njump,aaaaaaaaaaa,0,1,train\nrun fast,bbbbbbbbbbb,2,3,validate\n"


def test_the_csv_of_kinetics_cuts_whole_youtube_videos(tmp_path: Path) -> None:
    for name in ("x/aaaaaaaaaaa.mp4", "bbbbbbbbbbb.mkv"):
        write_video(tmp_path / "v" / name, moving_square(100))  # four seconds
    for dataset in ("auto", "csv"):
        result = cut(tmp_path, KINETICS, dataset=dataset)
        assert [(v.key, v.path, v.subsets, v.start_seconds, v.end_seconds) for v in result.videos] == [
            ("jump/aaaaaaaaaaa_000000_000001", "x/aaaaaaaaaaa.mp4", ("train",), 0.0, 1.0),
            ("run_fast/aaaaaaaaaaa_000001_000002", "x/aaaaaaaaaaa.mp4", ("train",), 1.0, 2.0),
            ("run_fast/bbbbbbbbbbb_000002_000003", "bbbbbbbbbbb.mkv", ("val",), 2.0, 3.0),
        ]


def test_trimmed_kinetics_stay_whole(tmp_path: Path) -> None:
    """Files that are as long as the listed clips are the clips."""
    for name in ("abseiling/aaaaaaaaaaa.mp4", "zumba/bbbbbbbbbbb.mp4"):
        write_video(tmp_path / "v" / name, moving_square(25))
    text = "label,youtube_id,time_start,time_end,split\nabseiling,aaaaaaaaaaa,10,11,train\nzumba,bbbbbbbbbbb,2,3,validate\n"
    result = cut(tmp_path, text)
    assert not any(video.is_segment for video in result.videos)


def test_segments_of_copies_have_keys_of_their_own(tmp_path: Path) -> None:
    """A clash of class, name and times: a hash of path and times, whatever else is in the list."""
    stem = "n" * 75
    rows = [f"{folder}/{stem}.mp4,run,{start},{start + 1}\n" for folder in "ab" for start in (1, 3)]
    names = [f"{folder}/{stem}.mp4" for folder in "ab"]
    result = cut(tmp_path, "path,label,start_seconds,end_seconds\n" + "".join(rows), *names)
    again = cut(tmp_path, "path,label,start_seconds,end_seconds\n" + "".join(reversed(rows)), *names)
    assert len({video.key for video in result.videos}) == 4
    assert result.videos == again.videos


def test_segments_of_a_file_lie_in_one_shard(tmp_path: Path) -> None:
    files = [f"f{number}.mp4" for number in range(12)]
    rows = [f"{file},run,{start},{start + 2}\n" for start in (4, 0, 1) for file in files]
    rows += [f"many.mp4,jump,{start},{start + 1}\n" for start in range(200)]
    result = cut(tmp_path, "path,label,start_seconds,end_seconds\n" + "".join(rows), "many.mp4", *files)
    shards = plan_shards(result.videos, 8)
    assert sorted(video.key for shard in shards for video in shard.videos) == [video.key for video in result.videos]
    assert max(len(shard.videos) for shard in shards) == 8
    for file in files:
        assert sum(any(video.path == file for video in shard.videos) for shard in shards) == 1
    assert sum(any(video.path == "many.mp4" for video in shard.videos) for shard in shards) == 25
    for shard in shards:
        for path in {video.path for video in shard.videos}:
            starts = [video.start_seconds for video in shard.videos if video.path == path]
            assert starts == sorted(starts)
