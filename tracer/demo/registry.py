"""A registry stand-in: the few paths of the OCI distribution protocol that a pull uses, on a loopback address."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BLOB_BYTES = (40_000, 400_000, 3_000_000)
_CHUNK_BYTES = 65_536


class Registry(ThreadingHTTPServer):
    """Listens on a free port of 127.0.0.1.

    Attributes:
        limited: answer manifests with 429 and close, as a registry does whose client is over its limit.
        stalled: send half of each blob and then nothing.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.limited = False
        self.stalled = False
        self.done = threading.Event()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is part of the demo, not worth a traceback."""


class _Handler(BaseHTTPRequestHandler):
    server: Registry
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Serve the token, the manifest or a blob."""
        if self.path.startswith("/token"):
            self._send(200, json.dumps({"token": "demo", "expires_in": 300}).encode())
        elif "/manifests/" in self.path:
            if self.server.limited:
                self.close_connection = True
                self._send(429, b'{"errors":[{"code":"TOOMANYREQUESTS"}]}', ("Connection", "close"), ("Retry-After", "60"))
            else:
                layers = [{"digest": str(number), "size": size} for number, size in enumerate(BLOB_BYTES)]
                self._send(200, json.dumps({"schemaVersion": 2, "layers": layers}).encode())
        elif "/blobs/" in self.path:
            self._send_blob(BLOB_BYTES[int(self.path.rpartition("/")[2])])
        else:
            self._send(404, b"{}")

    def _send(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _send_blob(self, size_bytes: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(size_bytes))
        self.end_headers()
        to_send = size_bytes // 2 if self.server.stalled else size_bytes
        for start in range(0, to_send, _CHUNK_BYTES):
            self.wfile.write(bytes(min(_CHUNK_BYTES, to_send - start)))
        if self.server.stalled:
            self.server.done.wait(30)
            self.close_connection = True

    def log_message(self, *_arguments: object) -> None:
        """Say nothing: standard output belongs to the protocol with the parent."""
