"""A real S3-compatible server on this machine (moto) for tests, and a gate before it that can be shut or made to fail."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_ERROR = b"<Error><Code>ServiceUnavailable</Code><Message>out of order for now</Message></Error>"
_FAILURE = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/xml\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_ERROR), _ERROR)
)


@dataclass
class ObjectStore:
    """address: of the gate, which passes all on to the server. environment: what a program needs to use it."""

    address: str
    gate: Gate
    environment: dict[str, str] = field(default_factory=dict)

    def files(self) -> Any:
        """s3fs on the server itself, whatever the gate does."""
        import s3fs

        server = f"http://127.0.0.1:{self.gate.server_port}"
        return s3fs.S3FileSystem(
            endpoint_url=server, key="key", secret="secret", use_listings_cache=False, skip_instance_cache=True
        )

    def bucket(self, name: str) -> str:
        """A new bucket: its URL."""
        self.files().mkdir(name)
        return f"s3://{name}"

    def tree(self, url: str) -> dict[str, bytes]:
        """Content of every object below a URL, by its path there."""
        root = url.removeprefix("s3://")
        files = self.files()
        return {name[len(root) + 1 :]: files.cat_file(name) for name in sorted(files.find(root))}

    def upload(self, folder: Path, url: str) -> None:
        """Copy a folder into the store."""
        files = self.files()
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                files.put_file(str(path), f"{url.removeprefix('s3://')}/{path.relative_to(folder).as_posix()}")


class Gate(socketserver.ThreadingTCPServer):
    """Passes connections on to the server; shut, it drops them; `fail_next` requests get an answer 503 instead.

    delay_seconds: before every answer begins. cut_next: answers that end after cut_bytes, as from a connection that breaks.
    num_bytes: of all answers.
    """

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, server_port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Passage)
        self.server_port = server_port
        self.is_open = True
        self.fail_next = 0
        self.num_failed = self.num_dropped = self.num_cut = self.num_bytes = 0
        self.delay_seconds = 0.0
        self.cut_next, self.cut_bytes = 0, 20_000
        self.open_sockets: set[socket.socket] = set()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        port: int = self.server_address[1]
        return port

    def shut(self) -> None:
        """As a server that went down: open connections break, new ones are dropped."""
        self.is_open = False
        for end in list(self.open_sockets):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def open(self) -> None:
        self.is_open = True


class _Passage(socketserver.BaseRequestHandler):
    server: Gate

    def handle(self) -> None:
        gate = self.server
        if not gate.is_open:
            gate.num_dropped += 1
            return
        try:
            first = self.request.recv(1 << 16)
            if gate.fail_next > 0 and first:
                gate.fail_next -= 1
                gate.num_failed += 1
                self.request.sendall(_FAILURE)
                with contextlib.suppress(OSError):
                    self.request.shutdown(socket.SHUT_WR)
                    while self.request.recv(1 << 16):
                        pass
                return
            with socket.create_connection(("127.0.0.1", gate.server_port)) as server:
                gate.open_sockets |= {self.request, server}
                server.sendall(first)
                back = threading.Thread(target=self._answer, args=(server,), daemon=True)
                back.start()
                _pump(self.request, server)
                back.join()
                gate.open_sockets -= {self.request, server}
        except OSError:
            return

    def _answer(self, server: socket.socket) -> None:
        gate = self.server
        sent = 0
        with contextlib.suppress(OSError):
            while piece := server.recv(1 << 16):
                if sent == 0:
                    time.sleep(gate.delay_seconds)
                sent += len(piece)
                gate.num_bytes += len(piece)
                if gate.cut_next > 0 and sent > gate.cut_bytes:
                    gate.cut_next -= 1
                    gate.num_cut += 1
                    self.request.sendall(piece[: max(0, gate.cut_bytes - sent + len(piece))])
                    for end in (self.request, server):
                        end.shutdown(socket.SHUT_RDWR)
                    return
                self.request.sendall(piece)
        with contextlib.suppress(OSError):
            self.request.shutdown(socket.SHUT_WR)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(1 << 16):
            target.sendall(piece)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def object_store() -> Iterator[ObjectStore]:
    """Start the server and its gate; they end with the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    gate = Gate(port)
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.1)
        address = f"http://127.0.0.1:{gate.port}"
        environment = {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "1",  # of the client library: it is our own trying again that is tested
        }
        yield ObjectStore(address, gate, environment)
    finally:
        gate.shut()
        gate.shutdown()
        gate.server_close()
        process.kill()
        process.wait()
