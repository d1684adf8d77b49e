"""How much and how long: the same in Envoy's configuration and in Istio's objects."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from ext_authz.policy.model import Policy

Json = dict[str, Any]

CONNECTION_BYTES = 256 * 1024
"""All that is read of a body until the authorizer has answered: what is there in one piece by then would slip past
`rest_bytes` whatever its size. A gRPC route has a limit of its own."""

CALLS_PER_CONNECTION = 199
"""Checks on one connection to the authorizer, before another one takes its place. Envoy resets the check of a caller
who hangs up, and h2corn closes a connection on 200 resets, under the checks of everybody else (ADR 20)."""


class Bounds(Struct, frozen=True):
    """Durations in seconds."""

    check: float = 2.5
    """Longer than all waits of one check together (Redis 0.25 s twice, Postgres 0.5 s, keys 1 s): the authorizer's own
    503 says more than Envoy's."""
    request: float = 60
    """For the request to arrive, and again for the answer to be complete; streams of gRPC need only go on."""
    rest_bytes: int = 8 * 1024 * 1024
    """More could end Triton's HTTP front end; big tensors go over gRPC."""
    grpc_bytes: int = 64 * 1024 * 1024
    """Reading the model's name holds a message back as a whole: this is the largest that passes."""


def longest(policy: Policy, bounds: Bounds) -> str:
    """Nothing lasts longer, whatever the authorizer forgets to say: a call of the policy, and its arrival."""
    return duration(max(route.max_duration for route in policy.routes) + bounds.request)


def duration(seconds: float) -> str:
    """As protobuf's JSON writes it."""
    return f"{seconds:g}s"
