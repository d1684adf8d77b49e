"""grpc.health.v1, honest about what it stands for.

The server as a whole (names "" and the Authorization service) is SERVING when it gives every check a verdict. It
becomes so once it lacks no dependency, so that a rollout with a wrong URL, without tables or without a right stops at
the first pod. After that a dependency that goes away does not take the whole replica out: every replica shares it, and
with none left Envoy could not even say 503 with Retry-After, nor let through what the failure policy lets through. The
dependency itself is reported under its own name ("redis"), in /readyz and in `tollgate_dependency_up`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from google.protobuf.message import DecodeError
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from ext_authz.server.rpc import BAD_MESSAGE, Code, RpcFailure

WHOLE = ("", "envoy.service.auth.v3.Authorization")
_SERVING = HealthCheckResponse(status=HealthCheckResponse.SERVING).SerializeToString()
_NOT_SERVING = HealthCheckResponse(status=HealthCheckResponse.NOT_SERVING).SerializeToString()


class Health:
    """The state that both servers, the supervisor's /readyz and the drain agree on."""

    def __init__(self, up: Callable[[], Mapping[str, bool]], lacking: Callable[[], Collection[str]]) -> None:
        """Both as `service.Service` has them."""
        self.up = up
        self._lacking = lacking
        self.draining = False
        self._has_been_up = False

    @property
    def serving(self) -> bool:
        self._has_been_up = self._has_been_up or not self._lacking()
        return self._has_been_up and not self.draining

    async def check(self, message: bytes) -> bytes:
        """`grpc.health.v1.Health/Check`; Watch stays UNIMPLEMENTED, which clients take as "do not watch"."""
        try:
            name = HealthCheckRequest.FromString(message).service
        except DecodeError:
            raise BAD_MESSAGE from None
        if name in WHOLE:
            return _SERVING if self.serving else _NOT_SERVING
        answers = self.up().get(name)
        if answers is None:
            raise RpcFailure(Code.NOT_FOUND, "unknown service")
        return _SERVING if answers else _NOT_SERVING
