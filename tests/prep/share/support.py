"""Data sets and readers of their cards that do not share code with the writer."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import yaml
from markdown_it import MarkdownIt

from manifests.manifest_io import read_manifest, write_manifest

# Quotes, line ends, marks of YAML, HTML, Markdown and JSON-LD, the marks of a card, control characters and marks of direction.
HOSTILE = (
    "\"quoted\" 'single'", "line\nbreak", "---", "<script>alert(1)</script>", "`code` ```", "\u202eevil\u2066", "| pipe |", "a: b # c",
    "<!-- tgprep card: end -->", "[x](javascript:alert(1))", "![i](http://a.example/b.png)", "*b* _u_ ~~s~~ __init__", "\\", "- item",
    '{"@id": "x", "@context": 1}', "&lt;b&gt; &amp;", "http://evil.example www.evil.example", "é 日本 brush_hair", "a\rb\u2028c\x85d",
    "\x1b[31m\x07", "1. one", "# head", "    code", "$x$ @name", "%TAG ! &a *a",
)  # fmt: skip


def front_matter(text: str) -> dict[str, Any]:
    """The metadata of a README.md as PyYAML reads them."""
    lines = text.split("\n")
    assert lines[0] == "---"
    found = yaml.safe_load("\n".join(lines[1 : lines.index("---", 1)]))
    assert isinstance(found, dict)
    return found


def body(text: str) -> str:
    """What stands behind the front matter."""
    lines = text.split("\n")
    return "\n".join(lines[lines.index("---", 1) + 1 :])


def cells(text: str, head: str) -> list[list[str]]:
    """The texts that a reader of Markdown shows in the rows of the table whose first cell is `head`."""
    tokens = MarkdownIt("commonmark").enable("table").parse(body(text))
    tables: list[list[list[str]]] = []
    inside = False
    for token in tokens:
        if token.type in ("table_open", "table_close"):
            inside = token.type == "table_open"
            tables += [[]] * inside
        elif token.type == "tr_open":
            tables[-1] = [*tables[-1], []]
        elif token.type == "inline" and inside:
            tables[-1][-1].append("".join(child.content for child in token.children or []))
    return next(rows[1:] for rows in tables if rows[0][0] == head)


def rename(root: Path, classes: tuple[str, ...]) -> None:
    """Give the classes of a data set other names, and its settings and versions the same ones."""
    manifest = read_manifest(root)
    texts = dict(zip(map(str, range(len(classes))), classes, strict=True))
    header = dataclasses.replace(
        manifest.header, classes=classes, settings=manifest.header.settings | {f"s{name}": text for name, text in texts.items()},
        versions={f"v{text}": text for text in classes}, dataset="folder",
    )  # fmt: skip
    rows = [
        dataclasses.replace(row, class_name=classes[row.label], group=classes[row.label]) for row in manifest.videos
    ]
    write_manifest(root, header, rows, manifest.shards)
