"""What people wrote into README.md and croissant.json stays, or the command says that it does not go on."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.prep import main
from manifests.card import plain_text, write_card
from tests.prep.share.support import body, front_matter
from tests.train.support import write_data_set

MARKS = "<!-- tgprep card: begin", "<!-- tgprep card: end -->"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_data_set(tmp_path / "mine", num_frames=2, groups=3, num_classes=1)
    return tmp_path / "mine"


def call(root: Path, *words: str, code: int = 0) -> str:
    done = CliRunner().invoke(main, ["card", str(root), *words], catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done.output


@pytest.mark.parametrize("num_unlabelled", [0, 1234])
def test_the_card_of_an_extraction_is_replaced(root: Path, num_unlabelled: int) -> None:
    write_card(root, {"train": "shard-*.tar"}, plain_text(num_unlabelled))
    with (root / "README.md").open("a") as file:
        file.write("My own line.\n")
    call(root)
    text = (root / "README.md").read_text()
    assert "THIS FOLDER" not in text
    assert "1,234 of the videos" not in text
    assert text.endswith("<!-- tgprep card: end -->\nMy own line.\n")
    assert body(text).strip().startswith(MARKS[0])


OWN = """---
# Written by hand.
language: [en]
license:   mit   # agreed with the lab
tags:
- mine
extra: >
  folded
   text
# The last comment.
size_categories: [1K<n<10K]
---
# My data

It is mine. A `---` in a line, and:

---
"""


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_text_and_keys_of_others_stay(root: Path, ends: str) -> None:
    (root / "README.md").write_bytes(OWN.replace("\n", ends).encode())
    assert "no licence" not in call(root)
    text = (root / "README.md").read_text()
    data = front_matter(text)
    assert (data["language"], data["license"], data["tags"], data["extra"]) == (
        ["en"],
        "mit",
        ["mine"],
        "folded\n text\n",
    )
    assert data["size_categories"] == ["n<1K"]
    assert "configs" in data
    assert "# Written by hand." in text
    assert "# The last comment." in text
    assert body(text).strip().startswith(OWN.split("---\n", 2)[2].strip())
    assert "Licence: mit" in text
    assert json.loads((root / "croissant.json").read_bytes())["license"] == "mit"
    (root / "README.md").write_text(text + "\nBelow.\n")
    call(root, "--license", "cc0-1.0")
    again = (root / "README.md").read_text()
    assert again.endswith("\n\nBelow.\n")
    assert again.count(MARKS[0]) == again.count(MARKS[1]) == 1
    assert front_matter(again)["license"] == "cc0-1.0"
    assert body(again).split(MARKS[0])[0] == body(text).split(MARKS[0])[0]


def test_a_licence_that_its_owner_edited_counts(root: Path) -> None:
    call(root, "--license", "mit")
    text = (root / "README.md").read_text()
    for edited, stated in (("license:\n- gpl-3.0\n- mit\n", "The metadata of this card state the licence."), ("license: 'cc0-1.0'\n", "Licence: cc0-1.0")):  # fmt: skip
        (root / "README.md").write_text(text.replace("license: mit\n", edited))
        assert "no licence" not in call(root)
        assert edited in (root / "README.md").read_text()
        assert stated in (root / "README.md").read_text()
    assert json.loads((root / "croissant.json").read_bytes())["license"] == "cc0-1.0"


def test_an_owner_s_list_of_shards_stays_with_a_note(root: Path) -> None:
    own = "---\nconfigs:\n- config_name: other\n  data_files: shard-000000.tar\n---\n"
    (root / "README.md").write_text(own)
    assert "its `configs` stay" in call(root)
    assert front_matter((root / "README.md").read_text())["configs"] == [
        {"config_name": "other", "data_files": "shard-000000.tar"}
    ]
    assert "its `configs` stay" not in call(root, "--force")
    assert front_matter((root / "README.md").read_text())["configs"][0]["config_name"] == "default"


def test_a_card_that_the_hub_wrote_again_is_known(root: Path) -> None:
    """Its page sorts nothing, but indents lists and quotes as it likes."""
    call(root)
    text = (root / "README.md").read_text()
    for before, after in (("- config_name: default", "  - config_name: 'default'"), ("  data_files:", "    data_files:"), ("  - split", "      - split"), ("    path: shard-*.tar", '        path: "shard-*.tar"')):  # fmt: skip
        text = text.replace(before, after)
    (root / "README.md").write_text(text)
    assert "configs" not in call(root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe no text", "byte 0 is no UTF-8"),
        (b"---\nlicense: mit\n", "has no second `---`"),
        (b"---\n{license: mit}\n---\n", "line 2 of the front matter"),
        (b"mine\n<!-- tgprep card: begin x -->\nhalf\n", "1 lines `<!-- tgprep card: begin ... -->` and 0 lines"),
        (b"<!-- tgprep card: end -->\n<!-- tgprep card: begin x -->\n", "expected one of each, in this order"),
        (b"<!-- tgprep card: begin x -->\n<!-- tgprep card: end -->\n" * 2, "2 lines"),
    ],
)
def test_what_cannot_be_kept_is_refused(root: Path, content: bytes, message: str) -> None:
    (root / "README.md").write_bytes(content)
    output = call(root, code=2)
    assert message in output
    assert "--force" in output
    assert (root / "README.md").read_bytes() == content
    assert not (root / "croissant.json").exists()
    call(root, "--force")
    assert front_matter((root / "README.md").read_text())["pretty_name"] == "mine"


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"name": "mine"}', b'{"sdPublisher": {"name": "another"}}'])
def test_a_croissant_json_of_others_is_refused(root: Path, content: bytes) -> None:
    (root / "croissant.json").write_bytes(content)
    assert "Move it elsewhere, or replace it with --force." in call(root, code=2)
    assert (root / "croissant.json").read_bytes() == content
    assert not (root / "README.md").exists()
    call(root, "--force")
    assert json.loads((root / "croissant.json").read_bytes())["name"] == "mine"


def test_facts_of_a_stranger_s_card_are_checked(root: Path) -> None:
    call(root, "--homepage", "https://a.example")
    described = json.loads((root / "croissant.json").read_bytes())
    described |= {
        "url": "javascript:alert(1)",
        "license": "<script>",
        "citeAs": ["x"],
        "creator": {"name": "a\nb"},
        "datePublished": 5,
    }
    (root / "croissant.json").write_text(json.dumps(described))
    call(root)
    again = json.loads((root / "croissant.json").read_bytes())
    assert not {"url", "license", "citeAs", "creator", "datePublished"} & set(again)
    assert "javascript" not in (root / "README.md").read_text()


@pytest.mark.parametrize("name", ["README.md", "croissant.json"])
def test_a_link_is_not_followed(root: Path, tmp_path: Path, name: str) -> None:
    """What it leads to would be read into the card, and published."""
    (tmp_path / "secret").write_text("secret")
    (root / name).symlink_to(tmp_path / "secret")
    assert f"{name} is a link" in call(root, code=2)
    call(root, "--force")
    assert not (root / name).is_symlink()
    assert "secret" not in (root / name).read_text()
    assert (tmp_path / "secret").read_text() == "secret"


def test_what_is_no_file_ends_in_one_message(root: Path) -> None:
    os.mkfifo(root / "README.md")
    assert "it is a FIFO, expected a file" in call(root, code=2)
    (root / "README.md").unlink()
    (root / "README.md").mkdir()
    assert "README.md: Is a directory" in call(root, code=2)
