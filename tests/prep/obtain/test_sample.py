"""The sample data set: its files, its folder and its lists."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import random
import re
from pathlib import Path

import av
import numpy as np
import pytest

import tgprep.obtain.sample
from manifests.records import InputError
from tests.prep.obtain.support import decode
from tgprep.obtain.sample import (
    SETTINGS_NAME,
    SampleSettings,
    groups_and_clips,
    groups_tested,
    render_sample,
    sample_videos,
    video_frames,
    write_annotations,
)
from tgprep.obtain.sample_render import encode_video

SMALL = SampleSettings(num_classes=2, num_groups=2, clips_per_group=2, width=48, height=32, min_frames=6, max_frames=9)
UCF101_NAME = re.compile(r"(?P<class>[A-Za-z]+)/v_(?P=class)_g(?P<group>\d\d)_c(?P<clip>\d\d)\.(avi|mp4)")


def digests(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_names_codecs_and_frames_of_the_files(tmp_path: Path) -> None:
    paths = render_sample(tmp_path / "videos", SMALL)
    assert [str(file.relative_to(tmp_path / "videos")) for file in paths] == [
        "MoveDown/v_MoveDown_g01_c01.avi",
        "MoveDown/v_MoveDown_g01_c02.mp4",
        "MoveDown/v_MoveDown_g02_c01.mp4",
        "MoveDown/v_MoveDown_g02_c02.avi",
        "MoveUp/v_MoveUp_g01_c01.avi",
        "MoveUp/v_MoveUp_g01_c02.mp4",
        "MoveUp/v_MoveUp_g02_c01.mp4",
        "MoveUp/v_MoveUp_g02_c02.avi",
    ]
    for file, video in zip(paths, sample_videos(SMALL), strict=True):
        assert UCF101_NAME.fullmatch(f"{file.parent.name}/{file.name}")
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == {".avi": "mpeg4", ".mp4": "h264"}[file.suffix]
            assert container.format.name.split(",")[0] == {".avi": "avi", ".mp4": "mov"}[file.suffix]
            assert stream.average_rate == 25
            assert (stream.width, stream.height, stream.pix_fmt) == (48, 32, "yuv420p")
            assert len(container.streams) == 1
        decoded, drawn = decode(file), list(video_frames(video, SMALL))
        assert 6 <= len(decoded) == len(drawn) <= 9
        # Near enough to say that colours and order are right; 4:2:0 takes its share of sharp coloured edges.
        assert np.abs(np.array(decoded, float) - np.array(drawn, float)).mean() < 8


def test_relative_folder_after_chdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("first", "second"):  # the processes of the first are kept for the second
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        for file in render_sample(Path("videos"), SMALL, num_workers=2):
            assert (tmp_path / name / file).is_file()


def test_bytes_depend_on_the_seed_not_on_the_workers(tmp_path: Path) -> None:
    render_sample(tmp_path / "one", SMALL)
    render_sample(tmp_path / "two", SMALL, num_workers=2)
    render_sample(tmp_path / "other", dataclasses.replace(SMALL, seed=1))
    one, two, other = (digests(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert one.keys() == other.keys()
    assert len({*one.values(), *other.values()}) == 2 * len(one)


def test_encoding_again_after_other_videos_gives_the_same_bytes() -> None:
    """Without the settings of x264 in `encode_video`, some videos come out otherwise the second time."""
    settings = dataclasses.replace(SMALL, width=80, height=60, max_frames=60, num_classes=4, container="mp4")
    drawn = {video.name: list(video_frames(video, settings)) for video in sample_videos(settings)}
    found: dict[str, set[bytes]] = {name: set() for name in drawn}
    draw = random.Random(1)
    for name in draw.choices(sorted(drawn), k=150):
        encoded = io.BytesIO()
        encode_video(drawn[name], encoded, "mp4", settings.fps, settings.width, settings.height)
        found[name].add(encoded.getvalue())
    assert max(map(len, found.values())) == 1


def test_larger_sample_contains_the_smaller_one() -> None:
    larger = dataclasses.replace(SMALL, num_classes=8, num_groups=5, clips_per_group=3)
    theirs = {video.name: video for video in sample_videos(larger)}
    for video in sample_videos(SMALL):
        mine = np.stack(list(video_frames(video, SMALL)))
        np.testing.assert_array_equal(mine, np.stack(list(video_frames(theirs[video.name], larger))))


def test_all_videos_differ(tmp_path: Path) -> None:
    settings = dataclasses.replace(SMALL, num_classes=8)
    first_frames = {video: next(video_frames(video, settings)) for video in sample_videos(settings)}
    assert len({frame.tobytes() for frame in first_frames.values()}) == 8 * 2 * 2


def test_second_run_completes_the_first(tmp_path: Path) -> None:
    out = tmp_path / "videos"
    seen: list[Path] = []
    paths = render_sample(out, SMALL, on_video=seen.append)
    assert seen == paths
    whole = digests(out)
    times = {file: file.stat().st_mtime_ns for file in paths}

    assert render_sample(out, SMALL, on_video=lambda file: pytest.fail(f"{file} was written again")) == paths
    assert {file: file.stat().st_mtime_ns for file in paths} == times

    paths[3].unlink()
    (paths[3].parent / f".tmp-0123-{paths[3].name}").write_bytes(b"left by a kill")
    seen.clear()
    render_sample(out, SMALL, on_video=seen.append)
    assert seen == [paths[3]]
    assert digests(out) == whole


def test_failing_encoder_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def torn(frames: object, file: object, *rest: object) -> None:
        file.write(b"half a video")  # type: ignore[attr-defined]
        raise OSError("disk full")

    monkeypatch.setattr(tgprep.obtain.sample, "encode_video", torn)
    with pytest.raises(OSError, match="disk full"):
        render_sample(tmp_path / "videos", SMALL)
    assert set(digests(tmp_path / "videos")) == {SETTINGS_NAME}


def test_folder_with_other_contents_is_rejected(tmp_path: Path) -> None:
    out = tmp_path / "videos"
    (out / "Holiday").mkdir(parents=True)
    (out / "Holiday" / "beach.mp4").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"videos is not empty \(Holiday\).*another folder"):
        render_sample(out, SMALL)
    assert set(digests(out)) == {"Holiday/beach.mp4"}

    file = tmp_path / "file"
    file.write_bytes(b"")
    with pytest.raises(InputError, match=r"expected a folder .* got a file"):
        render_sample(file, SMALL)


def test_sample_of_other_settings_or_with_other_files_is_rejected(tmp_path: Path) -> None:
    out = tmp_path / "videos"
    render_sample(out, SMALL)
    before = digests(out)
    with pytest.raises(InputError, match=r"num_groups = 2 there, 3 requested; seed = 0 there, 7 requested"):
        render_sample(out, dataclasses.replace(SMALL, num_groups=3, seed=7))
    assert digests(out) == before
    (out / "MoveUp" / "mine.avi").write_bytes(b"")
    with pytest.raises(InputError, match=r"found MoveUp/mine\.avi"):
        render_sample(out, SMALL)
    (out / "MoveUp" / "mine.avi").unlink()
    (out / SETTINGS_NAME).write_text("[]")
    with pytest.raises(InputError, match="expected the settings of a sample data set"):
        render_sample(out, SMALL)


def test_settings_report_every_mistake_at_once() -> None:
    with pytest.raises(InputError) as caught:
        SampleSettings(num_classes=9, num_groups=0, width=33, min_frames=70, max_frames=64, container="mkv", seed=-1)
    for name in (
        "num_classes = 9",
        "num_groups = 0",
        "width = 33",
        "max_frames = 64",
        "container = 'mkv'",
        "seed = -1",
    ):
        assert name in str(caught.value)
    with pytest.raises(InputError, match="workers: got 0"):
        render_sample(Path("nowhere"), SMALL, num_workers=0)


def test_videos_per_class_become_groups_and_clips() -> None:
    for wanted in range(1, 200):
        groups, clips = groups_and_clips(wanted)
        assert groups * clips == wanted
        assert groups >= min(wanted, 4)
    assert groups_and_clips(20) == (10, 2)
    with pytest.raises(InputError, match="got 0"):
        groups_and_clips(0)


def test_annotations_have_the_form_of_ucf101(tmp_path: Path, shared: Path) -> None:
    """Line by line the pattern that the published files follow, line ends included."""
    settings = SampleSettings()
    write_annotations(tmp_path / "lists", settings)
    patterns = {
        "classInd": rb"\d+ [A-Za-z]+\r\n",
        "trainlist": rb"[A-Za-z]+/v_[A-Za-z]+_g\d\d_c\d\d\.(avi|mp4) \d+\r\n",
        "testlist": rb"[A-Za-z]+/v_[A-Za-z]+_g\d\d_c\d\d\.(avi|mp4)\r\n",
    }
    written = sorted((tmp_path / "lists").iterdir())
    lists = [f"{part}list0{fold}.txt" for part in ("test", "train") for fold in (1, 2, 3)]
    assert [file.name for file in written] == ["classInd.txt", *lists]
    published = [shared / "annotations" / "ucf101" / file.name for file in written]
    for file in (*published, *written):
        pattern = patterns[re.sub(r"\d*\.txt", "", file.name)]
        for line in file.read_bytes().splitlines(keepends=True):
            assert re.fullmatch(pattern, line), (file, line)


@pytest.mark.parametrize("num_groups", [2, 3, 7, 10, 25])
def test_train_and_test_share_no_group(tmp_path: Path, num_groups: int) -> None:
    settings = SampleSettings(num_classes=6, num_groups=num_groups)
    write_annotations(tmp_path, settings)
    numbers = dict(line.split() for line in (tmp_path / "classInd.txt").read_text().splitlines())
    assert list(numbers.values()) == sorted(settings.class_names)
    assert list(numbers) == [str(number) for number in range(1, 7)]
    names = {video.name for video in sample_videos(settings)}
    tested_by_fold: list[set[str]] = []
    for fold in (1, 2, 3):
        train = dict(line.split() for line in (tmp_path / f"trainlist0{fold}.txt").read_text().splitlines())
        test = set((tmp_path / f"testlist0{fold}.txt").read_text().splitlines())
        assert train.keys() | test == names
        assert not train.keys() & test
        assert all(numbers[number] == name.split("/")[0] for name, number in train.items())
        groups = [{re.search(r"_g\d+", name).group() for name in part} for part in (train, test)]  # type: ignore[union-attr]
        assert groups[0]
        assert groups[1]
        assert not groups[0] & groups[1]
        tested_by_fold.append(test)
    if num_groups >= 3:
        assert not set.intersection(*tested_by_fold[:2]) | set.intersection(*tested_by_fold[1:])
    if num_groups == 25:
        # UCF101's own folds: groups 1-7, 8-14, 15-21.
        assert [groups_tested(25, fold) for fold in (1, 2, 3)] == [set(range(a, a + 7)) for a in (1, 8, 15)]


def test_annotations_need_two_groups(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="got 1 group, expected 2"):
        write_annotations(tmp_path, SampleSettings(num_groups=1))
