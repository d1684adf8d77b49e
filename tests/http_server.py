"""An HTTP server on loopback, in a thread, for as long as a block runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread


@contextmanager
def running_http_server(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[int]:
    """Its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def serving_files(directory: Path) -> AbstractContextManager[int]:
    """Those of a directory, such as a key set."""
    return running_http_server(partial(_Files, directory=str(directory)))


class _Files(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Quiet."""
