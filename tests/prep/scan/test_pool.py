"""Videos without a label: which files they are, and what the scan says of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from manifests.files import find_below
from manifests.records import NO_LABEL, InputError
from tests.prep.scan.support import fill
from tgprep.scan.pool import Pools
from tgprep.scan.scan import Scan, scan


def pool(result: Scan) -> dict[str, str]:
    """The group of each video without a label, by path; all that every such video has is checked."""
    found = [video for video in result.videos if not video.class_name]
    for video in found:
        assert video.label == NO_LABEL == -1
        assert video.subsets == ("train",) * result.num_folds
        assert video.key.startswith("unlabelled/")
    assert {video.path for video in result.videos if video.label < 0} == {video.path for video in found}
    return {video.path: video.group for video in found}


@pytest.mark.parametrize("name", ["unlabelled", "unlabeled", "Unlabelled", "unlabeled_videos", "unannotated"])
@pytest.mark.parametrize("train", ["", "train/"])
def test_reserved_folders(tmp_path: Path, name: str, train: str) -> None:
    test = ["test/walk/c.avi"] if train else []
    place = f"{train}{name}"
    names = [
        f"{train}walk/a.avi",
        f"{train}run/b.avi",
        f"{place}/u.avi",
        f"{place}/film_g03_c02.avi",
        f"{place}/x/y/v.avi",
    ]
    result = scan(fill(tmp_path, *names, *test))
    assert result.classes == ("run", "walk")
    assert pool(result) == {f"{place}/u.avi": "u", f"{place}/film_g03_c02.avi": "film_g03", f"{place}/x/y/v.avi": "x/y"}
    assert not result.skipped
    assert result.num_folds == bool(train)
    assert any(note.startswith("3 videos have no label: 3 in ") for note in result.notes)


@pytest.mark.parametrize("folder", ["test/unlabelled", "val/unlabeled", "test_unlabelled", "unlabelled/test"])
def test_unlabelled_videos_of_validation_and_test_are_skipped(tmp_path: Path, folder: str) -> None:
    result = scan(fill(tmp_path, "train/walk/a.avi", "test/walk/b.avi", f"{folder}/u.avi"))
    assert pool(result) == {}
    assert [(entry.path, entry.reason) for entry in result.skipped] == [
        (f"{folder}/u.avi", f"in {next(p for p in folder.split('/') if 'unl' not in p or '_' in p)}/ and without a label: "
         "a video of validation or test needs one")
    ]  # fmt: skip


def test_a_class_may_have_the_reserved_name(tmp_path: Path) -> None:
    fill(tmp_path, "walk/a.avi", "unlabelled/b.avi")
    result = scan(tmp_path, reserved=False)
    assert result.classes == ("unlabelled", "walk")
    assert pool(result) == {}


def test_ucf101_and_its_lists(tmp_path: Path) -> None:
    fill(tmp_path / "v", "Punch/v_Punch_g01_c01.avi", "Punch/v_Punch_g02_c01.avi", "unlabelled/v_Archery_g03_c01.avi")
    lists = tmp_path / "annotations"
    lists.mkdir()
    (lists / "trainlist01.txt").write_text("Punch/v_Punch_g02_c01.avi 1\nArchery/v_Archery_g03_c01.avi 2\n")
    (lists / "testlist01.txt").write_text("Punch/v_Punch_g01_c01.avi\n")
    (lists / "classInd.txt").write_text("1 Punch\n2 Archery\n")
    for classes, names in (("all", ("Punch", "Archery")), ("present", ("Punch",))):
        result = scan(tmp_path / "v", classes=classes)
        assert (result.dataset, result.classes, result.num_folds) == ("ucf101", names, 1)
        assert pool(result) == {"unlabelled/v_Archery_g03_c01.avi": "v_Archery_g03"}


def test_the_pool_changes_nothing_of_labelled_videos(tmp_path: Path) -> None:
    """Detection, classes, keys: a pool of other names, ten times as large, with keys that clash."""
    fill(tmp_path / "v", "Punch/v_Punch_g01_c01.avi", "unlabelled_x/a.avi", "unlabelled_x/b.avi", "UNLABELLED_X/c.avi")
    alone = scan(tmp_path / "v", dataset="folder")
    outside = fill(tmp_path / "clips", *(f"{n}/a.avi" for n in range(9)), "b.avi", "x.avi")
    fill(tmp_path / "v", "unlabelled/a.avi", "unlabelled/x.avi")
    result = scan(tmp_path / "v", dataset="folder", pools=Pools.of(tmp_path / "v", [outside]))
    assert [video for video in result.videos if video.class_name] == list(alone.videos)
    assert len(pool(result)) == 13
    assert len({video.key.lower() for video in result.videos}) == len(result.videos)


def test_keys_clash_with_a_class_of_that_name(tmp_path: Path) -> None:
    outside = fill(tmp_path / "clips", "a.avi", "b.avi")
    fill(tmp_path / "v", "unlabelled/a.avi", "walk/b.avi")
    result = scan(tmp_path / "v", pools=Pools.of(tmp_path / "v", [outside]), reserved=False)
    by_path = {video.path: video.key for video in result.videos}
    assert by_path["unlabelled/a.avi"] == "unlabelled/a"
    assert by_path[".unlabelled/clips/b.avi"] == "unlabelled/b"
    assert by_path[".unlabelled/clips/a.avi"].startswith("unlabelled/a_")


def test_folders_beside_and_inside(tmp_path: Path) -> None:
    videos = fill(tmp_path / "v", "walk/a.avi", "run/b.avi", "more/c.avi", "more/sub/d.avi")
    first, second = (
        fill(tmp_path / "pool", "e.avi", ".hidden/f.avi", "notes.txt", "bad.xyz"),
        fill(tmp_path / "p2", "e.avi"),
    )
    pools = Pools.of(videos, [first, second, videos / "more"])
    result = scan(videos, pools=pools)
    assert result.classes == ("run", "walk")
    assert pool(result) == {
        ".unlabelled/p2/e.avi": "e", ".unlabelled/pool/e.avi": "e", "more/c.avi": "c", "more/sub/d.avi": "sub"
    }  # fmt: skip
    assert [entry.path for entry in result.skipped] == [".unlabelled/pool/bad.xyz"]
    for video in result.videos:
        root, name = pools.place_of(videos, video.path)
        assert find_below(Path(root), name).is_file()


def test_a_flat_folder_of_unlabelled_videos_alone(tmp_path: Path) -> None:
    videos = fill(tmp_path / "v", "a.avi", "b.avi")
    with pytest.raises(InputError, match="If they have no labels, add them to labelled ones: --unlabelled"):
        scan(videos)
    for result in (scan(videos, pools=Pools.of(videos, [videos])), scan(fill(tmp_path / "w", "unlabelled/a.avi"))):
        assert (result.dataset, result.classes) == ("folder", ())
        assert len(pool(result)) == len(result.videos)


def test_mistakes(tmp_path: Path) -> None:
    videos, clips = fill(tmp_path / "data/v", "walk/a.avi"), fill(tmp_path / "clips", "in/a.avi")
    other = fill(tmp_path / "more/clips", "b.avi")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(clips)
    for folders, message in (
        ([clips, clips / "in"], "one holds the other"),
        ([clips, tmp_path / "link"], "one holds the other"),
        ([tmp_path / "data"], "holds VIDEOS"),
        ([clips, other], "have the same name"),
        ([tmp_path / "empty"], "--unlabelled .*empty holds no video files"),
        ([tmp_path / "gone"], "--unlabelled .*gone does not exist"),
        ([clips / "in/a.avi"], "is a file, not a folder"),
    ):
        with pytest.raises(InputError, match=message):
            scan(videos, pools=Pools.of(videos, folders))
    with pytest.raises(InputError, match=r"Give the same folder again: --unlabelled PATH/clips"):
        Pools().place_of(videos, ".unlabelled/clips/a.avi")


@pytest.mark.parametrize("numbers", [False, True])
def test_empty_labels_of_a_csv(tmp_path: Path, numbers: bool) -> None:
    names = ("1", "0") if numbers else ("walk", "run")
    videos = fill(
        tmp_path / "v", "a.avi", "b.avi", "c.avi", "d.avi", "e.avi", "unlabelled/f.avi", "unlabelled/g.avi", "h.avi"
    )
    rows = [
        f"a.avi,{names[0]},train,one", f"b.avi,{names[1]},test,two", "c.avi,,train,one", "d.avi,,,three", "e.avi,,test,four",
        f"unlabelled/f.avi,{names[0]},train,five",
    ]  # fmt: skip
    (tmp_path / "list.csv").write_text("path,label,subset,group\n" + "\n".join(rows))
    result = scan(videos, annotations=tmp_path / "list.csv")
    assert result.classes == tuple(sorted(names))
    # What the list names is what the list says; the folder of that name holds the rest.
    assert pool(result) == {"c.avi": "one", "d.avi": "three", "unlabelled/g.avi": "g"}
    assert {video.path: video.class_name for video in result.videos if video.class_name} == {
        "a.avi": names[0], "b.avi": names[1], "unlabelled/f.avi": names[0]
    }  # fmt: skip
    assert [(entry.path, entry.reason) for entry in result.skipped] == [
        ("e.avi", "listed as test without a label: only train videos may have none")
    ]
    assert [entry.examples for entry in result.extra] == [("h.avi",)]


def test_a_csv_without_any_label(tmp_path: Path) -> None:
    videos = fill(tmp_path / "v", "a.avi", "b.avi")
    (tmp_path / "list.csv").write_text("path,label\na.avi,\nb.avi,\n")
    result = scan(videos, annotations=tmp_path / "list.csv")
    assert (len(pool(result)), result.classes, result.num_folds) == (2, (), 0)


def test_no_other_file_fits(tmp_path: Path) -> None:
    """A pool does not hide that VIDEOS is the wrong folder."""
    videos = fill(tmp_path / "v", "nothing/x.avi", "unlabelled/u.avi")
    with pytest.raises(InputError, match="none of the video files fits --dataset ucf101"):
        scan(videos, dataset="ucf101")
