"""Does it really answer? One question per protocol, without credentials, so that a probe may be written down.

A server that answers "who are you?" answers; one that is still loading its data does not yet.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from psycopg import pq
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

_TIMEOUT = 1.0


def answers(url: str) -> bool:
    """`url` says protocol and place: http(s)://..., postgresql://host:port, redis(s)://host:port or unix:///socket;
    what `over` made is HTTP, too.
    """
    match urlsplit(url).scheme:
        case "postgresql" | "postgres":
            return pq.PGconn.ping(f"{url}?connect_timeout=1".encode()) == pq.Ping.OK
        case "redis" | "rediss" | "unix":
            return _redis_answers(url)
        case "http+unix":
            return _socket_answers(url)
        case _:
            return _http_answers(url)


def over(where: Path | str, path: str) -> str:
    """The URL of an HTTP path behind a Unix socket."""
    return f"http+unix://{where}#{path}"


def without_credentials(url: str) -> str:
    """Where a server is, and nothing else that its URL says."""
    parts = urlsplit(url)
    if not parts.hostname:
        return f"{parts.scheme}://{parts.path}"
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{parts.port}" if parts.port else f"{parts.scheme}://{host}"


def _redis_answers(url: str) -> bool:
    with Redis.from_url(url, socket_timeout=_TIMEOUT, socket_connect_timeout=_TIMEOUT) as client:
        try:
            return bool(client.ping())
        except (AuthenticationError, NoPermissionError):
            return True
        except RedisError:
            return False


def _socket_answers(url: str) -> bool:
    parts = urlsplit(url)
    with socket.socket(socket.AF_UNIX) as first, suppress(OSError, httpx.HTTPError):
        first.connect(parts.path)  # where nobody listens, httpx would leave its own socket open
        transport = httpx.HTTPTransport(uds=parts.path, verify=False)
        with httpx.Client(transport=transport, base_url="http://localhost", timeout=_TIMEOUT) as client:
            return client.get(parts.fragment).is_success
    return False


def _http_answers(url: str) -> bool:
    try:
        # Reading the certificates of the world takes longer than the question, and plain HTTP has no use for them.
        return httpx.get(url, timeout=_TIMEOUT, verify=url.startswith("https:")).is_success
    except httpx.HTTPError:
        return False
