"""What `mkdocs build` adds to the pages of docs/: README as the home page, and the reference of commands and settings.

The reference is generated from the commands and the settings themselves, so it cannot go stale. Links to files of the
repository lead to copies of them. A page that would fetch anything from another server fails the build.
"""

from __future__ import annotations

import ast
import inspect
import io
import re
import textwrap
import tokenize
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import click

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}  # files outside docs/ that are pages, and their names there
_LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")
_TAG = re.compile(r"<(?:script|link|img|iframe|source|video|audio|embed|object|input|image|use)\b[^>]*>", re.IGNORECASE)
_ATTRIBUTE = re.compile(r"""\b(?:src|href|srcset|data|poster)\s*=\s*["']?\s*((?:https?:)?//[^"'\s>]+)""", re.IGNORECASE)
_STYLE = re.compile(r"""(?:url\(\s*|@import\s+)["']?((?:https?:)?//[^"')\s]+)""", re.IGNORECASE)


# ---- pages that are made


def commands_page() -> str:
    """Every command with its arguments, options and exit codes, from click."""
    from cli.prep import main as prep
    from cli.train import main as train

    parts = [
        "# Commands",
        "Generated from the commands; `--help` prints the same. `-h` and `--help` are options of each.",
    ]
    for program, group in (("tgprep", prep), ("tgtrain", train)):
        parts.append(f"## {program}\n\n{group.help.split(chr(8))[0].strip() if group.help else ''}")
        context = click.Context(group, info_name=program)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            parts += _command(command, f"{program} {name}")
    return "\n\n".join(parts) + "\n"


def _command(command: click.Command, name: str) -> Iterator[str]:
    context = click.Context(command, info_name=name)
    yield f"### {name}"
    yield f"```text\n{' '.join((name, *command.collect_usage_pieces(context)))}\n```"
    yield _paragraphs(command.help or "")
    rows = []
    for parameter in command.params:
        if not isinstance(parameter, click.Option) or parameter.hidden:
            continue
        record = parameter.get_help_record(context)
        if record is not None:
            spelled, text = record
            rows.append(f"| {_code(spelled)} | {_cell(_plain(text))} |")
    if rows:
        yield "| option | meaning |\n|---|---|\n" + "\n".join(rows)


def _paragraphs(text: str) -> str:
    """Help text as Markdown: blocks that click prints as they stand are code."""
    parts = []
    for block in inspect.cleandoc(text).split("\n\n"):
        if block.startswith("\b") and block.strip("\b\n").count("\n"):
            parts.append("```text\n" + block.removeprefix("\b").strip("\n") + "\n```")
        else:
            parts.append(_plain(" ".join(block.strip("\b").split())))
    return "\n\n".join(parts)


def settings_page() -> str:
    """Every setting of a recipe with default, values and meaning, from the classes that hold them."""
    from tgtrain.config import Config

    parts = [
        "# Settings of a recipe",
        "Generated from the settings. Defaults are those of the main recipe, `ucf101-20`, unless a recipe says otherwise:"
        " `tgtrain recipes NAME` prints all of one. `--set section.key=value` changes one."
        " [recipes.md](recipes.md) says what to know before.",
    ]
    hints = get_type_hints(Config)
    for section in fields(Config):
        kind = hints[section.name]
        if not hasattr(kind, "__dataclass_fields__"):
            continue
        meanings, annotations = comments_of(kind)
        rows = []
        for each in fields(kind):
            given = each.default if each.default is not MISSING else "of the data set"
            annotation = _values(annotations[each.name])
            name = f'<code class="setting">{each.name}</code>'
            rows.append(f"| {name} | `{_shown(given)}` | {_cell(annotation)} | {_cell(_plain(meanings[each.name]))} |")
        head = "| setting | default | values | meaning |\n|---|---|---|---|"
        parts.append(f"## {section.name}\n\n{_plain(inspect.getdoc(kind) or '')}\n\n{head}\n" + "\n".join(rows))
    return "\n\n".join(parts) + "\n"


def comments_of(kind: type[Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Of each field of a class: what the docstring below it or the comment beside it says, and its annotation as written."""
    source = textwrap.dedent(inspect.getsource(kind))
    (tree,) = ast.parse(source).body
    assert isinstance(tree, ast.ClassDef)
    beside = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT and token.line.strip() != token.string
    }
    meanings, annotations = {}, {}
    for node, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            texts = [
                beside[line] for line in range(node.lineno, (node.end_lineno or node.lineno) + 1) if line in beside
            ]
            match after:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    texts.append(" ".join(text.split()))
            name = node.target.id
            meanings[name] = " ".join(texts)
            annotations[name] = ast.unparse(node.annotation)
    return meanings, annotations


def _values(annotation: str) -> str:
    """The values of a setting, from its type as written: named types are resolved to what they stand for."""
    from tgtrain import config
    from tgtrain.method import optimiser, settings
    from tgtrain.method.networks import settings as networks

    for module in (config, settings, networks, optimiser):
        if (named := vars(module).get(annotation)) is not None:
            annotation = str(named).replace("typing.", "")
            break
    if choices := re.search(r"Literal\[(.*)\]", annotation):
        text = ", ".join(f"`{choice.strip().strip(chr(39))}`" for choice in choices[1].split(","))
        return f"any of {text}" if annotation.startswith("tuple") else text
    bounds = dict(re.findall(r"\b(ge|gt|le|lt)=([^,)\]]+)", annotation))
    kind = re.search(r"\b(bool|int|float|str|tuple)\b", annotation)
    text = {"bool": "true, false", "int": "whole number", "float": "number", "str": "text", "tuple": "list"}
    words = {"ge": "from", "gt": "above", "le": "to", "lt": "below"}
    shown = [f"{words[name]} {_number(value)}" for name, value in sorted(bounds.items())]
    return ", ".join([text[kind[0]] if kind else annotation, " ".join(shown)]).removesuffix(", ")


def _number(text: str) -> str:
    value = ast.literal_eval(text) if re.fullmatch(r"[\d_.e+-]+", text.strip()) else text.strip()
    return f"{value:,}" if isinstance(value, int) else str(value)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(map(str, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _plain(text: str) -> str:
    """Text of a program as Markdown: what it would take for markup is shown as it stands, but not in `code`."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(piece if piece.startswith("`") else re.sub(r"([*_<>\[\]])", r"\\\1", piece) for piece in pieces)


def _code(text: str) -> str:
    """Code in a cell of a table, where `|` would end the cell."""
    return f"<code>{text.replace('|', '&#124;').replace('<', '&lt;')}</code>"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# ---- links


def links_of(text: str) -> Iterator[str]:
    """The files that a page links to, as written."""
    for match in _LINK.finditer(_without_code(text)):
        yield match[1]


def _without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)


def site_path(page: Path, link: str) -> str:
    """Where a link of a page (both in the repository) leads in the site: a page, or a copy of the file below `source/`."""
    target = (page.parent / link).resolve().relative_to(ROOT)
    if str(target) in PAGES:
        return PAGES[str(target)]
    if target.parts[0] == "docs":
        return str(Path(*target.parts[1:]))
    return f"source/{target}.txt" if target.suffix not in (".png", ".jpg", ".svg") else f"source/{target}"


def for_site(text: str, page: Path) -> str:
    """The Markdown of a page of the repository with links as the site has them."""
    return _LINK.sub(lambda match: f"]({site_path(page, match[1])}{match[2] or ''})", text)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made, and the files outside docs/ that pages link to."""
    from mkdocs.structure.files import File

    made = {"commands.md": commands_page(), "settings.md": settings_page()}
    made |= {name: for_site((ROOT / file).read_text("utf-8"), ROOT / file) for file, name in PAGES.items()}
    made["index.md"] = "---\nhide: [navigation]\n---\n" + made["index.md"]
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    pages = [ROOT / file for file in PAGES] + sorted((ROOT / "docs").glob("*.md"))
    for page in pages:
        for link in links_of(page.read_text("utf-8")):
            place = site_path(page, link)
            if place.startswith("source/") and files.get_file_from_path(place) is None:
                files.append(File.generated(config, place, content=(page.parent / link).read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Let links of the pages of docs/ lead to the copies of files outside."""
    if page.file.generated_by:
        return markdown
    return for_site(markdown, ROOT / "docs" / page.file.src_uri)


# ---- no outside requests


def outside_requests(html: str) -> list[str]:
    """Addresses of other servers that a browser would fetch for a page or a style sheet; links that a reader may click are none."""
    found = [each for tag in _TAG.findall(html) if "canonical" not in tag for each in _ATTRIBUTE.findall(tag)]
    return found + _STYLE.findall(html)


def on_post_build(config: MkDocsConfig) -> None:
    """Fail if a page or a style sheet fetches anything from another server."""
    from mkdocs.exceptions import PluginError

    site = Path(config.site_dir)
    for path in sorted((*site.rglob("*.html"), *site.rglob("*.css"), *site.rglob("*.svg"))):
        if found := outside_requests(path.read_text("utf-8")):
            raise PluginError(
                f"{path.relative_to(site)} fetches {', '.join(found[:3])}: the site must ask no other server."
            )
