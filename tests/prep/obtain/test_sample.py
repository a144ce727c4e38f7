"""The sample data set: what the files are, and that the class is in the motion and nowhere else."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import re
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest

import tgprep.obtain.sample
import tgprep.obtain.sample_render
from manifests.records import InputError
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
from tgprep.obtain.sample_paths import ANGLE, COORDINATES, MOTIONS, SIZE, X, Y, displacement, path
from tgprep.obtain.sample_render import draw_sprite, make_scene, make_sprite, opacity, radius_share

SMALL = SampleSettings(num_classes=2, num_groups=2, clips_per_group=2, width=48, height=32, min_frames=6, max_frames=9)
UCF101_NAME = re.compile(r"(?P<class>[A-Za-z]+)/v_(?P=class)_g(?P<group>\d\d)_c(?P<clip>\d\d)\.(avi|mp4)")

Features = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


def digests(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def decode(file: Path) -> list[npt.NDArray[np.uint8]]:
    with av.open(str(file)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


# --- files -----------------------------------------------------------------------------------------------------------


def test_files_are_named_and_coded_as_promised(tmp_path: Path) -> None:
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


def test_relative_folder_after_a_change_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first", "second"):  # the processes of the first are kept for the second
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        for file in render_sample(Path("videos"), SMALL, num_workers=2):
            assert (tmp_path / name / file).is_file()


def test_same_bytes_for_any_number_of_workers_and_others_for_another_seed(tmp_path: Path) -> None:
    render_sample(tmp_path / "one", SMALL)
    render_sample(tmp_path / "two", SMALL, num_workers=2)
    render_sample(tmp_path / "other", dataclasses.replace(SMALL, seed=1))
    one, two, other = (digests(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert one.keys() == other.keys()
    assert len({*one.values(), *other.values()}) == 2 * len(one)


def test_a_larger_sample_contains_the_smaller_one() -> None:
    larger = dataclasses.replace(SMALL, num_classes=8, num_groups=5, clips_per_group=3)
    theirs = {video.name: video for video in sample_videos(larger)}
    for video in sample_videos(SMALL):
        mine = np.stack(list(video_frames(video, SMALL)))
        np.testing.assert_array_equal(mine, np.stack(list(video_frames(theirs[video.name], larger))))


def test_no_two_videos_share_a_scene_or_a_motion_unless_one_group(tmp_path: Path) -> None:
    settings = dataclasses.replace(SMALL, num_classes=8)
    first_frames = {video: next(video_frames(video, settings)) for video in sample_videos(settings)}
    assert len({frame.tobytes() for frame in first_frames.values()}) == 8 * 2 * 2


def test_a_second_run_does_nothing_and_an_interrupted_one_is_finished(tmp_path: Path) -> None:
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


def test_a_failing_encoder_leaves_no_file_under_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def torn(frames: object, file: object, *rest: object) -> None:
        file.write(b"half a video")  # type: ignore[attr-defined]
        raise OSError("disk full")

    monkeypatch.setattr(tgprep.obtain.sample, "encode_video", torn)
    with pytest.raises(OSError, match="disk full"):
        render_sample(tmp_path / "videos", SMALL)
    assert set(digests(tmp_path / "videos")) == {SETTINGS_NAME}


def test_other_contents_are_refused_and_named(tmp_path: Path) -> None:
    out = tmp_path / "videos"
    (out / "Holiday").mkdir(parents=True)
    (out / "Holiday" / "beach.mp4").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"videos: .*found Holiday;.*another folder"):
        render_sample(out, SMALL)
    assert set(digests(out)) == {"Holiday/beach.mp4"}

    file = tmp_path / "file"
    file.write_bytes(b"")
    with pytest.raises(InputError, match=r"expected a folder .* got a file"):
        render_sample(file, SMALL)


def test_a_sample_of_other_settings_or_with_a_stranger_inside_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "videos"
    render_sample(out, SMALL)
    before = digests(out)
    with pytest.raises(InputError, match=r"num_groups = 2 there, 3 asked; seed = 0 there, 7 asked"):
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


# --- annotations -----------------------------------------------------------------------------------------------------


def test_annotations_have_ucf101s_form(tmp_path: Path, shared: Path) -> None:
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
def test_annotations_part_the_groups(tmp_path: Path, num_groups: int) -> None:
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


# --- paths: the class is in the order of the frames alone --------------------------------------------------------------

NUM_PATHS = 1500
LOOKED_AT = (0, 9, 30, 63)


@pytest.fixture(scope="module")
def paths_by_motion() -> dict[str, Features]:
    """float64[NUM_PATHS, 64, 4] for every motion."""
    return {
        motion: np.stack([path(motion, 64, np.random.default_rng([5, number, k])) for k in range(NUM_PATHS)])
        for number, motion in enumerate(MOTIONS)
    }


def ks_distance(first: Features, second: Features) -> float:
    """Two-sample Kolmogorov-Smirnov statistic: the greatest difference of the two empirical distributions."""
    both = np.sort(np.concatenate([first, second]))
    shares = [np.searchsorted(np.sort(part), both, side="right") / len(part) for part in (first, second)]
    return float(np.abs(shares[0] - shares[1]).max())


def ks_bound(num_first: int, num_second: int, level: float) -> float:
    """The statistic that two samples of one distribution exceed with probability `level` (asymptotic)."""
    return math.sqrt(-math.log(level / 2) / 2 * (num_first + num_second) / (num_first * num_second))


def test_every_frame_has_the_same_positions_sizes_and_angles_in_all_classes(
    paths_by_motion: dict[str, Features],
) -> None:
    level = 0.001 / (28 * len(LOOKED_AT) * 4)  # shared by all comparisons
    bound = ks_bound(NUM_PATHS, NUM_PATHS, level)
    for a, first in enumerate(MOTIONS):
        for second in MOTIONS[a + 1 :]:
            for frame in LOOKED_AT:
                for axis, name in enumerate(COORDINATES):
                    distance = ks_distance(*(paths_by_motion[m][:, frame, axis] for m in (first, second)))
                    assert distance < bound, (first, second, frame, name)


def test_coordinates_are_uniform_and_independent_at_every_frame(paths_by_motion: dict[str, Features]) -> None:
    """Pairs of coordinates fall evenly into a 4 x 4 grid; chi-square with 15 degrees of freedom, 192 comparisons."""
    for motion, paths in paths_by_motion.items():
        assert 0 <= paths.min() <= paths.max() < 1
        for frame in LOOKED_AT:
            for a in range(4):
                for b in range(a + 1, 4):
                    counts = np.histogram2d(paths[:, frame, a], paths[:, frame, b], 4, [[0, 1], [0, 1]])[0]
                    chi_square = ((counts - NUM_PATHS / 16) ** 2 / (NUM_PATHS / 16)).sum()
                    assert chi_square < 56, (motion, frame, COORDINATES[a], COORDINATES[b])  # exceeded once in 900,000


def test_the_comparison_of_classes_can_fail() -> None:
    """Paths that all begin at one place, which is what the uniform start is for, are told apart at once."""
    up, down = (
        np.stack([displacement(m, 64, np.random.default_rng(k)) for k in range(200)]) % 1
        for m in ("MoveUp", "MoveDown")
    )
    assert ks_distance(up[:, 9, Y], down[:, 9, Y]) > ks_bound(200, 200, 1e-9)


def steps(paths: Features) -> Features:
    """Change from frame to frame on the circle: float64[..., T-1, 4] in [-0.5, 0.5)."""
    return (np.diff(paths, axis=-2) + 0.5) % 1 - 0.5


def test_each_class_moves_as_its_name_says(paths_by_motion: dict[str, Features]) -> None:
    change = {motion: steps(paths) for motion, paths in paths_by_motion.items()}
    moving = {
        "MoveUp": {Y}, "MoveDown": {Y}, "Grow": {SIZE}, "Shrink": {SIZE}, "Spin": {ANGLE},
        "SwingSideways": {X}, "SwingUpDown": {Y}, "Jitter": {X, Y},
    }  # fmt: skip
    for motion, axes in moving.items():
        still = [axis for axis in range(4) if axis not in axes]
        assert np.abs(change[motion][..., still]).max() < 1e-9
        assert np.all(np.abs(change[motion][..., sorted(axes)]).max(axis=1) > 0.005)
    for motion, axis, sign in (("MoveUp", Y, -1), ("MoveDown", Y, 1), ("Grow", SIZE, 1), ("Shrink", SIZE, -1)):
        assert np.all(sign * change[motion][..., axis] > 0)
    # Under a quarter of a round in 8 frames: the direction survives a clip at interval 8.
    for motion in ("MoveUp", "MoveDown", "Grow", "Shrink", "Spin"):
        assert np.abs(change[motion]).max() * 8 < 0.25
    # A swing comes back within the shortest clip.
    for motion, axis in (("SwingSideways", X), ("SwingUpDown", Y)):
        signs = np.sign(change[motion][..., axis])
        assert np.all(signs.min(axis=1) < 0)
        assert np.all(signs.max(axis=1) > 0)


def test_a_horizontal_flip_keeps_every_class(paths_by_motion: dict[str, Features]) -> None:
    """Mirrored, x and angle change sign: their steps must be as often and as far to the left as to the right."""
    for motion, paths in paths_by_motion.items():
        for axis in (X, ANGLE):
            for frame in (0, 31, 62):
                change = steps(paths)[:, frame, axis]
                if np.abs(change).max() > 1e-9:
                    assert ks_distance(change, -change) < ks_bound(NUM_PATHS, NUM_PATHS, 1e-5), (motion, axis, frame)
    up = steps(paths_by_motion["MoveUp"])[:, 0, Y]
    assert ks_distance(up, -up) == 1, "an upside-down flip is no symmetry: the check can fail"


# --- drawing -----------------------------------------------------------------------------------------------------------


def test_a_shape_is_drawn_whole_wherever_it_is() -> None:
    """What leaves at an edge enters at the opposite one: a shape at the corner is the middle one, rolled."""
    sprite = make_sprite(np.random.default_rng(3), np.zeros(3, np.float32), 64)
    pictures = []
    for x, y in ((0.5, 0.5), (0.0, 0.0), (0.0, 0.5), (0.5, 0.0)):
        canvas = np.zeros((64, 96, 3), np.float32)
        draw_sprite(canvas, sprite, np.array([x, y, 0.6, 0.1]))
        pictures.append(np.roll(canvas, (int((0.5 - y) * 64), int((0.5 - x) * 96)), (0, 1)))
    for other in pictures[1:]:
        np.testing.assert_allclose(other, pictures[0], atol=1e-3)
    rows, columns = np.nonzero(pictures[0].sum(axis=2))
    radius = radius_share(0.6) * 64
    assert max(abs(rows - 31.5).max(), abs(columns - 47.5).max()) <= radius + 1
    assert max(abs(rows - 31.5).max(), abs(columns - 47.5).max()) > 0.7 * radius


def test_sizes_grow_and_fade_only_at_their_ends() -> None:
    sizes = np.linspace(0, 1, 200, endpoint=False)
    radii = np.array([radius_share(size) for size in sizes])
    assert np.all(np.diff(radii) > 0)
    assert 2 * radii.max() < 1
    assert opacity(0.0) == 0
    assert all(opacity(size) == 1 for size in sizes[(sizes > 0.04) & (sizes < 0.93)])


def test_the_background_has_no_seam() -> None:
    """Neighbours across the edge differ no more than neighbours inside, so a drifting background shows no line."""
    for seed in range(8):
        tile = make_scene(np.random.default_rng(seed), 60, 80).background
        for axis in (0, 1):
            inside = np.abs(np.diff(tile, axis=axis)).mean()
            across = np.abs(np.take(tile, 0, axis) - np.take(tile, -1, axis)).mean()
            assert across < 2 * inside


# --- one frame does not give the class away, several do ----------------------------------------------------------------

LEAK = SampleSettings(num_groups=32, clips_per_group=1, width=80, height=60, min_frames=36, max_frames=36, seed=11)
NUM_TEST_GROUPS = 14
SINGLE_FRAMES = (0, 9, 18, 27, 35)


def frame_features(frame: npt.NDArray[np.uint8]) -> Features:
    """What a look at one picture tells: coarse picture, colour histogram, gradient strengths by place and direction, compression noise."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float64)
    coarse = cv2.resize(frame, (10, 8), interpolation=cv2.INTER_AREA).astype(np.float64).ravel() / 8
    colours = np.concatenate([np.histogram(frame[..., c], 8, (0, 256))[0] for c in range(3)]) / 50
    gy, gx = np.gradient(grey)
    strength, direction = np.hypot(gx, gy), np.arctan2(gy, gx) % np.pi
    oriented = [
        np.where((direction // (np.pi / 4)).astype(int) % 4 == k, strength, 0).reshape(4, 15, 4, 20).mean(axis=(1, 3))
        for k in range(4)
    ]
    high = np.abs(grey - cv2.GaussianBlur(grey, (0, 0), 1.0))
    # The brightest things are the shapes: where they are and how far they reach.
    shape = strength > np.quantile(strength, 0.9)
    rows, columns = np.nonzero(shape)
    moments = [rows.mean(), rows.std(), columns.mean(), columns.std()]
    fine = [high.mean(), np.median(high), np.quantile(high, 0.9)]
    return np.concatenate([coarse, colours, np.ravel(oriented), fine, moments])


def motion_features(frames: list[npt.NDArray[np.uint8]]) -> Features:
    """What the change from frame to frame tells: one affine motion of the picture per pair (least squares), summed up over time."""
    found = []
    y, x = np.mgrid[-1:1:60j, -1:1:80j]
    soft = [cv2.GaussianBlur(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY), (0, 0), 2.0).astype(np.float64) for f in frames]
    for before, after in zip(soft[::2], soft[1::2], strict=False):
        gy, gx = np.gradient((before + after) / 2)
        gt = after - before
        weight = gx**2 + gy**2
        centre_x, centre_y = (float((weight * place).sum() / weight.sum()) for place in (x, y))
        u, v = x - centre_x, y - centre_y
        terms = np.stack([gx, gy, gx * u + gy * v, gy * u - gx * v]).reshape(4, -1)
        found.append(
            [*np.linalg.lstsq(terms @ terms.T + np.eye(4), -terms @ gt.ravel(), rcond=None)[0], np.abs(gt).mean()]
        )
    values = np.array(found)
    signs = np.abs(np.sign(values).mean(axis=0))
    return np.concatenate(
        [values.mean(axis=0), values.std(axis=0), np.abs(values).mean(axis=0), np.median(values, axis=0), signs]
    )


def held_out_accuracy(train: tuple[Features, Labels], test: tuple[Features, Labels], num_classes: int) -> float:
    """Kernel ridge regression (Gaussian kernel, median distance) from features to classes, scored on `test`."""
    mean, scale = train[0].mean(axis=0), train[0].std(axis=0) + 1e-9
    a, b = (np.clip((part[0] - mean) / scale, -4, 4) for part in (train, test))
    between = [np.maximum((p**2).sum(1)[:, None] + (a**2).sum(1)[None] - 2 * p @ a.T, 0) for p in (a, b)]
    width = np.median(between[0])
    kernel, kernel_test = (np.exp(-2 * d / width) for d in between)
    weights = np.linalg.solve(kernel + 0.1 * np.eye(len(a)), np.eye(num_classes)[train[1]] - 1 / num_classes)
    return float(((kernel_test @ weights).argmax(axis=1) == test[1]).mean())


def parts(per_video: Features) -> tuple[tuple[Features, Labels], tuple[Features, Labels]]:
    """(train, test) by group, from float64[videos, looks, features] in the order of `sample_videos(LEAK)`."""
    videos = sample_videos(LEAK)
    labels = np.array([LEAK.class_names.index(video.class_name) for video in videos])
    tested = np.array([video.group <= NUM_TEST_GROUPS for video in videos])
    looks, size = per_video.shape[1:]
    train, test = ((per_video[rows].reshape(-1, size), np.repeat(labels[rows], looks)) for rows in (~tested, tested))
    return train, test


def chance_bound(num_trials: int, chance: float, level: float) -> float:
    """The share of hits that guessing exceeds with a probability of at most `level`: exact binomial tail."""
    tail = 0.0
    for hits in range(num_trials, -1, -1):
        tail += math.comb(num_trials, hits) * chance**hits * (1 - chance) ** (num_trials - hits)
        if tail > level:
            return hits / num_trials
    return 0.0


def test_a_single_decoded_frame_does_not_tell_the_class_but_motion_does(tmp_path: Path) -> None:
    """From the files themselves, so that a codec that treats moving things otherwise would be found too."""
    clips = [decode(file) for file in render_sample(tmp_path / "videos", LEAK)]
    looks = np.array([[frame_features(frames[k]) for k in SINGLE_FRAMES] for frames in clips])
    from_frame = held_out_accuracy(*parts(looks), LEAK.num_classes)
    from_motion = held_out_accuracy(*parts(np.array([[motion_features(frames)] for frames in clips])), LEAK.num_classes)
    # Frames of one video are not independent: the bound counts videos.
    bound = chance_bound(LEAK.num_classes * NUM_TEST_GROUPS, 1 / LEAK.num_classes, 0.005)
    print(f"single frame {from_frame:.3f}, bound {bound:.3f}, motion {from_motion:.3f}")
    assert from_frame <= bound
    assert from_motion > 2 * bound


def test_the_same_classifier_finds_a_leak_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the uniform start of the paths, single frames do tell the class: the test above can fail."""
    monkeypatch.setattr(
        tgprep.obtain.sample_render,
        "path",
        lambda *motion: (np.array([0.5, 0.5, 0.3, 0.0]) + displacement(*motion)) % 1,
    )
    looks = []
    for video in sample_videos(LEAK):
        frames = list(itertools.islice(video_frames(video, LEAK), SINGLE_FRAMES[2] + 1))
        looks.append([frame_features(frames[k]) for k in SINGLE_FRAMES[:3]])
    from_frame = held_out_accuracy(*parts(np.array(looks)), LEAK.num_classes)
    print(f"single frame with a leak {from_frame:.3f}")
    assert from_frame > 1.5 * chance_bound(LEAK.num_classes * NUM_TEST_GROUPS, 1 / LEAK.num_classes, 0.005)
