"""An HTTPS proxy that answers for the sites of schemas, with the files that are here, and goes nowhere itself.

So programs that fetch schemas run unmodified where there is no network: `variables` are those of their environment.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import urlsplit

from tests.e2e.server.certificates import Authority
from tests.http_server import running_http_server
from tests.stac.validation import schemas


class Mirror:
    """What was asked for, and what is not here."""

    def __init__(self, directory: Path) -> None:
        self._authority = Authority(directory, "mirror")
        self._files = {_without_scheme(url): Path(file) for url, file in schemas().items()}
        self._contexts: dict[str, ssl.SSLContext] = {}
        self.answered: set[str] = set()
        """Hosts and paths."""
        self.missing: set[str] = set()

    def variables(self, port: int) -> Mapping[str, str]:
        """For Python's own client and for requests: all but this machine through the proxy on `port`."""
        certificate, proxy = str(self._authority.certificate), f"http://127.0.0.1:{port}"
        trusted = {"SSL_CERT_FILE": certificate, "REQUESTS_CA_BUNDLE": certificate}
        proxies = {"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy, "NO_PROXY": "127.0.0.1"}
        return trusted | proxies | {name.lower(): value for name, value in proxies.items()}

    def context(self, host: str) -> ssl.SSLContext:
        """With a certificate of this host."""
        if host not in self._contexts:
            self._contexts[host] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._contexts[host].load_cert_chain(*self._authority.issue(host, host=host))
        return self._contexts[host]

    def content(self, address: str) -> bytes | None:
        """`address`: host and path."""
        file = self._files.get(address.rstrip("#"))
        (self.answered if file else self.missing).add(address)
        return file.read_bytes() if file else None


@contextmanager
def running_mirror(directory: Path) -> Iterator[tuple[Mirror, Mapping[str, str]]]:
    """With the environment of whoever asks it."""
    mirror = Mirror(directory)
    with running_http_server(partial(_Proxy, mirror)) as port:
        yield mirror, mirror.variables(port)


class _Proxy(BaseHTTPRequestHandler):
    def __init__(self, mirror: Mirror, *given: object) -> None:
        self._mirror, self._host = mirror, ""
        super().__init__(*given)  # type: ignore[arg-type]  # socket, address and server

    def do_CONNECT(self) -> None:
        """From here on this connection is the site's."""
        self._host = self.path.partition(":")[0]
        self.send_response_only(200)
        self.end_headers()
        self.rfile.close()
        self.connection = self._mirror.context(self._host).wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb", -1)
        self.wfile = self.connection.makefile("wb", 0)  # unbuffered
        self.close_connection = False

    def finish(self) -> None:
        super().finish()
        self.connection.close()

    def do_GET(self) -> None:
        content = self._mirror.content(f"{self._host}{self.path}" if self._host else _without_scheme(self.path))
        self.send_response(200 if content is not None else 404)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *_: object) -> None:
        """Quiet."""


def _without_scheme(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname}{parts.path}"
