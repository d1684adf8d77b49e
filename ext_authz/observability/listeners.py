"""Listeners that tell what anybody may know (metrics, health): who asks by way of a web page is refused all the same.

A page can have its reader's browser ask an address of the machine or network that the browser runs in (cross-site
requests), and can even read the answer where it makes a name of its own point there (DNS rebinding).
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Collection, Mapping
from threading import Thread
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, make_server

from msgspec import json
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import ThreadingWSGIServer, make_wsgi_app

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_ADDRESS = r"(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|\[[0-9a-f:.]+\])"
_NOBODY_CAN_REGISTER = r"[a-z0-9-]+|(?:[a-z0-9-]+\.)+(?:localhost|local|internal|svc)"
_TRUSTED = re.compile(rf"(?:{_ADDRESS}|{_NOBODY_CAN_REGISTER})", re.ASCII)
_PORT = re.compile(r":[0-9]{1,5}\Z", re.ASCII)


def why_refused(headers: Mapping[str, str], names: Collection[str] = ()) -> str:
    """Of a request with these headers (lower-case names); empty: it is not.

    `names`: by which the listener may be called besides addresses and names that cannot be registered by others.
    """
    if "origin" in headers or headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return "requests of web pages are not answered here"
    host = _PORT.sub("", headers.get("host", "").lower()).removesuffix(".")
    if host and host not in names and _TRUSTED.fullmatch(host) is None:
        return "this listener is called by its address, or by a name in TOLLGATE_ADMIN_NAMES"
    return ""


def serve_metrics(
    host: str,
    port: int,
    registry: CollectorRegistry,
    causes: Callable[[], Mapping[str, str]],
    names: Collection[str] = (),
) -> None:
    """/metrics and /readyz of this process, in a thread of its own, as long as the process lives.

    `causes`: by dependency why the process cannot do its work now; ready is who has none. `names`: as of `why_refused`.

    Raises:
        OSError: the port is taken, or the address is not of this machine.
    """
    metrics = make_wsgi_app(registry)

    def readyz(start_response: StartResponse) -> list[bytes]:
        why = dict(causes())
        status = "503 Service Unavailable" if why else "200 OK"
        start_response(status, [("content-type", "application/json")])
        return [json.encode({"ready": not why, "causes": why})]

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        headers = {name[5:].replace("_", "-").lower(): value for name, value in environ.items() if name[:5] == "HTTP_"}
        if refusal := why_refused(headers, names):
            start_response("403 Forbidden", [("content-type", "text/plain; charset=utf-8")])
            return [refusal.encode()]
        return readyz(start_response) if environ["PATH_INFO"] == "/readyz" else list(metrics(environ, start_response))

    class Server(ThreadingWSGIServer):
        address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]

    server = make_server(host, port, answer, Server, _Silent)
    Thread(target=server.serve_forever, daemon=True).start()


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """No line per scrape."""
