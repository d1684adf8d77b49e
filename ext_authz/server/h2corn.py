"""The fast server: h2corn (HTTP/2 in Rust) with our ASGI application. `python -m ext_authz.server.h2corn`.

What lies under an underscore is used because h2corn's public `Server` prints a banner that no option turns off; hence
the exact version in pyproject.toml.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

import uvloop
from h2corn import Config, RequestPolicy
from h2corn._lib import prepare_tls, serve_fds
from h2corn._lifespan import PreparedApplication
from h2corn._server import load_tls_material

from ext_authz.server import ports
from ext_authz.server.asgi import Rpc
from ext_authz.server.rpc import MAX_CALLS, Method
from ext_authz.server.worker import live
from ext_authz.settings import Settings

MAX_STREAMS = 240
"""Calls in flight on one connection; Envoy opens another when it needs more. Together with as many that were cancelled
and are not over, which h2corn allows, fewer than `MAX_CALLS`: no connection can keep all others out."""

MAX_CONNECTIONS = 4096
"""More wait in the queue of the listener."""

_IO_THREADS = 2
"""One is as fast. But a connection on which the server must reset stream after stream does not yield to the others of
its thread: there is a second one for those."""

_OTHER_FILES = 256
_STALL_SECONDS = 10.0
"""A call is one small message: a caller who dribbles it, or does not read the answer, is cut off."""
_IDLE_SECONDS = 600.0
_HEADER_BYTES = 16_384
_HEADER_FIELDS = 100
_FRAME_BYTES = 16_384
_STREAM_WINDOW = 65_535
_CONNECTION_WINDOW = 1_048_576


async def serve(
    settings: Settings,
    methods: Mapping[str, Method],
    listener: socket.socket | None,
    listens: Callable[[], None],
    stop: asyncio.Event,
) -> None:
    """As `worker.Serve`. The end of accepting, GOAWAY, and the wait for calls in flight are h2corn's."""
    application = PreparedApplication(Rpc(methods, settings.max_message_bytes), factory=False, mode="off")
    await application.startup(required=False)
    with listener or ports.bound("LISTEN", settings.listen_host, settings.listen_port, shared=True) as accepting:
        config = configuration(settings, accepting.fileno(), connections_allowed())
        with without_interrupting():
            serving = serve_fds(
                application,
                [accepting.fileno()],
                config,
                asyncio.create_task(_stopped(stop)),
                ready_trigger=lambda failure: None if failure else listens(),
                prepared_tls=prepare_tls(config, load_tls_material(config)),
            )
        await serving


async def _stopped(stop: asyncio.Event) -> str:
    await stop.wait()
    return "stop"


def configuration(settings: Settings, listener: int, connections: int) -> Config:
    """HTTP/2 only, gRPC only, everything that a caller can make large or slow bounded."""
    return Config(
        bind=(f"fd://{listener}",),
        certfile=settings.tls_cert,
        keyfile=settings.tls_key,
        ca_certs=settings.tls_client_ca,
        cert_reqs="required" if settings.tls_client_ca else "none",
        lifespan="off",
        runtime_threads=_IO_THREADS,
        http1=False,
        grpc=True,
        access_log=False,
        log_format="json",
        date_header=False,
        max_concurrent_streams=MAX_STREAMS,
        limit_concurrency=MAX_CALLS,
        limit_connections=connections,
        limit_request_fields=_HEADER_FIELDS,
        h2_max_header_list_size=_HEADER_BYTES,
        h2_max_header_block_size=_HEADER_BYTES,
        h2_max_inbound_frame_size=_FRAME_BYTES,
        h2_initial_stream_window_size=_STREAM_WINDOW,
        h2_initial_connection_window_size=_CONNECTION_WINDOW,
        # Only a backstop: `Rpc` refuses a message that is too large with its gRPC status, and reads no further.
        request_policies=(
            RequestPolicy(
                path="/*",
                max_request_body_size=settings.max_message_bytes + _CONNECTION_WINDOW,
                timeout_request_body_idle=_STALL_SECONDS,
                h2_timeout_response_stall=_STALL_SECONDS,
            ),
        ),
        timeout_handshake=_STALL_SECONDS,
        timeout_request_header=_STALL_SECONDS,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=settings.drain_timeout,
        h2_timeout_write=_STALL_SECONDS,
    )


def connections_allowed() -> int:
    """A connection is a file, and h2corn ends when it is refused one: so allow more of them, and count on no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = MAX_CONNECTIONS + _OTHER_FILES
    files = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if 0 <= soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    return max(1, files - _OTHER_FILES)


@contextmanager
def without_interrupting() -> Iterator[None]:
    """A thread that is started inside waits, when it is woken, for the one that runs: SCHED_BATCH.

    For h2corn's I/O threads. Otherwise every answer wakes one of them and it interrupts the interpreter's, which then
    waits for the core: twice per check when saturated, for a third of the processor time. The interpreter's own keeps
    its policy, so as not to wait for other processes (docs/adr/0016-where-the-time-goes.md).
    """
    policy = os.sched_getscheduler(0)
    with suppress(OSError):  # a sandbox may forbid it: slower, and nothing else
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        yield
    finally:
        with suppress(OSError):
            os.sched_setscheduler(0, policy, os.sched_param(0))


if __name__ == "__main__":
    sys.exit(uvloop.run(live(serve)))
