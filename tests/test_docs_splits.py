"""docs/splits.md: its commands run in the given order, its forms are read, and its table lists every problem."""

from __future__ import annotations

import inspect
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.prep import main
from manifests.manifest_io import read_manifest, write_manifest
from manifests.records import GradientCoding, ManifestHeader, VideoRow
from manifests.splits import check as split_check
from manifests.splits.label_split import list_splits, read_split
from manifests.splits.lists import read_list
from tests.prep.support import extract_videos
from tgprep.obtain.sample import SampleSettings, render_sample, write_annotations
from tgprep.scan.scan import scan

PAGE = Path(__file__).parents[1] / "docs" / "splits.md"
TEXT = PAGE.read_text("utf-8")
COMMANDS = [
    line for block in re.findall(r"^```bash\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL) for line in block.splitlines()
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with `dataset/` (videos, official lists), `hmdb51/` and `k400/` (tables alone), and lists to import."""
    root = tmp_path_factory.mktemp("splits")
    settings = SampleSettings(
        num_classes=2, num_groups=10, clips_per_group=2, width=48, height=32, min_frames=6, max_frames=8
    )
    render_sample(root / "videos", settings)
    write_annotations(root / "annotations", settings)
    found = scan(root / "videos", dataset="ucf101", annotations=root / "annotations")
    manifest = extract_videos(root / "videos", root / "dataset", found).manifest
    rows = [row for row in manifest.videos if row.subsets[0] == "train"]
    (root / "list.txt").write_text("".join(f"{row.path} {row.label}\n" for row in rows[::4]) + "gone/away.avi 0\n")
    (root / "train.txt").write_text("".join(f"{row.key}\n" for row in rows))
    tested = [row.key for row in manifest.videos if row.subsets[0] == "test"]
    (root / "test.txt").write_text("".join(f"{key}\n" for key in tested))
    for name, dataset, subset in (("hmdb51", "hmdb51", "unused"), ("k400", "kinetics400", "train")):
        (root / name).mkdir()
        made = [
            VideoRow(f"{c}/{n:03}", f"{c}/{n:03}.avi", c, label, "", ("test" if n < 5 else subset,), "written")
            for label, c in enumerate(("clap", "wave"))
            for n in range(100)
        ]
        header = ManifestHeader(dataset, ("clap", "wave"), GradientCoding(), {}, {}, num_folds=1, num_written=200)
        write_manifest(root / name, header, made, ())
    before = Path.cwd()
    os.chdir(root)
    yield root
    os.chdir(before)


def test_the_commands_run(folder: Path) -> None:
    assert len(COMMANDS) == 18
    for command in COMMANDS:
        words = shlex.split(command)
        assert words[0] == "tgprep"
        done = CliRunner().invoke(main, words[1:])
        assert done.exit_code == 0, f"{command}\n{done.output}"
    assert {"p20-s0-f1", "p20-stratified-s0-f1", "k6-s0-f1", "p20-group-s0-f1", "theirs"} <= set(list_splits("dataset"))
    held = read_split("dataset", "p20-s0-f1-v10")
    assert 0 < held.validation.sum() < held.unlabelled.sum()
    assert read_split("hmdb51").labelled.sum() == 76  # 40 % of the 190 that are no test videos
    assert read_split("k400", "k6-s0-f1").labelled.sum() == 12
    assert len(Path("unmatched.csv").read_text().splitlines()) == 2
    assert sorted(path.name for path in Path("plain").glob("*.tar"))
    assert len(Path("test.csv").read_text().splitlines()) == 1 + int(
        sum(subsets[0] == "test" for subsets in read_manifest("dataset").videos.column("subsets"))
    )


@pytest.mark.parametrize("line", re.findall(r"^\| [^|`]*(?:`train.csv`[^|`]*)?\| `([^`]+)` \|$", TEXT, re.MULTILINE))
def test_documented_forms_are_read(tmp_path: Path, line: str) -> None:
    (tmp_path / "list.csv").write_text(line + "\n")
    (entry,) = read_list(tmp_path / "list.csv").entries
    name = re.search(r"(\w+/\w+)(\.avi)?(?:[ ,]|$)", line)
    assert name is not None
    reading = next(reading for reading in entry.readings if reading.path.removesuffix(".avi").endswith(name[1]))
    assert reading.label == ("0" if line.endswith("0") else "")


def test_every_problem_is_documented() -> None:
    """The page has a row for each level, and a word of it for every kind of problem."""
    levels = re.findall(r"^\| (error|warning|note) \| (.+) \|$", TEXT, re.MULTILINE)
    assert [level for level, _ in levels] == [split_check.ERROR, split_check.WARNING, split_check.NOTE]
    texts = dict(levels)
    words = {
        "other-data-set": "another data set",
        "unknown-videos": "unknown",
        "not-written": "not extracted",
        "label-range": "outside the classes",
        "no-label": "videos without a label in another part",
        "no-labels": "no labelled video",
        "other-labels": "class folder's",
        "unlabelled-classes": "without a labelled video",
        "untested-classes": "without a test video",
        "groups-in-train-and-test": "in train and in test",
        "no-test": "no test part",
        "no-validation": "no validation part",
        "empty-classes": "without any video",
        "groups-partly-labelled": "labelled in part",
        "groups-across-classes": "several classes",
        "left-out": "left out",
    }
    kinds = set(re.findall(r'"((?:[a-z]+-)+[a-z]+)"', inspect.getsource(split_check)))
    kinds -= {"test-in-train", "validation-in-train", "test-in-validation", "-in-", "non-test"}
    assert kinds == set(words)
    for word in words.values():
        assert any(word in text for text in texts.values()), word
