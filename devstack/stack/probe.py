"""Whether a port is free, and whether a server answers.

A probe needs no credentials, so that it may be written down: one protocol's shortest exchange. A server that refuses
unknown callers answers; one that still loads its data does not.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from itertools import combinations
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from psycopg import pq
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from devstack.stack.settings import StackSettings
from ext_authz.db.store_urls import is_sentinel
from ext_authz.errors import ConfigError
from ext_authz.render.endpoints import LOOPBACK

_TIMEOUT = 1.0
_RELEASE_SECONDS = 3.0
"""The ports of a killed process are free shortly after it has gone."""
_PAUSE = 0.05
_PROXIES = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "grpc_proxy")


def ensure_free(settings: StackSettings, names: Iterable[str], patience: float = _RELEASE_SECONDS) -> None:
    """`names` are settings such as `envoy_port`. A port that is being released is waited for, `patience` seconds.

    Raises:
        ConfigError: names every port that is taken, or claimed twice, and the setting that moves it.
    """
    claimed = {f"TOLLGATE_{name.upper()}": int(getattr(settings, name)) for name in names}
    deadline = time.monotonic() + patience
    twice = [f"{one} and {two} are both {claimed[one]}" for one, two in combinations(claimed, 2)
             if claimed[one] == claimed[two]]  # fmt: skip
    while (taken := [name for name, port in claimed.items() if not _is_free(port)]) and time.monotonic() < deadline:
        time.sleep(_PAUSE)
    wrong = twice + [f"port {claimed[name]} is taken: free it, or set {name} to another one" for name in taken]
    if wrong:
        raise ConfigError("; ".join(wrong))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: connections that linger from an earlier run do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen()
        except OSError:
            return False
    return True


def free_ports(count: int) -> list[int]:
    """Different ports on loopback on which nothing listens."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        return [probe.getsockname()[1] for probe in probes]


def answers(url: str) -> bool:
    """`url`: http(s)://..., postgresql://host:port, redis(s)://host:port, unix:///socket (Redis),
    redis(s)+sentinel://host:port,host:port, or from `over`."""
    match urlsplit(url).scheme:
        case "postgresql" | "postgres":
            return pq.PGconn.ping(f"{url}?connect_timeout=1".encode()) == pq.Ping.OK
        case "redis" | "rediss" | "unix":
            return _redis_answers(url)
        case "redis+sentinel" | "rediss+sentinel" as scheme:
            hosts = urlsplit(url).netloc.split(",")
            return any(_redis_answers(f"{scheme.removesuffix('+sentinel')}://{host}") for host in hosts)
        case "http+unix":
            return _socket_answers(url)
        case _:
            return _http_answers(url)


def over(where: Path | str, path: str) -> str:
    """The URL of an HTTP path behind a Unix socket."""
    return f"http+unix://{where}#{path}"


def without_credentials(url: str) -> str:
    """Only scheme, host and port, or the path of a socket."""
    parts = urlsplit(url)
    if is_sentinel(url):
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
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
        first.connect(parts.path)  # where nothing listens, httpx would leave its own socket open
        transport = httpx.HTTPTransport(uds=parts.path, verify=False)
        with httpx.Client(transport=transport, base_url="http://localhost", timeout=_TIMEOUT) as client:
            return client.get(parts.fragment).is_success
    return False


def _http_answers(url: str) -> bool:
    try:
        # Loading the certificate bundle takes longer than the request, and plain HTTP does not need it.
        return httpx.get(url, timeout=_TIMEOUT, verify=url.startswith("https:")).is_success
    except httpx.HTTPError:
        return False


def reach_loopback_directly() -> None:
    """Keep this process and its children from using a proxy for parts on this machine."""
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), f"localhost,{LOOPBACK}")))


def has_proxy() -> bool:
    """Whether the environment names one."""
    return any(os.environ.get(name) for name in _PROXIES)
