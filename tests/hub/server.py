"""A real HTTP server on the loopback that can be told to misbehave, and the releases that it serves."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HTML = b"<!DOCTYPE html><html><body>Please log in to the hotel's network.</body></html>"


class Server(ThreadingHTTPServer):
    """Serves `files` by path. Each request to a path takes the next of its `faults`; with none left it is served well.

    Faults: ("cut", n) sends n bytes of what was asked for and closes; ("longer", n) and ("shorter", n) announce n bytes
    more and less than there are; ("wrong",) flips a byte; ("html",) is a login page with status 200;
    ("status", code); ("whole",) ignores the range that was asked for, and ("cut_anew", n) does so and is cut;
    ("stall", n) sends n bytes and then waits for `gate`.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[tuple]] = {}
        self.gate = threading.Event()
        self.requests: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def asked(self, path: str) -> list[str | None]:
        """The ranges that were asked for, None for all of a file."""
        return [span for name, span in self.requests if name == path]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        path, span = self.path.lstrip("/"), self.headers.get("Range")
        self.server.requests.append((path, span))
        faults = self.server.faults.get(path, [])
        fault, *amount = faults.pop(0) if faults else ("none",)
        content = self.server.files.get(path)
        if content is None or fault == "status":
            self.answer(amount[0] if amount else 404, b"")
        elif fault == "html":
            self.answer(200, HTML, kind="text/html")
        else:
            self.serve(content, span, fault, *amount)

    def serve(self, content: bytes, span: str | None, fault: str, amount: int = 0) -> None:
        start = int(re.fullmatch(r"bytes=(\d+)-", span)[1]) if span and fault not in ("whole", "cut_anew") else 0
        if start >= len(content) > 0:
            self.answer(416, b"")
            return
        body = bytearray(content[start:])
        if fault == "wrong":
            body[len(body) // 2] ^= 1
        length = len(body) + {"longer": amount, "shorter": -amount}.get(fault, 0)
        self.close_connection = True
        headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
        sent = body[:amount] if fault in ("cut", "cut_anew", "stall") else body[:length]
        self.answer(206 if start else 200, bytes(sent), length, headers)
        if fault == "stall":
            self.server.gate.wait(60)
            with suppress(OSError):  # whoever asked may be gone
                self.wfile.write(body[amount:])

    def answer(
        self, status: int, body: bytes, length: int | None = None, headers: dict | None = None, kind: str = "a/b"
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        if self.close_connection:  # else a client would ask again on a connection that is about to close
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.gate.set()
            server.shutdown()
            thread.join()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
