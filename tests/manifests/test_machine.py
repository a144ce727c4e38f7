"""Quotas of control groups, and systems that lack what only Linux can do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_PRINT = "from manifests.machine import core_quota, memory_bytes, usable_cores; print(core_quota(), usable_cores(), memory_bytes())"


def in_groups(tmp_path: Path, membership: str, limits: dict[str, str]) -> tuple[float, int, float]:
    """Quota, usable cores and memory of a process with these lines in /proc/self/cgroup and files below /sys/fs/cgroup."""
    (tmp_path / "cgroup").write_text(membership)
    lines = ["mount -t tmpfs tmpfs /sys/fs/cgroup"]
    for name, text in limits.items():
        lines.append(f"mkdir -p $(dirname /sys/fs/cgroup/{name}) && echo '{text}' > /sys/fs/cgroup/{name}")
    # The shell becomes the program: what is mounted over its own entry is that of the program.
    lines.append(f"mount --bind {tmp_path}/cgroup /proc/$$/cgroup && exec '{sys.executable}' -c '{_PRINT}'")
    command = ["unshare", "-m", "sh", "-c", " && ".join(lines)]
    if subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False
    ).returncode:
        pytest.skip("no right to mount here")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    quota, cores, memory = done.stdout.split()
    return float(quota), int(cores), float(memory)


@pytest.mark.parametrize(
    ("membership", "limits", "quota"),
    [
        ("0::/\n", {"cpu.max": "100000 100000"}, 1.0),
        ("0::/a/b/c\n", {"cpu.max": "max 100000", "a/cpu.max": "50000 100000", "a/b/c/cpu.max": "300000 100000"}, 0.5),
        ("0::/not/mounted/here\n", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/a\n", {"cpu.max": "max 100000", "a/cpu.max": "max 100000"}, float("inf")),
        (
            "4:memory:/x\n3:cpu,cpuacct:/job/step\n0::/\n",
            {
                "cpu,cpuacct/job/cpu.cfs_quota_us": "100000", "cpu,cpuacct/job/cpu.cfs_period_us": "100000",
                "cpu,cpuacct/job/step/cpu.cfs_quota_us": "-1", "cpu,cpuacct/job/step/cpu.cfs_period_us": "100000",
            },
            1.0,
        ),
        ("3:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "broken", "cpu/cpu.cfs_period_us": "0"}, float("inf")),
    ],
)  # fmt: skip
def test_the_least_quota_up_to_the_root_counts(
    tmp_path: Path, membership: str, limits: dict[str, str], quota: float
) -> None:
    found, cores, _ = in_groups(tmp_path, membership, limits)
    assert found == quota
    assert cores == max(1, round(min(quota, len(os.sched_getaffinity(0)))))


def test_the_least_memory_up_to_the_root_counts(tmp_path: Path) -> None:
    limits = {"memory.max": "max", "a/memory.max": "3000000000", "a/b/memory.max": "4000000000"}
    assert in_groups(tmp_path, "0::/a/b\n", limits)[2] == 3e9


def test_systems_without_what_only_linux_can_do(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "for name in [n for n in dir(os) if n.startswith(('sched_', 'posix_fa', 'POSIX_FADV', 'memfd', 'fdatasync'))]:\n"
        "    delattr(os, name)\n"
    )
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom manifests import machine\n"
        "assert not hasattr(os, 'sched_getaffinity') and not hasattr(os, 'posix_fadvise')\n"
        "assert machine.usable_cores() >= 1\n"
        "from tgtrain.data.stores.local import LocalShards\n"
        "file = Path(sys.argv[1], 'shard')\nfile.write_bytes(b'0123456789')\n"
        "assert LocalShards(sys.argv[1]).read('shard', [(1, 2), (5, 3)]) == [b'12', b'567']\n"
        "assert machine.process_started(os.getpid()) and not machine.process_started(2**22 + 1)\n"
        "print([f.name for f in machine.check_disk(Path(sys.argv[1]), 1, '', '') if f.level == 'error'])\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    words = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_only_machine_asks_for_what_some_systems_lack() -> None:
    rare = re.compile(r"os\.(sched_|posix_fa|cpu_count|memfd|fdatasync|sendfile|copy_file_range)")
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for package in ("manifests", "tgprep", "tgtrain", "cli")
        for path in (ROOT / package).rglob("*.py")
        if path != ROOT / "manifests" / "machine.py"
        for line in path.read_text(encoding="utf-8").splitlines()
        if rare.search(line) and '"cores"' not in line  # the record of a run names the cores of the machine
    ]
    assert found == []
