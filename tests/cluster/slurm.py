"""A real Slurm of two nodes on this machine for tests: slurmctld, two slurmd and a munged of its own, all below one folder.

The names of the nodes resolve nowhere; Slurm knows their address. The nodes claim more cores, memory and GPUs than this machine
has, so that job scripts are accepted as they stand.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NODES = ("tg-node-1", "tg-node-2")
DAEMONS = ("munged", "slurmctld", "slurmd")
_CONF = """ClusterName=tgtest
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,batch_sched_delay=0
GresTypes=gpu
FirstJobId={first_job}
"""
_NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=16 RealMemory=64000 Gres=gpu:8\n"


def block_of(page: str, *texts: str) -> str:
    """The one block of code of a page in docs/ that holds all the texts."""
    blocks = re.findall(r"```\w+\n(.*?)```", (ROOT / "docs" / page).read_text("utf-8"), re.DOTALL)
    (block,) = (block for block in blocks if all(text in block for text in texts))
    return str(block)


def replaced(script: str, *pairs: tuple[str, str]) -> str:
    """The script with other text in some places; each old text must be there."""
    for old, new in pairs:
        assert old in script, f"{old!r} is not in {script}"
        script = script.replace(old, new)
    return script


def why_not() -> str:
    """Why no Slurm can be started on this machine; "" if it can."""
    missing = [name for name in (*DAEMONS, "sbatch") if not shutil.which(name, path=_path())]
    if missing:
        return f"no {', '.join(missing)}: apt-get install --no-install-recommends slurmctld slurmd slurm-client munge"
    return "" if os.geteuid() == 0 else "the daemons of Slurm need root"


@dataclass(frozen=True, slots=True)
class Slurm:
    """A running cluster. environment: of programs that use it; `~/venv` there is the virtual environment of the tests."""

    folder: Path
    environment: dict[str, str]

    def call(self, *words: str, folder: Path | None = None) -> str:
        """The output of a command of the cluster. AssertionError with what it said if it fails."""
        done = subprocess.run(
            words, cwd=folder or self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def submit(self, script: str, folder: Path, *options: str) -> str:
        """Submit a job script in a folder, as a user does, and return its number. Its output goes there, too."""
        path = folder / "job.sh"
        path.write_text(script)
        return self.call("sbatch", "--parsable", *options, str(path), folder=folder).strip()

    def facts(self, job: str) -> list[dict[str, str]]:
        """What `scontrol show job` says: JobState, ExitCode, Restarts and so on, of each task of an array."""
        said = self.call("scontrol", "-o", "show", "job", job)
        return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in said.splitlines() if line]

    def wait(self, job: str, *states: str) -> list[dict[str, str]]:
        """Wait until the job, or each task of an array, is in one of the states; see `facts`."""
        found: list[dict[str, str]] = []

        def there() -> bool:
            found[:] = self.facts(job)
            return all(fact["JobState"] in states for fact in found)

        self.until(there, lambda: f"{job}: {[fact['JobState'] for fact in found]}, expected {states}")
        return found

    def read_until(self, path: Path, text: str) -> str:
        """The content of a file once it holds the text."""

        def said() -> str:
            return path.read_text(errors="replace") if path.exists() else ""

        self.until(lambda: text in said(), lambda: f"no {text!r} in {path.name}: {said()}")
        return said()

    def until(self, condition: Callable[[], object], problem: Callable[[], str], seconds: float = 900) -> None:
        """Wait until a condition holds; AssertionError with the problem if it does not in time."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{problem()}\n{self.logs()}"
            time.sleep(0.1)

    def clear(self) -> None:
        """End all jobs, and bring the nodes back."""
        self.call("scancel", "--user=root", "--signal=KILL", "--full")
        self.call("scancel", "--user=root")
        self.until(lambda: not self.call("squeue", "--noheader"), lambda: self.call("squeue"))
        for node in NODES:
            if "DOWN" in self.call("scontrol", "-o", "show", "node", node):
                self.call("scontrol", "update", f"NodeName={node}", "State=RESUME")
        self.until(self.is_idle, lambda: self.call("sinfo", "-N", "-l"))

    def is_idle(self) -> bool:
        """Whether both nodes are up and have no job."""
        asked = ["sinfo", "--noheader", "--Node", "--format=%t"]
        said = subprocess.run(asked, env=self.environment, capture_output=True, text=True, check=False).stdout
        return said.split() == ["idle"] * len(NODES)

    def logs(self) -> str:
        """The last lines of the daemons."""
        return "\n".join(
            f"{path.name}: {path.read_text(errors='replace')[-1500:]}" for path in sorted(self.folder.glob("*.log"))
        )


@contextlib.contextmanager
def slurm() -> Iterator[Slurm]:
    """Start a cluster, and end it with all jobs, also if this process is killed: see `end_when_left`."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # short: a socket has at most 107 characters
    home = folder / "home"
    home.mkdir()
    (home / "venv").symlink_to(sys.prefix)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
    environment |= {
        "SLURM_CONF": f"{folder}/slurm.conf", "HOME": str(home), "PATH": f"{Path(sys.executable).parent}:{_path()}",
        "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    keeper = subprocess.Popen(
        [sys.executable, "-m", "tests.cluster.slurm", str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    assert keeper.stdin is not None
    cluster = Slurm(folder, environment)
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        _start(cluster, daemons)
        yield cluster
    finally:
        keeper.stdin.close()
        keeper.wait()
        for daemon in daemons:
            daemon.wait()


def _start(cluster: Slurm, daemons: list[subprocess.Popen[bytes]]) -> None:
    folder, host = cluster.folder, socket.gethostname().partition(".")[0]
    control, *ports = _free_ports(1 + len(NODES))
    nodes = "".join(_NODE.format(name=name, host=host, port=port) for name, port in zip(NODES, ports, strict=True))
    first_job = random.randrange(1, 100_000)  # the processes of a job meet at a port that its number gives
    conf = _CONF.format(host=host, control=control, folder=folder, first_job=first_job)
    partition = f"PartitionName=main Nodes={','.join(NODES)} Default=YES MaxTime=INFINITE State=UP\n"
    (folder / "slurm.conf").write_text(conf + nodes + partition)
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-7]\n")
    for number in range(8):
        (folder / f"gpu{number}").touch()
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    (folder / "state").mkdir()

    def begin(name: str, *words: str) -> None:
        with (folder / f"{name}.log").open("wb") as log:
            daemons.append(
                subprocess.Popen(words, env=cluster.environment, stdout=log, stderr=log, start_new_session=True)
            )

    begin(
        "munged", "munged", "--foreground", "--force", f"--key-file={folder}/munge.key", f"--socket={folder}/munge.socket",
        f"--pid-file={folder}/munged.pid", f"--seed-file={folder}/munge.seed",
    )  # fmt: skip
    _wait_for(cluster, daemons, (folder / "munge.socket").exists)
    begin("slurmctld", "slurmctld", "-D")
    for name in NODES:
        begin(f"slurmd-{name}", "slurmd", "-D", "-N", name)

    _wait_for(cluster, daemons, cluster.is_idle)


def _wait_for(cluster: Slurm, daemons: list[subprocess.Popen[bytes]], ready: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not ready():
        if time.monotonic() > until or any(daemon.poll() is not None for daemon in daemons):
            raise RuntimeError(f"Slurm does not start: {cluster.logs()}")
        time.sleep(0.1)


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def end_when_left(folder: Path) -> None:
    """Wait for the end of the tests, however they end, then kill the daemons and all processes of jobs, and remove the folder."""
    with contextlib.suppress(KeyboardInterrupt):
        sys.stdin.buffer.read()
    mark = f"SLURM_CONF={folder}/slurm.conf".encode()
    while left := [path for path in Path("/proc").glob("[0-9]*") if _has(path / "environ", mark)]:
        for path in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(path.name), signal.SIGKILL)
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


def _has(environ: Path, mark: bytes) -> bool:
    """Whether a process was started with this variable; a zombie has none."""
    try:
        return mark in environ.read_bytes().split(b"\0")
    except OSError:
        return False


if __name__ == "__main__":
    end_when_left(Path(sys.argv[1]))
