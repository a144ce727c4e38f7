"""The cached machine code of the fused encoder: damaged files, and the lock of the process that compiles."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path


def test_damaged_cache_is_replaced(tmp_path: Path) -> None:
    """After a torn write or a full disk: a message, and the same bytes."""
    script = (
        "import hashlib, numpy as np; from tgprep.encode.fused import PlaneEncoder, compile_kernels; compile_kernels(); "
        "y = np.arange(48 * 64, dtype=np.int64).reshape(48, 64).astype(np.uint8); "
        "print(hashlib.sha256(PlaneEncoder(48, 64, 95, limited=True).encode(y, y[:24, :32], y[24:, 32:])[0]).hexdigest())"
    )

    def run() -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "TMPDIR": str(tmp_path)}
        command = [sys.executable, "-c", script]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)

    first = run()
    cached = [path for path in tmp_path.rglob("*.nb?") if path.is_file()]
    assert cached
    for path in cached:
        path.write_bytes(path.read_bytes()[:40])
    again = run()
    assert again.stdout == first.stdout
    assert "compiled again" in again.stderr
    assert "compiled again" not in run().stderr  # the damaged files were replaced


def test_cached_code_loads_without_the_lock(tmp_path: Path) -> None:
    """Sixteen workers that start together must not queue for the lock once the code is cached."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cached"), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", "from tgprep.encode.fused import compile_kernels; compile_kernels()"]
    subprocess.run(command, env=environment, check=True, timeout=300)
    (lock,) = tmp_path.glob("tgprep-compile-*.lock")
    with lock.open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        subprocess.run(command, env=environment, check=True, timeout=40)  # less than it would wait
