"""README and docs/: every command line is one that the programs take, and is run by a test or marked with what it needs."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import cli.prep
import cli.train
from tests.prep.support import moving_square, write_video
from tests.train.support import TINY
from tgtrain.run.folder import read_facts

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
}
PROGRAMS: dict[str, click.Group] = {"tgprep": cli.prep.main, "tgtrain": cli.train.main}
# What runs the ```bash and ```python blocks of a page; ```sh is shown alone, below a line that says what it needs.
RUN_BY = {
    "README.md": "tests/test_docs.py",
    "docs/beyond.md": "tests/test_docs.py",
    "docs/extending.md": "tests/test_docs.py",
    "docs/decoders.md": "tests/test_docs_decoders.py",
    "docs/editing.md": "tests/prep/edit/test_docs_editing.py",
    "docs/format.md": "tests/test_docs_format.py",
    "docs/own_data.md": "tests/test_docs_own_data.py",
    "docs/python.md": "tests/test_docs_python.py",
    "docs/sharing.md": "tests/test_docs_sharing.py",
    "docs/splits.md": "tests/test_docs_splits.py",
    "docs/sweeps.md": "tests/test_docs_sweeps.py",
    "docs/targets.md": "tests/test_docs_targets.py",
}
LITTLE = [word for setting in (*TINY, "optimiser.epochs=1", "runtime.workers=0") for word in ("--set", setting)]


def blocks(page: str, *languages: str) -> list[tuple[str, str]]:
    """(language, text) of the code blocks of a page."""
    found = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", PAGES[page], re.MULTILINE | re.DOTALL)
    return [(language, text) for language, text in found if not languages or language in languages]


def command_lines(page: str) -> Iterator[str]:
    """The calls of our programs in the code blocks of a page, without what a shell or a launcher has around them."""
    for _, text in blocks(page, "bash", "sh", "console", "text", ""):
        for line in text.replace("\\\n", " ").splitlines():
            shell = re.sub(
                r"^(?:PYTHONPATH=\S+|srun(?: --\S+)*|torchrun .*?(?=-m cli\.|tgprep |tgtrain )) *", "", line.strip()
            )
            shell = re.sub(r"^-m cli\.(prep|train)", r"tg\1", shell)
            if re.match(r"(?:tgprep|tgtrain) ", shell):
                yield shell


def require_known(line: str) -> None:
    """AssertionError or click's UsageError if a program does not take this line."""
    words = shlex.split(line, comments=True)
    if end := next(
        (number for number, word in enumerate(words) if word in ("&", "|", "&&") or word.startswith(">")), 0
    ):
        words = words[:end]
    program, name, *rest = words
    group = PROGRAMS[program]
    command = group.get_command(click.Context(group), name)
    assert command is not None, f"no command {name}"
    context = click.Context(command, info_name=name)
    values, left, _ = command.make_parser(context).parse_args([*rest])
    assert not left, f"{line}: {left} has no place"
    for parameter in command.params:
        value = values.get(parameter.name)
        if isinstance(parameter.type, click.Choice) and isinstance(value, str):
            parameter.type.convert(value, parameter, context)
    require_known_settings(values)


def require_known_settings(values: dict[str, object]) -> None:
    """AssertionError if a recipe or a key of --set does not exist."""
    from tgtrain.config import Config, flat_settings, recipe_names

    recipes, keys = values.get("recipe") or values.get("recipes") or (), flat_settings(Config())
    for recipe in [recipes] if isinstance(recipes, str) else recipes:  # type: ignore[attr-defined]
        assert recipe in recipe_names() or recipe.endswith(".toml") or recipe.isupper(), recipe
    for setting in values.get("overrides") or ():  # type: ignore[attr-defined]
        assert setting.partition("=")[0] in keys, setting


@pytest.mark.parametrize("page", PAGES)
def test_programs_take_every_command_line(page: str) -> None:
    for line in command_lines(page):
        try:
            require_known(line)
        except click.UsageError as error:
            raise AssertionError(f"{page}: {line}: {error.format_message()}") from None


def test_lines_that_are_wrong_are_found() -> None:
    assert len(list(command_lines("docs/cluster.md"))) >= 3
    for line in (
        "tgprep extrct", "tgprep extract --no-such", "tgprep extract a b c", "tgprep extract --store tape",
        "tgtrain run --set optimiser.epoch=3", "tgtrain run --recipe ucf101-11",
    ):  # fmt: skip
        with pytest.raises((click.UsageError, AssertionError)):
            require_known(line)


@pytest.mark.parametrize("page", PAGES)
def test_programs_know_every_command_and_option_in_the_text(page: str) -> None:
    for span in re.findall(r"`((?:tgprep|tgtrain) [a-z-][^`]*)`", PAGES[page]):
        program, name, *rest = span.replace("\\|", "|").split()
        group = PROGRAMS[program]
        if name.startswith("-"):
            continue
        command = group.get_command(click.Context(group), name.strip(".,:"))
        assert command is not None, f"{page}: `{span}`"
        known = {each for parameter in command.params for each in (*parameter.opts, *parameter.secondary_opts)}
        for word in rest:
            if re.fullmatch(r"--[a-z][a-z-]*.*", word):
                assert re.match(r"--[a-z-]+", word)[0] in {*known, "--help"}, f"{page}: `{span}`: {word}"  # type: ignore[index]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_run_or_says_what_it_needs(page: str) -> None:
    if page.startswith("docs/cluster"):
        return  # the page says so: all of it needs a cluster
    if page in RUN_BY:
        assert Path(page).stem in (ROOT / RUN_BY[page]).read_text("utf-8")
    for language, text in blocks(page):
        if language in ("bash", "python"):
            makes = all(line.startswith("make ") for line in text.splitlines())
            assert makes or page in RUN_BY, f"{page}: no test runs\n{text}"
        elif language == "sh":
            before = PAGES[page].split(f"```sh\n{text}")[0].strip().splitlines()[-1]
            assert "Needs" in before, f"{page}: what does it need?\n{text}"
        else:
            assert language != "console", f"{page}: ```bash if a test runs it, else ```sh"


def test_targets_of_make_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    named = {name for text in PAGES.values() for name in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)}
    assert {"demo", "test", "docs", "check"} <= named
    for name in named:
        assert re.search(rf"^{name}:", makefile, re.MULTILINE), name


# ---- what runs here


def write_videos(folder: Path) -> None:
    for number in range(12):
        write_video(folder / f"class{number % 3}/v_g{number // 3:02d}_c01.avi", moving_square(20, start=9 * number))


def call(line: str, *more: str) -> str:
    program, *words = shlex.split(line, comments=True)
    done = CliRunner().invoke(PROGRAMS[program], [*words, *more], catch_exceptions=False)
    assert done.exit_code == 0, f"{line}\n{done.output}"
    return done.output


def test_commands_of_readme_and_past_the_paper_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_videos(Path("videos"))
    said = {}
    for page in ("README.md", "docs/beyond.md"):
        for _, text in blocks(page, "bash"):
            for line in text.splitlines():
                if not line.startswith("make "):
                    said[line] = call(line, *(LITTLE if line.startswith("tgtrain run") else ()))
    assert len(said) == 8
    assert len(list(Path("runs").glob("*/checkpoints/*.pt"))) >= 3
    assert read_facts(Path("runs/teacher")).config.method.teacher == "ema"
    assert list(Path("runs").glob("*/report.html"))


def test_examples_of_extending_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_videos(Path("videos"))
    names: dict[str, object] = {"__name__": "__main__"}
    for language, text in blocks("docs/extending.md", "bash", "python"):
        if language == "python":
            exec(compile(text, "docs/extending.md", "exec"), names)
        else:
            for line in text.splitlines():
                call(line)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed[:2]] == ["0", "1"]
    assert printed[-1] == "[(4, 4, 16, 16), (8, 4, 8, 8), (16, 4, 4, 4), (32, 4, 2, 2)] (2, 3)"


def test_places_that_extending_names_exist() -> None:
    for line in PAGES["docs/extending.md"].splitlines():
        spans = re.findall(r"`([^`]+)`", line)
        files = [ROOT / span for span in spans if re.fullmatch(r"[\w/]+\.py|tests/[\w/]+", span)]
        for file in files:
            assert file.exists(), file
    for file, words in {
        "manifests/datasets.py": ("OFFICIAL", "def name_fits"),
        "manifests/lists/official.py": ("def find_official", "def expected_files"),
        "tgprep/obtain/download.py": ("SOURCES",),
        "tgtrain/method/settings.py": ("class MethodSettings", "def __post_init__"),
        "tgtrain/method/step.py": ("def loss_terms",),
        "tgtrain/method/terms.py": ("class Terms", "def named_values"),
        "tgtrain/method/networks/settings.py": ("BackboneName",),
        "tgtrain/method/networks/model.py": ("def _backbone",),
    }.items():
        assert file in PAGES["docs/extending.md"]
        assert all(word in (ROOT / file).read_text("utf-8") for word in words), file


# ---- what pages quote


def texts_of_the_program() -> Iterator[str]:
    """Every text in the source; what is filled in at run time is left out."""
    for room in ("cli", "tgprep", "tgtrain", "manifests"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    yield "".join(part.value for part in node.values if isinstance(part, ast.Constant))  # type: ignore[misc]
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def test_messages_of_troubleshooting_are_those_of_the_program() -> None:
    texts = set(texts_of_the_program())
    messages = re.findall(r"^\| `+ ?(.+?) ?`+ \| ", PAGES["docs/troubleshooting.md"], re.MULTILINE)
    assert len(messages) > 25
    for message in messages:
        pieces = [piece.strip() for piece in message.split("…") if len(piece.strip()) > 3]
        assert any(all(piece in text for piece in pieces) for text in texts), message


def test_published_figures_of_readme_are_those_of_the_recipes() -> None:
    from tgtrain.config import load_recipe

    rows = re.findall(r"^\| [^|]+ \| ([\d.]+|no source at hand) \| not run \| `tgtrain run --recipe (\S+)` \| ([\d.]+) \|$", PAGES["README.md"], re.MULTILINE)  # fmt: skip
    assert len(rows) == 7
    for figure, recipe, _ in rows:
        published = load_recipe(recipe).published
        if figure == "no source at hand":
            assert published == ""
        else:
            assert f"top-1 {figure} %" in published
            assert "SeFAR, arXiv 2501.01245, table 2" in published
    hours = dict(re.findall(r"^\| `([\w-]+)` \| [\d,]+ \| ([\d.]+) \|$", PAGES["docs/gpus.md"], re.MULTILINE))
    assert {recipe: hours[recipe] for _, recipe, _ in rows if recipe in hours} == {
        recipe: each for _, recipe, each in rows if recipe in hours
    }


def test_measured_figures_are_those_of_the_results() -> None:
    results = ROOT / "benchmarks/results"
    ways = json.loads((results / "extract.json").read_text())["ways"]
    num_bytes = ways["tgprep, 1 worker"]["bytes"] / 2  # of two copies of 150 clips
    assert f"{num_bytes / 1e6:.0f} MB" == "782 MB"
    frames = 2_483_295 / 22_786  # of all videos, and of these clips, which are shorter than most
    assert round(num_bytes * frames / 1e9) == 85
    assert round(ways["tgprep, 1 worker, derived"]["bytes"] / 2 * frames / 1e9) == 55
    video = json.loads((results / "store_video.json").read_text())["commands"]
    size = {name: row["kB_a_video"] for name, row in video.items()}
    assert (round(size["JPEG, TG derived"] / size["video"]), round(size["JPEG, TG stored"] / size["video"])) == (6, 10)
    terabytes = {name: each * 260_000 / 1e9 for name, each in size.items()}
    assert f"{terabytes['JPEG, TG stored']:.1f} TB" == "3.9 TB"
    assert f"{terabytes['video']:.2f}" == "0.41"
    for page in ("README.md", "docs/datasets.md"):
        assert "782 MB" in PAGES[page]
        assert "about 85 GB" in PAGES[page]
        assert "a tenth" in PAGES[page]
    for figure in re.findall(r"\| ([\d,]+) \| [\d,]+ \|$", PAGES["README.md"], re.MULTILINE):
        assert re.search(rf"\| {figure} \|", PAGES["docs/benchmarks.md"]), figure


def test_gains_of_readme_are_those_of_the_results() -> None:
    (table,) = re.findall(r"<!-- results: .*?-->(.*?)<!-- end of results -->", PAGES["README.md"], re.DOTALL)
    assert table.strip() in PAGES["docs/results.md"]
    assert table.count("\n| ") > 2
