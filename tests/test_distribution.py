"""What is installed: the wheel and the sdist hold the tree and nothing of the tests, and work where nothing else lies."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

from tests.train.support import TINY

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("cli", "manifests", "tgprep", "tgtrain")
FILES = ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "CHANGELOG.md", "constraints.txt")


def tree() -> set[str]:
    """Every file of the four packages."""
    return {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the sdist, built by setuptools from a copy of the tree."""
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, source)
    (source / "tests").mkdir()
    shutil.copy(__file__, source / "tests")  # which setuptools would take into an sdist
    code = (
        "from setuptools import build_meta\n"
        f"for build in build_meta.build_wheel, build_meta.build_sdist: build({str(folder)!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


def test_wheel_and_sdist_hold_the_tree_and_no_tests(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[0]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        (about,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = message_from_string(wheel.read(about).decode())
        scripts = wheel.read(about.replace("METADATA", "entry_points.txt")).decode()
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel.namelist())
    assert names == tree()
    for kind in (
        "tgtrain/recipes/demo.toml",
        "manifests/classes/",
        "tgprep/view/templates/",
        "tgtrain/report/templates/",
    ):
        assert any(name.startswith(kind) for name in names), kind
    assert [line.replace(" ", "") for line in scripts.splitlines() if "=" in line] == [
        "tgprep=tgprep.__main__:main",
        "tgtrain=tgtrain.__main__:main",
    ]
    with tarfile.open(built[1]) as sdist:
        inside = {member.name.partition("/")[2] for member in sdist.getmembers() if member.isfile()}
    assert {*tree(), *FILES} <= inside
    assert not [name for name in inside if name.startswith(("tests", "benchmarks", "docs"))]
    # Each extra brings what it names; `all` brings all of them but what developers need.
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = declared["optional-dependencies"]
    assert set(metadata.get_all("Provides-Extra") or ()) == set(extras)
    plain = [text for text in metadata.get_all("Requires-Dist") or () if "extra ==" not in text]
    assert len(plain) == len(declared["dependencies"])
    assert not [text for text in plain if re.match("torch|mlflow|wandb|transformers|onnx|dask|s3fs", text)]
    assert extras["all"] == [f"tgprep[{','.join(name for name in extras if name not in ('all', 'dev', 'docs'))}]"]


def test_containers_install_the_same_and_all_that_it_is_built_from() -> None:
    docker = (ROOT / "Dockerfile").read_text("utf-8")
    recipe = (ROOT / "apptainer.def").read_text("utf-8")
    (command,) = re.findall(r"^RUN (pip .*)$", docker, re.MULTILINE)
    assert re.findall(r"^ +(pip .*)$", recipe, re.MULTILINE) == [command]
    taken = re.findall(r"^ +(\S+) /src/\1$", recipe, re.MULTILINE)
    assert sorted(taken) == sorted(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text("utf-8"), re.MULTILINE))
    assert set(taken) == {*PACKAGES, "constraints.txt", "LICENSE", "pyproject.toml", "README.md"}
    base = re.findall(r"^F(?:ROM|rom:) (\S+)$", docker + recipe, re.MULTILINE)
    assert len(base) == 2
    assert base[0] == base[1]


def test_declared_versions_of_python_are_run_by_ci() -> None:
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["classifiers"]
    declared = re.findall(r"Python :: (3\.\d+)", " ".join(classifiers))
    (line,) = re.findall(r"python: \[(.*)\]", (ROOT / ".github/workflows/ci.yml").read_text("utf-8"))
    assert "3.11" in declared
    assert set(declared) <= set(re.findall(r"3\.\d+", line))


def environment(folder: Path) -> dict[str, str]:
    """A new virtual environment, first on PATH."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return {**ours, "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}


@pytest.mark.long
@pytest.mark.parametrize("kind", [0, 1], ids=["wheel", "sdist"])
def test_the_whole_path_from_a_clean_environment(built: tuple[Path, Path], tmp_path: Path, kind: int) -> None:
    """Installed without the source, beside a cli.py and a manifests/ of the user. What it depends on is that of this environment."""
    clean = environment(tmp_path / "clean")
    (site,) = (tmp_path / "clean/lib").glob("python*/site-packages")
    shutil.rmtree(site / "setuptools", ignore_errors=True)
    (site / "ours.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    pip = ["python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", str(built[kind])]
    subprocess.run(pip, env=clean, check=True)
    folder = tmp_path / "work"
    (folder / "manifests").mkdir(parents=True)
    for name in ("cli.py", "manifests/__init__.py"):
        (folder / name).write_text("import os\nos._exit(9)\n")
    sets = " ".join(f"--set {shlex.quote(text)}" for text in TINY)
    script = f"""set -e
        python -c "import tgprep, manifests.records as r; print(tgprep.__file__, r.__file__)" | grep -c {site}
        tgprep sample videos --num-classes 2 --num-groups 4 --clips-per-group 2
        tgprep extract videos dataset --threads 2
        python -m tgprep split dataset --percent 50
        tgtrain run dataset --recipe demo {sets} --out run --devices 2
        python -m tgtrain test run --views 1x1
        tgtrain report run
        torchrun --standalone --nproc-per-node 2 --no-python tgtrain test run --views 2x1
    """
    done = subprocess.run(["bash", "-c", script], cwd=folder, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {path.name for path in (folder / "run").iterdir()} >= {"report.html", "test-1x1.json", "test-2x1.json"}


@pytest.mark.long
def test_the_commands_of_the_containers_in_a_clean_environment(tmp_path: Path) -> None:
    """With all that they download; needs a package index."""
    clean = environment(tmp_path / "clean")
    probe = ["python", "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(tmp_path / "probe"), "six"]
    if subprocess.run(probe, env=clean, capture_output=True, check=False).returncode:
        pytest.skip("no package index can be reached")
    source = tmp_path / "src"
    for name in re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text("utf-8"), re.MULTILINE):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        source.mkdir(exist_ok=True)
        copy(ROOT / name, source / name)
    text = (ROOT / "apptainer.def").read_text("utf-8")
    post, test = (re.findall(rf"^%{part}\n((?: +.*\n)+)", text, re.MULTILINE)[0] for part in ("post", "test"))
    script = f"set -e\n{post.replace('/src', str(source))}\ncd {tmp_path}\n{test}\ntgprep doctor --json\npip check\n"
    done = subprocess.run(["bash", "-c", script], env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
