"""The cached machine code of the fused encoder: damaged files, and the lock of the process that compiles."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COMPILE = "from tgprep.encode.fused import compile_kernels; compile_kernels()"


def call(script: str, folder: Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a script whose machine code is cached in a folder, with the lock beside it."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder), "TMPDIR": str(folder)}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=timeout)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compiled")
    call(COMPILE, folder)
    return folder


def test_damaged_cache_is_replaced(compiled: Path, tmp_path: Path) -> None:
    """After a torn write or a full disk: a message, and the same bytes."""
    script = (
        f"import hashlib, numpy as np; from tgprep.encode.fused import PlaneEncoder; {COMPILE}; "
        "y = np.arange(48 * 64, dtype=np.int64).reshape(48, 64).astype(np.uint8); "
        "print(hashlib.sha256(PlaneEncoder(48, 64, 95, limited=True).encode(y, y[:24, :32], y[24:, 32:])[0]).hexdigest())"
    )
    first = call(script, compiled)
    assert "compiled again" not in first.stderr
    folder = shutil.copytree(compiled, tmp_path / "damaged")
    cached = [path for path in folder.rglob("*.nb?") if path.is_file()]
    assert cached
    for path in cached:
        path.write_bytes(path.read_bytes()[:40])
    again = call(script, folder)
    assert again.stdout == first.stdout
    assert "compiled again" in again.stderr
    assert "compiled again" not in call(script, folder).stderr  # the damaged files were replaced


def test_cached_code_loads_without_the_lock(compiled: Path) -> None:
    """Sixteen workers that start together must not queue for the lock once the code is cached."""
    (lock,) = compiled.glob("tgprep-compile-*.lock")
    with lock.open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        call(COMPILE, compiled, timeout=40)  # less than it would wait
