"""A key repository of services over TLS, as an object store or a web server would be one."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.http_server import answering
from tests.tokens import TestKey


class KeyServer:
    """What is published, what was asked for, and whether it answers."""

    def __init__(self, authority: Path, url: str) -> None:
        self.authority = authority
        """Certificate of whom to trust."""
        self.url = url
        self.keys: dict[str, bytes] = {}
        """By `kid`."""
        self.asked: list[str] = []
        self.status = 200
        """Another one for every answer."""

    def publish(self, kid: str, key: TestKey) -> None:
        self.keys[kid] = key.pem()

    def count(self, kid: str) -> int:
        return self.asked.count(f"/asap/{kid}")

    def answer(self, path: str) -> tuple[int, bytes]:
        self.asked.append(path)
        key = self.keys.get(path.removeprefix("/asap/"))
        return (self.status, b"") if self.status != 200 else (404, b"") if key is None else (200, key)


@contextmanager
def running_key_server(authority: Path, certificate: tuple[Path, Path]) -> Iterator[KeyServer]:
    """With this certificate, which that authority signed."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = server.answer(self.path)
            self.send_response(status)
            self.send_header("content-type", "application/x-pem-file")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        # The handshake in the thread of each connection: one that hangs must not hold up the others.
        http.socket = tls.wrap_socket(http.socket, server_side=True, do_handshake_on_connect=False)
        server = KeyServer(authority, f"https://127.0.0.1:{http.server_port}/asap")
        with answering(http):
            yield server
