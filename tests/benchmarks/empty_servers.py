"""The floor that Python's own gRPC servers set: no parsing, no decision.

`python -m tests.benchmarks.empty_servers threads|aio PORT`
"""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio

_SERVICE = "envoy.service.auth.v3.Authorization"


def threads(port: int) -> None:
    """`grpcio` with its thread pool."""

    def check(_message: bytes, _context: grpc.ServicerContext) -> bytes:
        return b""

    server = grpc.server(ThreadPoolExecutor(max_workers=16))
    server.add_generic_rpc_handlers((_handlers(check),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


async def aio(port: int) -> None:
    """`grpc.aio`."""

    async def check(_message: bytes, _context: Any) -> bytes:  # noqa: ANN401 - grpc.aio's context has no stable type
        return b""

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_handlers(check),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


def _handlers(check: Any) -> grpc.GenericRpcHandler:  # noqa: ANN401 - a coroutine function or a function
    return grpc.method_handlers_generic_handler(_SERVICE, {"Check": grpc.unary_unary_rpc_method_handler(check)})


if __name__ == "__main__":
    if sys.argv[1] == "threads":
        threads(int(sys.argv[2]))
    else:
        asyncio.run(aio(int(sys.argv[2])))
