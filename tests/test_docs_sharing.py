"""docs/sharing.md: its commands and its code run on a folder as they stand; of those that need a network the options exist."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.prep import main as prep
from cli.train import main as train
from manifests.manifest_io import read_manifest
from manifests.splits.label_split import make_split, read_split, write_split
from manifests.splits.settings import SplitSettings
from tests.prep.share.support import front_matter
from tests.prep.support import extract_videos
from tests.train.support import TINY
from tgprep.obtain.sample import SampleSettings, render_sample

TEXT = (Path(__file__).parents[1] / "docs" / "sharing.md").read_text("utf-8")
SPLIT = "p50-s0-f1"  # drawn here with a validation part


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def commands(kind: str) -> list[str]:
    return [line for block in blocks(kind) for line in block.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with `dataset/`, its split and card, and `dataset-video/`."""
    root = tmp_path_factory.mktemp("sharing")
    settings = SampleSettings(
        num_classes=2, num_groups=3, clips_per_group=1, width=64, height=48, min_frames=8, max_frames=12
    )
    render_sample(root / "videos", settings)
    manifest = extract_videos(root / "videos", root / "dataset", videos_per_shard=4).manifest
    extract_videos(root / "videos", root / "dataset-video", store="video", videos_per_shard=4)
    write_split(root / "dataset", make_split(manifest, SplitSettings(percent=50, hold_out_percent=25, name=SPLIT)))
    before = Path.cwd()
    os.chdir(root)
    call(commands("bash")[0])
    call("tgprep card dataset-video")
    yield root
    os.chdir(before)


def call(line: str, *more: str) -> str:
    program, *words = shlex.split(line)
    done = CliRunner().invoke({"tgprep": prep, "tgtrain": train}[program], [*words, *more], catch_exceptions=False)
    assert done.exit_code == 0, f"{line}\n{done.output}"
    return done.output


BLOCKS = {
    "PIL": "frames",
    '"parquet"': "split",
    "import av": "video",
    "mlcroissant": "croissant",
}  # a word of each code block of the page, and its name here
UNDECODED = """
from datasets import load_dataset
rows = load_dataset("dataset-video", split="train")
print(rows.features["mp4"])
try:
    print(rows[0]["mp4"])
except ImportError as error:
    print(error)
"""
MIXED = """
from datasets import load_dataset
try:
    print(load_dataset("mixed", "p50"))
except Exception as error:
    print(type(error))
"""
MIXED_CARD = "---\nconfigs:\n- config_name: default\n  data_files: shard-*.tar\n- config_name: p50\n  data_files: splits/*.parquet\n---\n"
RUN_ALL = """
import contextlib, io, json, sys
printed = {}
for name, code in json.load(sys.stdin).items():
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, name, "exec"), {"__name__": "__main__"})
    printed[name] = out.getvalue().splitlines()
json.dump(printed, sys.stdout)
"""


@pytest.fixture(scope="module")
def printed(folder: Path) -> dict[str, list[str]]:
    """What the code of the page and of both cards prints: one process without network, as the libraries take seconds to load."""
    shutil.copytree("dataset", "mixed")
    Path("mixed/README.md").write_text(MIXED_CARD)
    programs = {"undecoded": UNDECODED, "mixed": MIXED}
    for code in blocks("python"):
        (name,) = [name for word, name in BLOCKS.items() if word in code]
        programs[name] = code
    for name in ("dataset", "dataset-video"):
        found = re.findall(r"^```python\n(.*?)^```$", Path(name, "README.md").read_text(), re.MULTILINE | re.DOTALL)
        assert len(found) == 2 + (name == "dataset")
        programs[name] = "\n".join(found).replace("DATASET", name)
    offline = {
        "PYTHONPATH": "",  # `datasets` needs pandas, which the tests hide from other processes
        "HF_HOME": str(folder / "hf"),
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL], env=os.environ | offline, input=json.dumps(programs), capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    lines: dict[str, list[str]] = json.loads(done.stdout)
    return lines


def facts(folder: Path, name: str) -> list[str]:
    return sorted(f"{row.key} {row.label} {row.num_frames}" for row in read_manifest(folder / name).videos)


def test_the_commands_run(folder: Path) -> None:
    first, materialise, *rest = commands("bash")
    data = front_matter(Path("dataset/README.md").read_text())
    assert data["license"] == "cc-by-4.0"
    call(materialise)
    parts = front_matter(Path(f"dataset-{SPLIT}/README.md").read_text())["configs"][0]["data_files"]
    assert [part["split"] for part in parts] == ["labelled", "unlabelled", "validation"]
    shutil.copytree("dataset", "shapes")
    short = [word for setting in (*TINY, "optimiser.epochs=1", "runtime.workers=0") for word in ("--set", setting)]
    for line in rest:
        output = call(line, *(["--recipe", "demo", *short] if line.startswith("tgtrain") else []))
        assert "earlier state" not in output
    assert first.startswith("tgprep card ")
    assert len(rest) == 3
    assert list(Path("runs").glob("*/checkpoints/*.pt"))


def test_options_of_the_hub_s_command_exist() -> None:
    lines = [shlex.split(line) for line in commands("sh")]
    assert [words[0] for words in lines] == ["hf"] * 4
    code = "import sys\nfrom huggingface_hub.cli.hf import main\nfor name in ('upload', 'download', 'auth'):\n    sys.argv = ['hf', name, '--help']\n    try:\n        main()\n    except SystemExit:\n        pass\n    print('END')"
    env = os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=100, check=False
    )
    helps = dict(zip(("upload", "download", "auth"), done.stdout.split("END"), strict=False))
    assert len(helps) == 3, done.stderr
    for _, name, *words in lines:
        for word in words:
            assert not word.startswith("--") or re.search(rf"{word}\b", helps[name]), (name, word)
    assert "login" in helps["auth"]


def test_frames_with_datasets(folder: Path, printed: dict[str, list[str]]) -> None:
    lines = printed["frames"]
    assert "num_rows: 6" in "".join(lines)
    assert sorted(lines[-6:]) == [f"{text} (64, 48)" for text in facts(folder, "dataset")]


def test_the_table_of_a_split(printed: dict[str, list[str]]) -> None:
    assert ast.literal_eval(printed["split"][-1]) == read_split("dataset", SPLIT).keys_of("labelled")


def test_stored_videos_are_typed_as_video(folder: Path, printed: dict[str, list[str]]) -> None:
    assert printed["video"][0].startswith("Video(decode=True")
    assert sorted(printed["video"][1:]) == [f"{text} (48, 64, 3)" for text in facts(folder, "dataset-video")]


def test_a_column_of_videos_needs_torchcodec(printed: dict[str, list[str]]) -> None:
    kind, message = printed["undecoded"]
    assert kind.startswith("Video(decode=True")
    assert "torchcodec" in message


def test_one_repository_has_one_reader(printed: dict[str, list[str]]) -> None:
    """The reason for which the tables of splits are no configurations; if this fails, they may become some."""
    assert printed["mixed"] == ["<class 'tarfile.ReadError'>"]


def test_croissant(folder: Path, printed: dict[str, list[str]]) -> None:
    *videos, labelled = printed["croissant"]
    assert videos == [f"{row.key} {row.label}" for row in read_manifest(folder / "dataset").videos]
    assert labelled == str(len(read_split("dataset", SPLIT).keys_of("labelled")))


@pytest.mark.parametrize(("name", "size"), [("dataset", "(64, 48)"), ("dataset-video", "(48, 64, 3)")])
def test_the_code_of_a_card_runs(folder: Path, printed: dict[str, list[str]], name: str, size: str) -> None:
    lines = set(printed[name])
    assert {f"{text} {size}" for text in facts(folder, name)} <= lines
    assert {f"{row.key} {row.label} {row.class_name}" for row in read_manifest(folder / name).videos} <= lines


def test_every_code_block_is_run() -> None:
    assert len(blocks("python")) == len(BLOCKS)
    assert TEXT.count("```") == 2 * (len(BLOCKS) + len(blocks("bash")) + len(blocks("sh")))
