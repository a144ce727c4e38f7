"""Imports run one way between packages and rooms, commands start fast, and the tree is what README and pyproject say."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("manifests", "tgprep", "tgtrain", "cli")
MAY_IMPORT = {
    "manifests": {"manifests"},
    "tgprep": {"manifests", "tgprep"},
    "tgtrain": {"manifests", "tgtrain"},
    "cli": set(PACKAGES),
}
# A room (a folder, or a module beside the folders) imports only rooms to its right, directly or through others.
ORDER = {
    "manifests": "splits > manifest_io > files > disk > object_store > console; disk > locks; object_store > records; splits > lists > datasets > records; lists > console; files > datasets; "
    "spelling; targets > splits > sample > records; card > files; manifest_io > bounds > table > records; splits > bounds; manifest_io > parquet; locks > records; gradient; machine",
    "tgprep": "check > share > view; share > extract; check > convert > extract > extract.workers > encode > decode > config; view > duplicates > decode; extract.workers > scan > decode; "
    "edit > extract; doctor > decode; obtain; __main__",
    "tgtrain": "train > evaluate > run > data > data.stores; report > evaluate; sweep > evaluate; data > config > method > method.networks; config > log_settings; "
    "method > method.augment > randomness; data > ranks > errors; doctor > data; __main__",
    "cli": "prep > doctor > terminal > common; prep > completion; train > doctor; train > completion",
}
MAX_FILE_LINES = 400  # a file is one idea that can be read in one sitting
MAX_FUNCTION_LINES = 60  # a function fits on one screen
LONG_FILES = {"tgprep/encode/fused_kernels.py"}  # kernels that a compiler inlines into one another stay together
HEAVY = {"torch", "cv2", "av", "pyarrow", "matplotlib", "decord", "joblib", "webdataset"}


@cache
def modules() -> dict[str, Path]:
    """Every module of the four packages by its dotted name; a package by the name of its folder."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }


@cache
def imports(path: Path) -> frozenset[str]:
    """Dotted names that a file imports anywhere in it; `from a import b` counts as a.b."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def top_level(path: Path) -> set[str]:
    """Packages that a file imports."""
    return {name.partition(".")[0] for name in imports(path)}


def imported_modules(module: str) -> set[str]:
    """Modules of this repository that a module imports."""
    found = set()
    for name in imports(modules()[module]):
        target = name if name in modules() else name.rpartition(".")[0]
        if target in modules() and target != module:
            found.add(target)
    return found


def room_of(module: str) -> tuple[str, str]:
    """Package and room of a module: `tgtrain.data.stores.local` is in the room data.stores, `tgtrain.config` is one."""
    package, _, inside = module.partition(".")
    is_folder = modules()[module].name == "__init__.py"
    return package, inside if is_folder or "." not in inside else inside.rpartition(".")[0]


def rooms_to_the_right(package: str) -> dict[str, set[str]]:
    """For each room of a package the rooms that it may import."""
    direct: dict[str, set[str]] = {}
    for chain in ORDER[package].split(";"):
        rooms = [room.strip() for room in chain.split(">")]
        for room in rooms:
            direct.setdefault(room, set())
        for left, right in pairwise(rooms):
            direct[left].add(right)
    reachable: dict[str, set[str]] = {}
    for room in TopologicalSorter(direct).static_order():
        reachable[room] = direct[room].union(*(reachable[right] for right in direct[room]))
    return reachable


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_one_way(package: str) -> None:
    for path in sorted((ROOT / package).rglob("*.py")):
        ours = top_level(path) & set(PACKAGES)
        allowed = MAY_IMPORT[package] | (
            {"cli"} if path.name == "__main__.py" else set()
        )  # a program starts its commands
        assert ours <= allowed, f"{path.relative_to(ROOT)} imports {ours - allowed}"


@pytest.mark.parametrize("package", PACKAGES)
def test_rooms_import_only_rooms_to_their_right(package: str) -> None:
    allowed = rooms_to_the_right(package)
    wrong = []
    for module in modules():
        owner, room = room_of(module)
        if owner != package or not room:
            continue
        assert room in allowed, f"room {room} of {package} is missing in ORDER"
        for target in imported_modules(module):
            target_package, target_room = room_of(target)
            if target_package == package and target_room and target_room not in {room, *allowed[room]}:
                wrong.append(f"{module} imports {target}: {room} > {target_room} is not in ORDER")
    assert not wrong, "\n".join(wrong)


def test_no_import_circle() -> None:
    try:
        TopologicalSorter({module: imported_modules(module) for module in modules()}).prepare()
    except CycleError as error:
        pytest.fail(f"modules import one another: {' -> '.join(error.args[1])}")


def test_manifests_needs_no_torch_click_or_decoder() -> None:
    for path in sorted((ROOT / "manifests").rglob("*.py")):
        assert not top_level(path) & {"torch", "click", "av", "cv2", "decord", "rich", "pydantic", "simplejpeg"}, path


def test_extraction_needs_no_torch() -> None:
    for path in sorted((ROOT / "tgprep").rglob("*.py")):
        assert not top_level(path) & {"torch", "tensorboard", "matplotlib"}, path


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
                          ("train", "test"), ("train", "recipes"), ("train", "report"), ("train", "sweep")]
)  # fmt: skip
def test_help_of_each_command_needs_no_torch(command: str, name: str) -> None:
    code = (
        f"import sys; from cli.{command} import main; main(['{name}', '--help'], standalone_mode=False); "
        f"loaded = sorted({{'torch', 'av', 'matplotlib', 'decord'}} & set(sys.modules)); assert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def folders_with_python() -> set[str]:
    return {str(path.parent.relative_to(ROOT)) for path in modules().values()}


def test_pyproject_lists_every_folder_with_python() -> None:
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = {name.replace(".", "/") for name in setup["tool"]["setuptools"]["packages"]}
    assert listed == folders_with_python()
    for folder in listed:
        assert (ROOT / folder / "__init__.py").exists(), folder


def tree_lines(text: str) -> Iterator[str]:
    """Folders of an indented tree, as paths: the first word of each line that ends in a slash."""
    parents: list[tuple[int, str]] = []
    for line in text.splitlines():
        match = re.match(r"( *)(\w+)/(?: |$)", line)
        if match:
            indent = len(match[1])
            parents = [parent for parent in parents if parent[0] < indent]
            parents.append((indent, match[2]))
            yield "/".join(name for _, name in parents)


def test_tree_of_readme_is_the_real_tree() -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## The tree\n")[1]
    listed = list(tree_lines(section.split("```")[1]))
    assert len(set(listed)) == len(listed), "a folder is listed twice"
    assert {folder for folder in listed if folder.partition("/")[0] in PACKAGES} == folders_with_python()
    for folder in listed:
        assert (ROOT / folder).is_dir(), f"README names {folder}/, which does not exist"


def test_no_command_module_shadows_a_package() -> None:
    assert not {"tgprep.py", "tgtrain.py", "manifests.py"} & {path.name for path in (ROOT / "cli").rglob("*.py")}


def test_tests_share_helpers_only_through_support_modules() -> None:
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for name in imports(path):
            parts = name.split(".")
            inside = any(part.startswith("test_") and (ROOT / "tests").joinpath(*parts[1:k], f"{part}.py").exists()
                         for k, part in enumerate(parts) if parts[0] == "tests")  # fmt: skip
            assert not inside, f"{path.relative_to(ROOT)} imports {name}: move what it needs to a support module"


@pytest.mark.parametrize("folder", [*PACKAGES, "tests"])
def test_files_stay_short(folder: str) -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in (ROOT / folder).rglob("*.py")
    }
    long = {name: lines for name, lines in lengths.items() if lines > MAX_FILE_LINES and name not in LONG_FILES}
    assert not long, f"files over {MAX_FILE_LINES} lines: {long}"


@pytest.mark.parametrize("package", PACKAGES)
def test_functions_stay_short(package: str) -> None:
    long = {}
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= MAX_FUNCTION_LINES:
                long[f"{path.relative_to(ROOT)}:{node.name}"] = (node.end_lineno or 0) - node.lineno + 1
    assert not long, f"functions over {MAX_FUNCTION_LINES} lines: {long}"
