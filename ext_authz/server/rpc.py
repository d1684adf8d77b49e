"""What both gRPC servers share: the health service, and the statuses and texts with which they refuse."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import IntEnum

from google.protobuf.message import DecodeError
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from ext_authz.server.messages import Report

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

WHOLE = ("", "envoy.service.auth.v3.Authorization")
_SERVING = HealthCheckResponse(status=HealthCheckResponse.SERVING).SerializeToString()
_NOT_SERVING = HealthCheckResponse(status=HealthCheckResponse.NOT_SERVING).SerializeToString()


class Health:
    """grpc.health.v1: the state that both servers, the supervisor's /readyz and the drain agree on.

    The server as a whole (names "" and the Authorization service) is SERVING when it gives every check a verdict. It
    becomes so once it lacks no dependency, so that a rollout with a wrong URL, without tables or without a right stops
    at the first pod. After that a dependency that goes away does not take the whole replica out: every replica shares
    it, and with none left Envoy could not even say 503 with Retry-After, nor let through what the failure policy lets
    through. The dependency itself is reported under its own name ("redis"), in /readyz and in
    `tollgate_dependency_up`.
    """

    def __init__(self, report: Callable[[], Report]) -> None:
        """As `worker.Service` has it."""
        self._report = report
        self.draining = False
        self._has_been_up = False

    @property
    def serving(self) -> bool:
        self._has_been_up = self._has_been_up or not self._report().lacking
        return self._has_been_up and not self.draining

    async def check(self, message: bytes) -> bytes:
        """`grpc.health.v1.Health/Check`; Watch stays UNIMPLEMENTED, which clients take as "do not watch"."""
        try:
            name = HealthCheckRequest.FromString(message).service
        except DecodeError:
            raise BAD_MESSAGE from None
        if name in WHOLE:
            return _SERVING if self.serving else _NOT_SERVING
        answers = self._report().up.get(name)
        if answers is None:
            raise RpcFailure(Code.NOT_FOUND, "unknown service")
        return _SERVING if answers else _NOT_SERVING
