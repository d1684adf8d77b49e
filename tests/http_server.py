"""An HTTP server on loopback, in a thread, for as long as a block runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

_SECONDS = 0.02
"""After which a server notices that it has ended. Its own default, half a second, would be waited for by each test."""


@contextmanager
def answering(server: HTTPServer) -> Iterator[None]:
    """It answers in a thread until the end of the block."""
    thread = Thread(target=server.serve_forever, args=(_SECONDS,))
    thread.start()
    try:
        yield
    finally:  # else a test whose other servers do not start leaves a thread that never ends
        server.shutdown()
        thread.join()


@contextmanager
def running_http_server(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[int]:
    """Its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, answering(server):
        yield server.server_port


def serving_files(directory: Path) -> AbstractContextManager[int]:
    """Those of a directory, such as a key set."""
    return running_http_server(partial(_Files, directory=str(directory)))


class _Files(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Quiet."""
