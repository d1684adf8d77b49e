"""The portable server: grpc.aio, for machines without a wheel of h2corn. `python -m ext_authz.server.grpcio`."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Callable, Mapping
from functools import partial

import grpc
import uvloop

from ext_authz.server.rpc import BUG, MAX_CALLS, Method, RpcFailure
from ext_authz.server.worker import live
from ext_authz.settings import Settings
from ext_authz.tls import add_port

_STATUS = {code.value[0]: code for code in grpc.StatusCode}
_IDENTITY_ONLY = 1 << grpc.Compression.NoCompression.value

logger = logging.getLogger("ext_authz.server.grpcio")  # as __main__ it would have no name


async def _answer(method: Method, message: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    try:
        return await method(message)
    except RpcFailure as failure:
        refusal = failure
    except Exception:
        logger.exception("a method failed")
        refusal = BUG
    return await context.abort(_STATUS[refusal.code], refusal.text)


async def serve(
    settings: Settings,
    methods: Mapping[str, Method],
    _: socket.socket | None,
    listens: Callable[[], None],
    stop: asyncio.Event,
) -> None:
    """As `worker.Serve`. It opens its own socket: grpcio takes none that is open already."""
    server = _server(settings)
    for path, method in methods.items():
        service, name = path.strip("/").split("/")
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(partial(_answer, method))
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {name: handler}),))
    await server.start()
    listens()
    await stop.wait()
    await server.stop(settings.drain_timeout)


def _server(settings: Settings) -> grpc.aio.Server:
    server = grpc.aio.server(
        options=(
            ("grpc.so_reuseport", 1),
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.compression_enabled_algorithms_bitset", _IDENTITY_ONLY),
        ),
        maximum_concurrent_rpcs=MAX_CALLS,
    )
    host = f"[{settings.listen_host}]" if ":" in settings.listen_host else settings.listen_host
    address = f"{host}:{settings.listen_port}"
    add_port(server, address, settings)
    return server


if __name__ == "__main__":
    sys.exit(uvloop.run(live(serve)))
