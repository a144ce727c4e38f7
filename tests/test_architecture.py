"""Imports go one way, commands answer before they load anything heavy, and every recipe and template is installed."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("manifests", "tgprep", "tgtrain", "cli")
ALLOWED = {
    "manifests": {"manifests"},
    "tgprep": {"manifests", "tgprep"},
    "tgtrain": {"manifests", "tgtrain"},
    "cli": set(PACKAGES),
}
HEAVY = {"torch", "cv2", "av", "pyarrow", "matplotlib", "decord", "joblib", "webdataset"}


def imports(path: Path) -> set[str]:
    """Top-level packages that a module imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_one_way(package: str) -> None:
    for path in sorted((ROOT / package).rglob("*.py")):
        ours = imports(path) & set(PACKAGES)
        assert ours <= ALLOWED[package], f"{path.relative_to(ROOT)} imports {ours - ALLOWED[package]}"


def test_what_both_sides_share_needs_no_torch_click_or_decoder() -> None:
    for path in sorted((ROOT / "manifests").rglob("*.py")):
        assert not imports(path) & {"torch", "click", "av", "cv2", "decord", "rich", "pydantic", "simplejpeg"}, path


def test_extraction_needs_no_torch() -> None:
    for path in sorted((ROOT / "tgprep").rglob("*.py")):
        assert not imports(path) & {"torch", "tensorboard", "matplotlib"}, path


@pytest.mark.parametrize("command", ["prep", "train"])
def test_help_loads_nothing_heavy(command: str) -> None:
    code = (
        f"import sys; from cli.{command} import main; main(['--help'], standalone_mode=False); "
        f"loaded = sorted({HEAVY!r} & set(sys.modules)); assert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout


@pytest.mark.parametrize(
    ("command", "name"), [("prep", "extract"), ("prep", "split"), ("prep", "info"), ("prep", "sample"), ("train", "run"),
                          ("train", "test"), ("train", "recipes"), ("train", "report")]
)  # fmt: skip
def test_help_of_every_command_needs_no_torch(command: str, name: str) -> None:
    code = (
        f"import sys; from cli.{command} import main; main(['{name}', '--help'], standalone_mode=False); "
        f"loaded = sorted({{'torch', 'av', 'matplotlib', 'decord'}} & set(sys.modules)); assert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_folder_with_python_in_it_is_installed() -> None:
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {
        str(path.parent.relative_to(ROOT)).replace("/", ".")
        for name in PACKAGES
        for path in (ROOT / name).rglob("*.py")
    }
    assert set(setup["tool"]["setuptools"]["packages"]) == folders
    for folder in folders:
        assert (ROOT / folder.replace(".", "/") / "__init__.py").exists(), folder


def test_no_command_module_shadows_a_package() -> None:
    assert not {"tgprep.py", "tgtrain.py", "manifests.py"} & {path.name for path in (ROOT / "cli").rglob("*.py")}
