"""What the policy does not have: endpoints, timeouts and sizes. The defaults are those of `tollgate up`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from ext_authz.errors import ConfigError

Json = dict[str, Any]
"""A part of what is rendered, before it is text."""

LOOPBACK = "127.0.0.1"

CONNECTION_BYTES = 256 * 1024
"""The most that is read of a body until the authorizer has answered: Envoy's buffer filter does not limit what has
arrived by then. A gRPC route has a limit of its own."""

HTTP2_WINDOWS: Json = {"initial_stream_window_size": CONNECTION_BYTES, "initial_connection_window_size": 1024 * 1024}
"""What a caller may send before it is read. Envoy's default of 16 MiB would be the least limit of a gRPC message, and
what every stream can make Envoy hold before it is checked."""

CALLS_PER_CONNECTION = 199
"""Checks on one connection to the authorizer, before another one takes its place. Envoy resets the check of a caller
who hangs up, and h2corn closes a connection on 200 resets, under the checks of everybody else (ADR 20)."""

CHECK_RETRIES: Json = {"retry_on": "connect-failure,refused-stream,reset", "num_retries": 1}
"""A check whose worker is killed is retried once, on another worker: a check that kills workers kills two. If the
first one was settled already, its quota is taken and its event recorded, as in a retry by the caller (ADR 23)."""

_ADDRESS = re.compile(r"(?P<host>[^\s:\[\]]+|\[[0-9a-fA-F:.]+\]):(?P<ports>[0-9]+(?::[0-9]+)?)", re.ASCII)


class Address(Struct, frozen=True):
    """One TCP address."""

    host: str
    port: int


class Pipe(Struct, frozen=True):
    """One Unix socket."""

    path: str


class Triton(Struct, frozen=True):
    """One Triton, or one variant of it."""

    http: Address | Pipe = Address(LOOPBACK, 8000)
    grpc: Address | Pipe = Address(LOOPBACK, 8001)


class Endpoints(Struct, frozen=True):
    """Where Envoy listens, and which services it calls, on one machine."""

    listen: Address = Address(LOOPBACK, 8080)
    admin: Pipe | None = None
    """Envoy's admin interface can stop it and shows its secrets: never on a port, which web pages can call."""
    authorizer: Address = Address(LOOPBACK, 9000)
    triton: Triton = Triton()
    variants: Mapping[str, Triton] = {}
    """Variant of an experiment to where it is served; one that is not here is served by `triton`."""
    console: Address | Pipe = Address(LOOPBACK, 9010)
    """For pages and REST; only where the policy has tokens."""
    console_grpc: Address | Pipe = Address(LOOPBACK, 9011)
    upstreams: Mapping[str, Address | Pipe] = {}
    """Applications of the policy; paths of one that is not here get 404."""
    access_log: str = "/dev/stdout"
    usage_worker: Address | Pipe | None = None
    """Its access log service; None: it gets no outcomes of calls."""


class Timeouts(Struct, frozen=True):
    """Seconds; and the sizes and numbers that go with them. The same for Envoy alone and for Istio's gateway."""

    check: float = 2.5
    """Longer than all waits of one check together (Redis 0.25 s twice, Postgres 0.5 s, keys 1 s), so that callers get
    the authorizer's own 503, which has details."""
    request: float = 60
    """For the request to arrive, and again for the answer to be complete; gRPC streams have only an idle timeout."""
    rest_bytes: int = 8 * 1024 * 1024
    """More could end Triton's HTTP front end; big tensors go over gRPC."""
    grpc_bytes: int = 64 * 1024 * 1024
    """Reading the model's name buffers a message as a whole: this is the largest that passes."""
    checks: int = 480
    """Checks in flight from one Envoy, which answers 503 to more. Fewer than one worker takes (`server/rpc.py`), so
    that refusing them costs the authorizer nothing."""


def address(text: str) -> Address:
    """Raises ConfigError unless it is `host:port`."""
    host, ports = _split(text, 1, "host:port")
    return Address(host, ports[0])


def address_or_pipe(text: str) -> Address | Pipe:
    """Raises ConfigError unless it is `host:port` or `unix:/path`."""
    return Pipe(text.removeprefix("unix:")) if text.startswith("unix:/") else address(text)


def triton(text: str) -> Triton:
    """Raises ConfigError unless it is `host:http_port:grpc_port`."""
    host, (http, grpc) = _split(text, 2, "host:http_port:grpc_port")
    return Triton(Address(host, http), Address(host, grpc))


def _split(text: str, count: int, form: str) -> tuple[str, list[int]]:
    found = _ADDRESS.fullmatch(text)
    ports = [int(port) for port in found["ports"].split(":")] if found else []
    if found is None or len(ports) != count or not all(0 < port <= 65535 for port in ports):
        raise ConfigError(
            f"{text!r} is not of the form {form}, such as 10.0.0.7{':8000:8001' if count == 2 else ':9000'}"
        )
    return found["host"].strip("[]"), ports


def duration(seconds: float) -> str:
    """As protobuf's JSON writes it."""
    return f"{seconds:g}s"
