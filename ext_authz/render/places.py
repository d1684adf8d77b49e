"""Where Envoy listens, whom it asks and whom it calls, on one machine. The defaults are those of `tollgate up`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from msgspec import Struct

from ext_authz.errors import ConfigError

LOOPBACK = "127.0.0.1"

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


class Places(Struct, frozen=True):
    """Everything that the policy does not say."""

    listen: Address = Address(LOOPBACK, 8080)
    admin: Pipe | None = None
    """Envoy's own interface, which stops it and tells its secrets: never on a port, where every web page could ask."""
    authorizer: Address = Address(LOOPBACK, 9000)
    triton: Triton = Triton()
    variants: Mapping[str, Triton] = {}
    """Variant of an experiment to where it is served; one that is not here is served by `triton`."""
    access_log: str = "/dev/stdout"


def address(text: str) -> Address:
    """Raises ConfigError unless it is `host:port`."""
    host, ports = _split(text, 1, "host:port")
    return Address(host, ports[0])


def triton(text: str) -> Triton:
    """Raises ConfigError unless it is `host:http_port:grpc_port`."""
    host, ports = _split(text, 2, "host:http_port:grpc_port")
    http, grpc = (Address(host, port) for port in ports)
    return Triton(http, grpc)


def _split(text: str, count: int, form: str) -> tuple[str, list[int]]:
    found = _ADDRESS.fullmatch(text)
    ports = [int(port) for port in found["ports"].split(":")] if found else []
    if found is None or len(ports) != count or not all(0 < port <= 65535 for port in ports):
        raise ConfigError(
            f"{text!r} is not of the form {form}, such as 10.0.0.7{':8000:8001' if count == 2 else ':9000'}"
        )
    return found["host"].strip("[]"), ports
