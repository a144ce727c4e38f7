"""`tgprep card`: both files say what is in the data set, and readers of others take them."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlcroissant
import numpy as np
import pytest
from click.testing import CliRunner, Result
from huggingface_hub import DatasetCard
from markdown_it import MarkdownIt

from cli.prep import main
from manifests.console import visible
from manifests.manifest_io import read_manifest, write_manifest
from manifests.splits.label_split import make_split, read_split, write_split
from manifests.splits.settings import PARTS, SplitSettings
from manifests.table import Originals
from manifests.targets.target_file import Targets, write_targets
from tests.object_store import ObjectStore
from tests.prep.share.support import HOSTILE, body, cells, front_matter, rename
from tests.train.support import write_data_set

GIVEN = {
    "--name": "Shapes that move",
    "--description": "First line.\n\nSecond <b>line</b>.",
    "--license": "CC-BY-4.0",
    "--homepage": "https://data.example/shapes?a=1&b=2",
    "--citation": "@misc{shapes,\n  title = {Shapes},\n}",
    "--creator": "The lab",
    "--date-published": "2026-11-01",
    "--data-version": "1.2.0",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with two splits and soft targets."""
    root = tmp_path_factory.mktemp("card") / "shapes"
    manifest, split = write_data_set(root, num_frames=3)
    write_split(root, make_split(manifest, SplitSettings(percent=25, hold_out_percent=25, strategy="stratified")))
    keys = tuple(split.keys_of("unlabelled")[:4])
    targets = Targets("mean", keys, np.full((4, 3), 1 / 3, np.float32), manifest.header.classes, {"from": "nowhere"})
    write_targets(root, targets)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "shapes")
    return tmp_path / "shapes"


def call(root: Path, *words: str, code: int = 0) -> Result:
    done = CliRunner().invoke(main, ["card", str(root), *words], catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done


def given() -> list[str]:
    return [word for pair in GIVEN.items() for word in pair]


def croissant(root: Path) -> Any:
    return json.loads((root / "croissant.json").read_text("ascii"))


def test_the_front_matter_is_that_of_the_hub(root: Path) -> None:
    done = call(root)
    assert "no licence is stated" in done.output
    data = DatasetCard.load(root / "README.md").data.to_dict()
    assert data == front_matter((root / "README.md").read_text())
    assert data == {
        "pretty_name": "shapes",
        "task_categories": ["video-classification"],
        "tags": ["action-recognition", "semi-supervised-learning", "temporal-gradient", "video", "webdataset"],
        "size_categories": ["n<1K"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "shard-*.tar"}]}],
    }
    assert "license" not in croissant(root)
    assert "no licence" not in call(root, *given()).output
    data = front_matter((root / "README.md").read_text())
    assert (data["license"], data["pretty_name"]) == ("cc-by-4.0", "Shapes that move")
    call(root, "--license", "https://data.example/terms")
    data = front_matter((root / "README.md").read_text())
    assert (data["license"], data["license_link"]) == ("other", "https://data.example/terms")
    call(root, "--license", "mit")
    data = front_matter((root / "README.md").read_text())
    assert (data["license"], "license_link" in data) == ("mit", False)


def test_the_page_says_what_is_in_the_data_set(root: Path) -> None:
    call(root, *given())
    text = (root / "README.md").read_text()
    manifest = read_manifest(root)
    assert cells(text, "label") == [[str(label), f"class{label}", "6"] for label in range(3)]
    parts = {
        name: [str(int(read_split(root, name).part(part).sum())) for part in PARTS]
        for name in ("p25-stratified-s0-f1-v25", "p50-stratified-s0-f1")
    }
    assert cells(text, "name") == [[name, *sizes] for name, sizes in parts.items()]
    facts = {row[0]: row[1] for row in cells(text, "")}
    assert facts["videos"] == "18"
    assert facts["frames"].startswith("54;")
    assert facts["digest"] == manifest.digest
    assert ["quality", "95"] in cells(text, "setting")
    assert "`TG_k = floor((I_k - I_{k+1} + 255) / 2)`" in text
    for word in ("strategy stratified; ", "hold_out_percent 25; ", "Licence: cc-by-4.0", "https://data.example/shapes?a=1&b=2", "on 2026-11-01",
                 "tgtrain run", "load_dataset", "WebDataset(", GIVEN["--citation"], "First line.", "stay under the licence of the footage"):  # fmt: skip
        assert word in text, word


def test_mlcroissant_validates_and_reads_the_records(root: Path) -> None:
    call(root, *given())
    found = mlcroissant.Dataset(jsonld=root / "croissant.json")
    assert not found.metadata.ctx.issues.errors
    assert not found.metadata.ctx.issues.warnings
    manifest = read_manifest(root)
    rows = list(found.records("videos"))
    assert [row["videos/key"].decode() for row in rows] == manifest.videos.column("key")
    assert [row["videos/label"] for row in rows] == manifest.videos.column("label")
    assert [[name.decode() for name in row["videos/subsets"]] for row in rows] == manifest.videos.column("subsets")
    split = read_split(root, "p50-stratified-s0-f1")
    rows = list(found.records("splits/p50-stratified-s0-f1"))
    assert [row["splits/p50-stratified-s0-f1/key"].decode() for row in rows] == list(split.key)
    for part in PARTS:
        assert [row[f"splits/p50-stratified-s0-f1/{part}"] for row in rows] == split.part(part).tolist()
    rows = list(found.records("targets/mean"))
    assert [len(row["targets/mean/probabilities"]) for row in rows] == [3] * 4


def test_the_distribution_names_every_file_with_its_sha256(root: Path) -> None:
    call(root)
    described = croissant(root)
    files = {item["contentUrl"]: item for item in described["distribution"]}
    there = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()} - {
        "README.md",
        "croissant.json",
    }
    assert set(files) == there
    for name, item in files.items():
        content = (root / name).read_bytes()
        assert (item["sha256"], item["contentSize"]) == (hashlib.sha256(content).hexdigest(), f"{len(content)} B")
    assert described["conformsTo"] == "http://mlcommons.org/croissant/1.0"


def test_shards_are_not_read(root: Path) -> None:
    for shard in root.glob("*.tar"):
        shard.unlink()
    call(root)
    assert {shard.sha256 for shard in read_manifest(root).shards} < {
        item["sha256"] for item in croissant(root)["distribution"]
    }


def test_what_was_given_is_kept_and_the_same_card_is_not_written_again(root: Path) -> None:
    call(root, *given())
    before = {
        name: ((root / name).read_bytes(), (root / name).stat().st_mtime_ns) for name in ("README.md", "croissant.json")
    }
    assert "unchanged" in call(root).output
    assert {name: ((root / name).read_bytes(), (root / name).stat().st_mtime_ns) for name in before} == before
    values = croissant(root)
    assert [values[name] for name in ("name", "url", "citeAs", "datePublished", "version")] == [
        GIVEN[option] for option in ("--name", "--homepage", "--citation", "--date-published", "--data-version")
    ]
    assert values["creator"]["name"] == "The lab"
    printed = json.loads(call(root, "--json", "--creator", "Others").stdout)
    assert (printed["facts"]["creator"], printed["facts"]["name"], printed["changed"]) == (
        "Others",
        GIVEN["--name"],
        ["README.md", "croissant.json"],
    )


def test_the_sentence_of_a_card_without_description_follows_the_data(root: Path) -> None:
    call(root)
    assert croissant(root)["description"].startswith("18 action videos of 3 classes")
    rename(root, ("a", "b", "c", "d"))
    call(root)
    assert croissant(root)["description"].startswith("18 action videos of 4 classes")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--license", "my own words"], "--license 'my own words': expected an identifier such as cc-by-4.0, or the URL"),
        (["--homepage", "javascript:alert(1)"], "--homepage 'javascript:alert(1)': expected a URL"),
        (["--homepage", "https://a.example/>x"], "expected a URL"),
        (["--date-published", "1.11.2026"], "expected a date as YYYY-MM-DD"),
        (["--data-version", "new"], "expected a version as 1.0.0"),
        (["--name", "two\nlines"], "expected one line"),
        (["--citation", "x" * 30_000], "30000 characters, expected at most 20000"),
    ],
)  # fmt: skip
def test_facts_that_are_none_are_refused(root: Path, words: list[str], message: str) -> None:
    before = sorted(root.iterdir())
    assert message in call(root, *words, code=2).output
    assert sorted(root.iterdir()) == before


def test_a_folder_without_data_set_is_left_alone(tmp_path: Path) -> None:
    assert "holds no data set" in call(tmp_path, code=2).output
    assert not list(tmp_path.iterdir())


def test_names_of_strangers_are_text(root: Path) -> None:
    """In Markdown as a reader of others shows it, in the front matter and in JSON; and a second card finds its marks."""
    rename(root, HOSTILE)
    for number in range(2):
        call(root, "--name", 'He said: "<b>#1</b>" `x` --- \\', "--description", "\n\n".join(HOSTILE), "--citation", "\n".join(HOSTILE),
             "--creator", "--- | <i>")  # fmt: skip
        text = (root / "README.md").read_text("utf-8")
        shown = [visible(name).replace("\n", "\\u000a").strip() for name in HOSTILE]
        assert [row[1] for row in cells(text, "label")] == shown
        assert sorted(row[1] for row in cells(text, "setting") if row[0].startswith("v")) == sorted(shown)
        data = front_matter(text)
        assert data["pretty_name"] == 'He said: "<b>#1</b>" `x` --- \\'
        assert set(data) == {"pretty_name", "task_categories", "tags", "size_categories", "configs"}
        assert not set(visible(text)) - set(text)
        assert visible(text) == text
        tokens = MarkdownIt("commonmark").enable("table").parse(body(text))
        inner = [child for token in tokens for child in token.children or []]
        assert not [
            token
            for token in [*tokens, *inner]
            if token.type in ("html_inline", "image", "hr", "s_open", "strong_open", "em_open")
        ]
        assert {token.content.split(" ")[0] for token in tokens if token.type == "html_block"} == {"<!--"}
        assert {child.attrs["href"] for child in inner if child.type == "link_open"} <= {"https://data.example/shapes"}
        assert text.count("<!-- tgprep card: end -->") == 1, number
    found = mlcroissant.Dataset(jsonld=root / "croissant.json")
    assert not found.metadata.ctx.issues.errors
    assert len(list(found.records("videos"))) == 18
    assert croissant(root)["citeAs"] == "\n".join(HOSTILE).strip()


def test_check_and_info_know_the_card(root: Path) -> None:
    def outdated(command: str, *words: str) -> bool:
        done = CliRunner().invoke(main, [command, str(root), *words], catch_exceptions=False)
        assert "README" not in done.output.replace("README.md and croissant.json describe", "")
        return "describe an earlier state" in " ".join(done.output.split())

    call(root)
    assert not outdated("check", "--quick")
    assert not outdated("info")
    write_split(root, make_split(read_manifest(root), SplitSettings(percent=50, seed=1)))
    assert outdated("check", "--quick")
    assert outdated("info")
    call(root)
    assert not outdated("check", "--quick")


def test_a_damaged_split_is_named_and_nothing_is_written(root: Path) -> None:
    (root / "splits/p50-stratified-s0-f1.parquet").write_bytes(b"PAR1")
    assert "p50-stratified-s0-f1.parquet is damaged" in call(root, code=2).output
    assert not (root / "croissant.json").exists()


def test_a_card_says_what_the_tars_still_hold(root: Path) -> None:
    """After a change that leaves the shards as they are; the table of the originals is one of the files."""
    manifest = read_manifest(root)
    originals = Originals(manifest.videos.take([0, 1]), np.array([True, False]), ("class0", "class1"))
    rows = [
        replace(row, class_name="class1", label=1) if number == 1 else row
        for number, row in enumerate(manifest.videos)
        if number
    ]
    header = replace(manifest.header, num_written=17)
    write_manifest(root, header, rows, manifest.shards, originals)
    shutil.rmtree(root / "splits")
    shutil.rmtree(root / "targets")
    call(root)
    assert (
        "**2 videos were dropped or have other labels since they were extracted.**" in (root / "README.md").read_text()
    )
    assert [row[2] for row in cells((root / "README.md").read_text(), "label")] == ["4", "7", "6"]
    assert "originals.parquet" in {item["contentUrl"] for item in croissant(root)["distribution"]}


def test_in_an_object_store_the_card_is_the_same(root: Path, store: ObjectStore) -> None:
    url = store.bucket("cards") + "/shapes"
    store.upload(root, url)
    for place in (str(root), url):
        done = CliRunner().invoke(main, ["card", place, *given()], catch_exceptions=False)
        assert done.exit_code == 0, done.output
    there = store.tree(url)
    for name in ("README.md", "croissant.json"):
        assert there[name] == (root / name).read_bytes()
    assert not [name for name in there if ".tgprep" in name]
