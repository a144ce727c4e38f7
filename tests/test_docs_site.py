"""The site of docs/ (`make docs`): what its hook makes is complete, links lead somewhere, and a page that fetches fails the build."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import get_type_hints

import click
import pytest

import cli.prep
import cli.train

ROOT = Path(__file__).parents[1]
MADE = ("index.md", "contributing.md", "security.md", "changelog.md", "commands.md", "settings.md")


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs/site_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_has_its_place() -> None:
    named = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    assert len(named) == len(set(named))
    assert set(named) == {path.name for path in (ROOT / "docs").glob("*.md")} | set(MADE), "see nav in mkdocs.yml"


def test_commands_have_all_options(hooks: ModuleType) -> None:
    page = hooks.commands_page()
    for program, group in (("tgprep", cli.prep.main), ("tgtrain", cli.train.main)):
        context = click.Context(group)
        for name in group.list_commands(context):
            (section,) = re.findall(rf"^### {program} {name}\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL)
            command = group.get_command(context, name)
            assert command is not None
            for parameter in command.params:
                if isinstance(parameter, click.Option) and not parameter.hidden:
                    assert parameter.opts[0] in section, (name, parameter.opts)
            rows = [line for line in section.splitlines() if line.startswith("| <code>")]
            assert all(line.count("|") == 3 for line in rows)
    assert "Exit codes: 0" in page
    assert "\b" not in page


def test_settings_have_defaults_values_and_meanings(hooks: ModuleType) -> None:
    from tgtrain.config import Config

    page, hints = hooks.settings_page(), get_type_hints(Config)
    for section in fields(Config):
        kind = hints[section.name]
        if not hasattr(kind, "__dataclass_fields__"):
            continue
        (text,) = re.findall(rf"^## {section.name}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
        rows = dict(re.findall(r'^\| <code class="setting">(\w+)</code> \| (.*) \|$', text, re.MULTILINE))
        assert list(rows) == [each.name for each in fields(kind)]
        for name, row in rows.items():
            default, values, meaning = row.split(" | ")
            assert default, name
            assert values, name
            assert meaning.strip(), f"{section.name}.{name}: say what it is, below it or beside it"
            assert "Annotated" not in values, name
            assert "typing" not in values, name
    assert '| <code class="setting">threshold</code> | `0.3` | number | Least probability' in page
    assert "`r3d`, `slowonly`, `videomae`" in page
    assert "whole number, from 16 to 1,024" in page


def anchors(text: str) -> set[str]:
    """The names of the headings of a page, as the site gives them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings)
    return {re.sub(r"[-\s]+", "-", heading) for heading in plain}


def test_links_lead_somewhere(hooks: ModuleType) -> None:
    made = {"commands.md": hooks.commands_page(), "settings.md": hooks.settings_page()}
    pages = {ROOT / file: (ROOT / file).read_text("utf-8") for file in hooks.PAGES}
    pages |= {path: path.read_text("utf-8") for path in (ROOT / "docs").glob("*.md")}
    pages |= {ROOT / "docs" / name: text for name, text in made.items()}
    for page, text in pages.items():
        for match in hooks._LINK.finditer(hooks._without_code(text)):
            target = (page.parent / match[1]).resolve()
            assert target in pages or target.is_file(), f"{page.name}: {match[1]}"
            if match[2] and target in pages:
                assert match[2].removeprefix("#") in anchors(pages[target]), f"{page.name}: {match[1]}{match[2]}"
        for anchor in re.findall(r"\]\(#([^)]+)\)", text):
            assert anchor in anchors(text), f"{page.name}: #{anchor}"


def test_links_of_the_site(hooks: ModuleType) -> None:
    readme, page = ROOT / "README.md", ROOT / "docs" / "own_data.md"
    assert (
        hooks.for_site("[a](docs/videos.md#x) [b](CONTRIBUTING.md)", readme) == "[a](videos.md#x) [b](contributing.md)"
    )
    assert hooks.for_site("![c](docs/frames.jpg)", readme) == "![c](frames.jpg)"
    assert hooks.for_site("[d](../SECURITY.md)", page) == "[d](security.md)"
    assert hooks.for_site("[e](../benchmarks/step.py)", page) == "[e](source/benchmarks/step.py.txt)"
    assert hooks.for_site("[f](https://a.b/c.md) [g](#here)", page) == "[f](https://a.b/c.md) [g](#here)"


@pytest.mark.parametrize(
    ("html", "found"),
    [
        ('<script src="https://cdn.example/x.js"></script>', ["https://cdn.example/x.js"]),
        ("<link rel=stylesheet href=//fonts.example/css>", ["//fonts.example/css"]),
        ('<img alt="a" src="http://example.org/a.png">', ["http://example.org/a.png"]),
        ("<style>@import 'https://a.example/b.css'; p {background: url(//c.example/d.png)}</style>", ["https://a.example/b.css", "//c.example/d.png"]),
        ('<script src="assets/x.js"></script><a href="https://example.org">a link</a><img src="a.png">', []),
    ],
)  # fmt: skip
def test_what_a_page_would_fetch_is_found(hooks: ModuleType, html: str, found: list[str]) -> None:
    assert hooks.outside_requests(html) == found


def test_the_site_is_built_whole(hooks: ModuleType, tmp_path: Path) -> None:
    """Where mkdocs is installed, which `make docs` does: strict, with a search index, and nothing fetched from elsewhere."""
    pytest.importorskip("material", reason="mkdocs-material comes with `make docs`")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site"), strict=True))
    pages = {path.name: path.read_text("utf-8") for path in (tmp_path / "site").glob("*.html")}
    assert {name.replace(".md", ".html") for name in MADE} <= set(pages)
    assert all("fonts.g" not in text and not hooks.outside_requests(text) for text in pages.values())
    assert "duplicates" in (tmp_path / "site/search/search_index.js").read_text("utf-8")
    (tmp_path / "site/bad.html").write_text('<img src="https://example.org/a.png">')
    with pytest.raises(Exception, match=r"bad.html fetches https://example.org/a.png"):
        hooks.on_post_build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site")))
