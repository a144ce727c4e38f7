"""An HTTP server on this machine that misbehaves on request."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.prep.obtain.support import Site


@pytest.fixture
def site() -> Iterator[Site]:
    """An HTTP server with range requests and entity tags."""
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            requested = self.headers.get("Range", "")
            site.requests.append((name, requested))
            self.close_connection = True
            if site.redirect and name != "end.bin":
                self.send_response(302)
                self.send_header("Location", site.redirect)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if site.errors:
                self.send_error(site.errors.pop(0))
                return
            if name not in site.files:
                self.send_error(404)
                return
            content = site.files[name]
            tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
            start = int(requested.removeprefix("bytes=").rstrip("-")) if requested and site.ranges else 0
            if self.headers.get("If-Range", tag) != tag:
                start = 0
            if start and start >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            honest = {"Content-Length": str(len(content) - start + site.lie_bytes), "ETag": tag}
            for header, value in {**honest, **site.headers}.items():
                self.send_header(header, value)
            self.end_headers()
            body = content[start:]
            if site.drop_after:
                body = body[: site.drop_after.pop(0)]
            with contextlib.suppress(ConnectionError):  # the client may have gone
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.url = f"http://127.0.0.1:{server.server_port}/data"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield site
    server.shutdown()
    server.server_close()
    thread.join()
