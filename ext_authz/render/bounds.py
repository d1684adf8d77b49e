"""How much and how long: the same in Envoy's configuration and in Istio's objects."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

Json = dict[str, Any]

CONNECTION_BYTES = 256 * 1024
"""All that is read of a body until the authorizer has answered: what is there in one piece by then would slip past
`rest_bytes` whatever its size. A gRPC route has a limit of its own."""


class Bounds(Struct, frozen=True):
    """Durations in seconds."""

    check: float = 2.5
    """Longer than all waits of one check together (Redis 0.25 s twice, Postgres 0.5 s, keys 1 s): the authorizer's own
    503 says more than Envoy's."""
    request: float = 60
    stream: float = 600
    """A stream is judged when it opens; so long may a revocation wait for it."""
    rest_bytes: int = 8 * 1024 * 1024
    """More could end Triton's HTTP front end; big tensors go over gRPC."""
    grpc_bytes: int = 64 * 1024 * 1024
    """Reading the model's name holds a message back as a whole: this is the largest that passes."""


def duration(seconds: float) -> str:
    """As protobuf's JSON writes it."""
    return f"{seconds:g}s"
