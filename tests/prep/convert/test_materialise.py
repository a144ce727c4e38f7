"""`tgprep split --materialise`: the parts of a split as plain tars, the same samples byte for byte, whatever interrupts it."""

from __future__ import annotations

import io
import json
import random
import shutil
import signal
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli.prep import main
from manifests.manifest_io import read_manifest
from manifests.splits.label_split import make_split, read_split, write_split
from manifests.splits.settings import PARTS, SplitSettings
from tests.extraction import call as run_process
from tests.extraction import kill_group, start, tree
from tests.prep.support import extract_videos
from tgprep.obtain.sample import SampleSettings, render_sample


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of eight videos; split `half` with all four parts, and `theirs` with two labels that are not the class's."""
    root = tmp_path_factory.mktemp("materialise")
    settings = SampleSettings(
        num_classes=3, num_groups=8, clips_per_group=1, width=64, height=48, min_frames=8, max_frames=12
    )
    render_sample(root / "videos", settings)
    out = root / "dataset"
    made = extract_videos(root / "videos", out, videos_per_shard=5).manifest
    write_split(
        out,
        make_split(
            made, SplitSettings(percent=50, hold_out_percent=20, test_percent=20, unlabelled="rest", name="half")
        ),
    )
    keys = [row.key for row in made.videos]
    lines = zip(keys[::3], (2, 1, 0, 1, 1, 1, 2, 2), strict=True)  # of the classes 0, 0, 0, 1, 1, 1, 2, 2
    (root / "list.txt").write_text("".join(f"{key} 9 {label}\n" for key, label in lines))
    done = CliRunner().invoke(
        main, ["split", str(out), "--import", str(root / "list.txt"), "--labels", "theirs", "--name", "theirs"]
    )
    assert done.exit_code == 0, done.output
    return out


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["split", *map(str, arguments)], catch_exceptions=False)


def members(folder: Path, pattern: str) -> dict[str, dict[str, bytes]]:
    """key -> member -> bytes of every sample in the tars of that pattern; a key that comes twice is an error."""
    found: dict[str, dict[str, bytes]] = {}
    for file in sorted(folder.glob(pattern)):
        with tarfile.open(file) as tar:
            for member in tar:
                key, _, name = member.name.partition(".")
                content = tar.extractfile(member)
                assert content is not None
                assert name not in found.setdefault(key, {}), member.name
                found[key][name] = content.read()
    return found


def test_a_readme_names_the_parts_and_never_replaces_the_users(dataset: Path, tmp_path: Path) -> None:
    assert "path: shard-*.tar" in (dataset / "README.md").read_text()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/README.md").write_text("my notes")
    for name, text in (("new", "  - split: validation\n    path: validation-*.tar\n"), ("mine", "my notes")):
        result = call(dataset, "--materialise", "half", "--output", tmp_path / name)
        assert result.exit_code == 0, result.output
        assert text in (tmp_path / name / "README.md").read_text()
    # As an earlier version left it: the same command adds the file.
    (tmp_path / "new/README.md").unlink()
    assert call(dataset, "--materialise", "half", "--output", tmp_path / "new").exit_code == 0
    assert all(f"split: {part}\n" in (tmp_path / "new/README.md").read_text() for part in PARTS)


def test_parts_hold_the_samples_of_the_split(dataset: Path, tmp_path: Path) -> None:
    target = tmp_path / "plain"
    result = call(dataset, "--materialise", "half", "--output", target)
    assert result.exit_code == 0, result.output
    split, everything = read_split(dataset, "half"), members(dataset, "shard-*.tar")
    for part in PARTS:
        found = members(target, f"{part}-*.tar")
        assert sorted(found) == split.keys_of(part)
        assert found
        assert all(found[key] == everything[key] for key in found)
        with tarfile.open(target / f"{part}-000000.tar") as tar:
            assert {(member.mtime, member.uid, member.mode) for member in tar} == {(0, 0, 0o644)}
    facts = json.loads((target / "split.json").read_bytes())
    assert facts["other_labels"] == []
    assert facts["split"] == "half"
    assert facts["dataset_digest"] == read_manifest(dataset).digest
    digests = tree(target)
    assert {shard["name"]: shard["sha256"] for shard in facts["shards"]} == {
        name: digest for name, digest in digests.items() if name.endswith(".tar")
    }
    assert sorted(digests) == sorted([*(shard["name"] for shard in facts["shards"]), "README.md", "split.json"])
    assert sum(shard["num_videos"] for shard in facts["shards"]) == sum(len(split.keys_of(part)) for part in PARTS)


def test_the_label_is_the_one_trained_with(dataset: Path, tmp_path: Path) -> None:
    result = call(dataset, "--materialize", "theirs", "--output", tmp_path / "plain")
    assert "2 samples carry another label" in result.stderr
    split, everything = read_split(dataset, "theirs"), members(dataset, "shard-*.tar")
    label = dict(zip(split.key, split.label.tolist(), strict=True))
    found = members(tmp_path / "plain", "labelled-*.tar")
    assert len(found) == 8
    changed = []
    for key, sample in found.items():
        ours, theirs = json.loads(everything[key]["json"]), json.loads(sample["json"])
        assert theirs["label"] == label[key]
        assert list(theirs) == list(ours)
        assert {**theirs, "label": ours["label"]} == ours
        assert {name: data for name, data in sample.items() if name != "json"} == {
            name: data for name, data in everything[key].items() if name != "json"
        }
        if ours != theirs:
            changed.append({"key": key, "label": theirs["label"], "label_of_class": ours["label"]})
    facts = json.loads((tmp_path / "plain/split.json").read_bytes())
    assert sorted(facts["other_labels"], key=lambda entry: str(entry["key"])) == sorted(
        changed, key=lambda entry: entry["key"]
    )
    assert len(changed) == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its files open
def test_webdataset_reads_it(dataset: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    from PIL import Image

    call(dataset, "--materialise", "half", "--output", tmp_path / "plain")
    split = read_split(dataset, "half")
    frames = {row.key: row.num_frames for row in read_manifest(dataset).videos}
    for part in PARTS:
        shards = [str(path) for path in sorted((tmp_path / "plain").glob(f"{part}-*.tar"))]
        seen = []
        for sample in webdataset.WebDataset(shards, shardshuffle=False).decode():
            offsets = sample["rgb.offsets.npy"]
            assert len(offsets) - 1 == frames[sample["__key__"]]
            assert Image.open(io.BytesIO(sample["tg.mjpeg"][: sample["tg.offsets.npy"][1]])).size == (64, 48)
            seen.append(sample["__key__"])
        assert sorted(seen) == split.keys_of(part)


def test_done_again_it_changes_nothing_and_mends_what_was_lost(dataset: Path, tmp_path: Path) -> None:
    target = tmp_path / "plain"
    first: dict[str, Any] = json.loads(call(dataset, "--materialise", "half", "--output", target, "--json").stdout)
    assert (first["num_kept"], first["num_relabelled"]) == (0, 0)
    before = tree(target)
    (target / "test-000000.tar").unlink()
    damaged = bytearray((target / "labelled-000000.tar").read_bytes())
    damaged[5000] ^= 1
    (target / "labelled-000000.tar").write_bytes(damaged)
    second = json.loads(call(dataset, "--materialise", "half", "--output", target, "--json").stdout)
    assert second["num_kept"] == first["num_shards"] - 2
    assert tree(target) == before


def test_default_folder_is_beside_the_data_set(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(dataset, tmp_path / "dataset")
    monkeypatch.chdir(tmp_path)
    assert call("--materialise", "half").exit_code == 0
    assert (tmp_path / "dataset-half/split.json").exists()
    monkeypatch.chdir(tmp_path / "dataset")
    assert "(7 of 7 shards existed)" in call(".", "--materialise", "half").stderr


def test_unsafe_targets_are_refused(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(dataset)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/split.json").write_text('{"split": "of somebody else"}')
    before = tree(dataset.parent)
    for target, message in (
        (dataset, "lies in the data set"),
        (dataset / "splits/plain", "lies in the data set"),
        (tmp_path / "link/plain", "lies in the data set"),
        (dataset.parent, "is not empty (dataset, list.txt, videos)"),
        (tmp_path / "mine", "is not empty (thesis.txt)"),
        (tmp_path / "file", "cannot be used as a folder"),
        (tmp_path / "file/below", "cannot be used as a folder"),
        (tmp_path / "other", "holds a split.json that is damaged"),
        ("memory://bucket/plain", "a local folder is needed"),
    ):
        result = call(dataset, "--materialise", "half", "--output", target)
        assert result.exit_code == 2, result.output
        assert message in result.stderr
    assert tree(dataset.parent) == before
    call(dataset, "--materialise", "half", "--output", tmp_path / "plain")
    again = call(dataset, "--materialise", "theirs", "--output", tmp_path / "plain")
    assert (again.exit_code, "holds split half" in again.stderr) == (2, True)
    assert call(dataset, "--materialise", "none").exit_code == 2
    assert "has no meaning" in call(dataset, "--materialise", "half", "--overwrite").stderr


def test_a_damaged_shard_or_split_is_not_copied(dataset: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(dataset, tmp_path / "copy"))
    shard = next(copy.glob("shard-*.tar"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 4
    shard.write_bytes(content)
    result = call(copy, "--materialise", "half", "--output", tmp_path / "plain")
    assert result.exit_code == 2
    assert f"{shard.name}: sha256" in result.stderr
    assert not (tmp_path / "plain/split.json").exists()
    assert not list((tmp_path / "plain").glob(".tmp-*"))
    shard.unlink()
    assert f"{shard.name}: No such file" in call(copy, "--materialise", "half", "--output", tmp_path / "plain").stderr
    shutil.copy(dataset / shard.name, shard)
    assert call(copy, "--materialise", "half", "--output", tmp_path / "plain").exit_code == 0
    # A split of another data set.
    other = tmp_path / "other"
    extract_videos(dataset.parent / "videos", other, quality=60)
    shutil.copytree(dataset / "splits", other / "splits")
    refused = call(other, "--materialise", "half", "--output", tmp_path / "wrong")
    assert (refused.exit_code, "made for another data set" in refused.stderr) == (2, True)
    assert not (tmp_path / "wrong").exists()


def test_a_full_disk_ends_in_one_message(dataset: Path, tmp_path: Path) -> None:
    """Writing stops at 20 kB a file, as on a full disk; the same command then finishes."""
    arguments = ("split", dataset, "--materialise", "half", "--output", tmp_path / "plain")
    result = run_process(*arguments, prefix=("prlimit", "--fsize=20480"))
    assert result.returncode == 2, result.stderr
    assert "File too large" in result.stderr
    assert not [name for name in tree(tmp_path / "plain") if name.startswith(".tmp-")]
    assert run_process(*arguments).returncode == 0


def _killed(dataset: Path, folder: Path, moments: list[float]) -> None:
    call(dataset, "--materialise", "half", "--output", folder / "whole")
    wanted = tree(folder / "whole")
    target = folder / "killed"
    for number, seconds in enumerate(moments):
        process = start("split", dataset, "--materialise", "half", "--output", target)
        time.sleep(seconds)
        kill_group(process)
        for name, digest in (tree(target) if target.exists() else {}).items():
            assert name.startswith(".") or wanted[name] == digest, (number, name)
    assert run_process("split", dataset, "--materialise", "half", "--output", target).returncode == 0
    assert tree(target) == wanted


def test_killed_it_goes_on(dataset: Path, tmp_path: Path) -> None:
    _killed(dataset, tmp_path, [0.3, 0.5])


@pytest.mark.long
def test_killed_at_forty_moments_it_goes_on(dataset: Path, tmp_path: Path) -> None:
    chance = random.Random(3)
    for series in range(4):
        (tmp_path / str(series)).mkdir()
        _killed(dataset, tmp_path / str(series), [chance.uniform(0.2, 1.2) for _ in range(10)])


def test_interrupted_it_says_how_to_go_on(dataset: Path, tmp_path: Path) -> None:
    import threading

    from tgprep.convert.materialise import materialise

    stop = threading.Event()
    manifest, split = read_manifest(dataset), read_split(dataset, "half")
    seen, before = [], signal.getsignal(signal.SIGINT)

    def report(done: int, total: int) -> None:
        seen.append((done, total))
        if len(seen) == 7:
            stop.set()

    with pytest.raises(KeyboardInterrupt):
        materialise(manifest, split, tmp_path / "plain", stop=stop, on_progress=report)
    assert not (tmp_path / "plain/split.json").exists()
    done = materialise(manifest, split, tmp_path / "plain", on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]
    assert 0 < done.num_kept < done.num_shards
    assert signal.getsignal(signal.SIGINT) is before
