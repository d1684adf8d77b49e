"""Serves the gRPC interface, with the standard services beside it: health (grpc.health.v1) and reflection.

The front routes neither of them, so only what reaches the port itself can ask. Health is for everybody: probes have no
token. What reflection tells is public, but its streams last for as long as a client likes, so it is for callers.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from ext_authz.api.grpc_services import REVOCATIONS, TOKENS, Context, GrpcServices, refused
from ext_authz.errors import ConfigError
from ext_authz.identity.api_tokens import MANAGE_TOKENS
from ext_authz.tls import TlsSettings, add_port

MAX_MESSAGE = 65_536
"""Bytes, as of the body of a REST request."""

_MOST_CALLS = 256
"""At a time; more are refused with RESOURCE_EXHAUSTED."""
_GRACE = 5.0
"""Seconds."""
_SERVICES = TOKENS, REVOCATIONS


class _Health(health.aio.HealthServicer):
    """SERVING until the process is told to stop. That a store is away is said by each call, and by /readyz."""

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:  # noqa: N802 - gRPC's
        """Clients take it as "do not watch", as of the authorizer: a watch would be a call that nothing ends."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "ask again in place of watching")


class _Reflection(reflection.aio.ReflectionServicer):
    """For whoever may call the services that it describes."""

    def __init__(self, services: GrpcServices) -> None:
        super().__init__((*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME))
        self._services = services

    async def ServerReflectionInfo(  # type: ignore[override]  # noqa: N802 - gRPC's; its stubs take it for a coroutine
        self, request_iterator: AsyncIterable[reflection_pb2.ServerReflectionRequest], context: Context
    ) -> AsyncIterator[reflection_pb2.ServerReflectionResponse]:
        try:
            await self._services.actor(context, MANAGE_TOKENS)
        except Exception as error:  # noqa: BLE001 - failure_of logs what is a bug
            await refused(context, error)
        answers = super().ServerReflectionInfo(request_iterator, context)
        async for answer in cast("AsyncIterator[reflection_pb2.ServerReflectionResponse]", answers):
            yield answer


@asynccontextmanager
async def listening(services: GrpcServices, address: str, tls: TlsSettings) -> AsyncIterator[None]:
    """Serve until the block ends; calls in flight have five seconds then.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    server, healthy = _server(services), _Health()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    for name in _SERVICES:
        await healthy.set(name, health_pb2.HealthCheckResponse.SERVING)
    try:
        add_port(server, address, tls)
    except RuntimeError:
        raise ConfigError(f"TOLLGATE_CONSOLE_GRPC_PORT: cannot listen on {address}") from None
    await server.start()
    try:
        yield
    finally:
        await healthy.enter_graceful_shutdown()
        await server.stop(_GRACE)


def _server(services: GrpcServices) -> grpc.aio.Server:
    server = grpc.aio.server(
        options=(("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", MAX_MESSAGE)),
        maximum_concurrent_rpcs=_MOST_CALLS,
    )
    server.add_generic_rpc_handlers(services.handlers)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(_Reflection(services), server)  # type: ignore[no-untyped-call]
    return server
