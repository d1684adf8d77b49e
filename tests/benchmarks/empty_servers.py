"""The floor that Python's own gRPC servers set: no parsing, no decision.

`python -m tests.benchmarks.empty_servers threads|aio|allow PORT`
"""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio

from ext_authz.gen.tollgate.envoy.v3.external_auth_pb2 import CheckResponse

_SERVICE = "envoy.service.auth.v3.Authorization"


def threads(port: int, answer: bytes = b"") -> None:
    """`grpcio` with its thread pool."""

    def check(_message: bytes, _context: grpc.ServicerContext) -> bytes:
        return answer

    def is_well(_message: bytes, _context: grpc.ServicerContext) -> bytes:
        return b"\x08\x01"  # SERVING

    server = grpc.server(ThreadPoolExecutor(max_workers=16))
    server.add_generic_rpc_handlers((_handlers(check), _handlers(is_well, "grpc.health.v1.Health")))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


def allowing() -> bytes:
    """Every call of every model, which without these headers would not serve it."""
    answer = CheckResponse()
    for name in ("x-authz-model", "x-authz-version"):
        option = answer.ok_response.headers.add()
        option.header.key, option.header.value = name, "*"
    return answer.SerializeToString()


async def aio(port: int) -> None:
    """`grpc.aio`."""

    async def check(_message: bytes, _context: Any) -> bytes:  # noqa: ANN401 - grpc.aio's context has no stable type
        return b""

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_handlers(check),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


def _handlers(check: Any, service: str = _SERVICE) -> grpc.GenericRpcHandler:  # noqa: ANN401 - coroutine or function
    return grpc.method_handlers_generic_handler(service, {"Check": grpc.unary_unary_rpc_method_handler(check)})


if __name__ == "__main__":
    kind, port = sys.argv[1], int(sys.argv[2])
    if kind == "aio":
        asyncio.run(aio(port))
    else:
        threads(port, allowing() if kind == "allow" else b"")
