"""The words of gRPC that both servers share, so that they refuse with the same status and text."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import IntEnum

CHECK = "/envoy.service.auth.v3.Authorization/Check"
HEALTH = "/grpc.health.v1.Health/Check"

MAX_CALLS = 512
"""Calls in flight in one worker. More are refused before they are read: h2corn answers HTTP 503, grpcio
RESOURCE_EXHAUSTED, both no verdict to Envoy. So many keep a worker busy while Redis is far away, and are done long
before Envoy's timeout, also by a worker that is starved of its processor (ADR 21)."""

Method = Callable[[bytes], Awaitable[bytes]]
"""A unary call: message in, message out. Refuses by raising `RpcFailure`."""


class Code(IntEnum):
    """The gRPC status codes used here (https://grpc.io/docs/guides/status-codes/)."""

    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13


class RpcFailure(Exception):
    """The call ends with this status and no message. `text` is a constant of ours: printable ASCII, no caller data."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


NO_SUCH_METHOD = RpcFailure(Code.UNIMPLEMENTED, "method not found")
CARDINALITY = RpcFailure(Code.UNIMPLEMENTED, "a unary call carries exactly one message")
COMPRESSED = RpcFailure(Code.UNIMPLEMENTED, "compressed messages are not taken")
TRUNCATED = RpcFailure(Code.INTERNAL, "the message is shorter than its prefix says")
BAD_TIMEOUT = RpcFailure(Code.INTERNAL, "malformed grpc-timeout")
BAD_MESSAGE = RpcFailure(Code.INTERNAL, "the message cannot be parsed")
TOO_LARGE = RpcFailure(Code.RESOURCE_EXHAUSTED, "the message is larger than this server takes")
TOO_LATE = RpcFailure(Code.DEADLINE_EXCEEDED, "the deadline passed before there was an answer")
BUG = RpcFailure(Code.INTERNAL, "internal error")
"""Never says more: the log has the rest."""
