"""The same files give the same bytes and messages in every locale: names are UTF-8, whatever the locale takes them for."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from manifests.files import digest_of
from tests.prep.support import moving_square, write_video

NAMES = ("Übung", "走る")
# Without the UTF-8 mode that Python chooses for the C locale by itself.
PLAIN_C = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def run(*words: str, program: str = "prep", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run `tgprep` or `tgtrain` with the words as UTF-8; environment: what differs from ours."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHONUTF8"))}
    command = [sys.executable, "-m", f"tg{program}", *(word.encode() for word in words)]
    return subprocess.run(command, capture_output=True, check=False, env=ours | environment, timeout=120)


@pytest.fixture(scope="module")
def locales(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Locales that few machines have."""
    folder = tmp_path_factory.mktemp("locales")
    program = shutil.which("localedef")
    if program is None:
        pytest.skip("no program localedef")
    for language, characters in (("en_US", "ISO-8859-1"), ("zh_TW", "BIG5")):
        made = subprocess.run(
            [program, "-c", "-f", characters, "-i", language, str(folder / f"{language}.{characters}")],
            capture_output=True,
            check=False,
        )
        if not (folder / f"{language}.{characters}/LC_CTYPE").is_file():
            pytest.skip(f"localedef: {made.stderr.decode()}")
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("locale") / "vidéos"
    for name in NAMES:
        write_video(root / name / f"{name}.avi", moving_square(3))
    (root / "list.csv").write_text("path,label\n" + "".join(f"{name}/{name}.avi,{name}\n" for name in NAMES), "utf-8")
    return root


def digests(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            found[path.name] = digest_of(file)[0]
    return found


def test_a_data_set_is_the_same_in_every_locale(videos: Path, locales: Path, tmp_path: Path) -> None:
    latin = {"LC_ALL": "en_US.ISO-8859-1", "LOCPATH": str(locales)}
    chinese = {"LC_ALL": "zh_TW.BIG5", "LOCPATH": str(locales)}
    lists = ["--dataset", "csv", "--annotations", str(videos / "list.csv")]
    for name, environment in (("utf8", {}), ("c", PLAIN_C), ("latin", latin), ("big5", chinese)):
        made = run("extract", str(videos), str(tmp_path / f"{name}é"), "--threads", "1", *lists, **environment)
        assert made.returncode == 0, made.stderr.decode("utf-8", "replace")
        assert f"{name}é".encode() in made.stderr
        assert digests(tmp_path / f"{name}é") == digests(tmp_path / "utf8é")
    header = json.loads((tmp_path / "latiné/dataset.json").read_bytes())
    assert sorted(header["classes"]) == sorted(NAMES)


def test_results_can_be_printed_in_every_encoding(videos: Path, locales: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "ß走")
    assert run("extract", str(videos), out, "--threads", "1").returncode == 0
    as_json = run("info", out, "--json", PYTHONIOENCODING="ascii")
    assert json.loads(as_json.stdout) == json.loads(run("info", out, "--json").stdout)
    for environment, shown in (
        ({"PYTHONIOENCODING": "latin-1"}, b"\xdf\\u8d70"),
        ({"PYTHONIOENCODING": "ascii"}, b"\\xdf\\u8d70"),
        (PLAIN_C, "ß走".encode()),
        ({"LC_ALL": "en_US.ISO-8859-1", "LOCPATH": str(locales)}, "ß走".encode()),
    ):
        told = run("info", out, **environment)
        assert told.returncode == 0
        assert shown in told.stdout
    assert "Übung".encode() in run("info", str(tmp_path / "Übung"), program="train", **PLAIN_C).stderr


def test_a_terminal_gets_its_own_encoding(tmp_path: Path, locales: Path) -> None:
    for characters, shown in (("en_US.ISO-8859-1", b"\xdcbung"), ("zh_TW.BIG5", rb"\xdcbung")):
        ours, theirs = pty.openpty()
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "PYTHONUTF8"))}
        subprocess.run(
            [sys.executable, "-m", "tgprep", "info", str(tmp_path / "Übung").encode()],
            env=environment | {"LC_ALL": characters, "LOCPATH": str(locales)},
            stderr=theirs,
            check=False,
        )
        os.close(theirs)
        text = os.read(ours, 10_000)
        os.close(ours)
        assert shown in text
        assert b"Traceback" not in text
