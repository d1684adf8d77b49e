"""Envoy's access log service: takes what became of allowed calls, and writes it beside the ledger.

Best effort, as the protocol is: nothing is acknowledged. What Envoy cannot send it drops; what waits here is bounded,
and lost with the process. What is dropped here is counted. docs/adr/0032-access-logs.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress

import grpc
import psycopg
from pydantic import SecretStr

from ext_authz.db.backoff import Backoff, pause
from ext_authz.db.postgres import Connection
from ext_authz.db.tables import connected
from ext_authz.errors import ConfigError, Unavailable
from ext_authz.ledger.metrics import LEDGER_OUTCOMES
from ext_authz.ledger.outcome import NEEDS, Outcome, insert, outcomes_of
from ext_authz.ledger.postgres import is_about_a_row
from ext_authz.observability.once import OncePerCause
from ext_authz.tls import TlsSettings, add_port

log = logging.getLogger(__name__)

STREAM = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
MOST = 50_000
"""Outcomes that wait for Postgres: about 40 MB, and 50 seconds of 1,000 calls a second."""
PAUSE = 0.5
"""Seconds in which outcomes are gathered for one transaction."""
WRITE_TIMEOUT = 30.0
"""Of one batch, in seconds."""
LAST_TRY = 5.0
"""Seconds that a stop waits for Postgres."""
_STREAMS = 512
"""One for each worker thread of each Envoy."""
_MESSAGE_BYTES = 256 * 1024
"""Envoy sends one when it holds 16 KiB, so an entry more than that."""


class AccessLog:
    """The server, and what it has taken."""

    def __init__(self, url: SecretStr, *, batch: int, most: int = MOST) -> None:
        self._url = url
        self._batch = batch
        self._most = most
        self._waiting: list[Outcome] = []
        self._outage = OncePerCause(log, failing="access log: not written", working="access log: written again")
        self._server: grpc.aio.Server | None = None

    async def listen(self, address: str, tls: TlsSettings) -> None:
        """Raises ConfigError if it cannot."""
        self._server = server = grpc.aio.server(
            options=(("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", _MESSAGE_BYTES)),
            maximum_concurrent_rpcs=_STREAMS,
        )
        service, method = STREAM.strip("/").split("/")
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_unary_rpc_method_handler(self._stream)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        try:
            add_port(server, address, tls)
        except RuntimeError:
            raise ConfigError(f"TOLLGATE_ACCESS_LOG_LISTEN: cannot listen on {address}") from None
        await server.start()

    async def _stream(self, messages: AsyncIterator[bytes], _: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        async for message in messages:
            self.take(message)
        return b""

    def take(self, message: bytes) -> None:
        """One message of a stream."""
        for outcome in outcomes_of(message):
            if outcome is None:
                self._count("broken")
            elif len(self._waiting) < self._most:
                self._waiting.append(outcome)
            else:
                self._count("dropped")

    async def run(self, stop: asyncio.Event) -> None:
        """Write what was taken, until `stop`; then no longer listen, and write the rest."""
        backoff = Backoff(stop)
        while not stop.is_set():
            try:
                async with connected(self._url, NEEDS) as connection:
                    await insert(connection, [])  # what is missing is said before there is a call
                    await self._follow(connection, stop, backoff)
            except (Unavailable, OSError) as failure:
                self._outage.failed(str(failure))
            await backoff.pause()
        if self._server:
            await self._server.stop(grace=PAUSE)
        with suppress(Unavailable, OSError):
            async with asyncio.timeout(LAST_TRY), connected(self._url, NEEDS) as connection:
                await self._write(connection)
        self._count("dropped", len(self._waiting))

    async def _follow(self, connection: Connection, stop: asyncio.Event, backoff: Backoff) -> None:
        while not stop.is_set():
            await self._write(connection)
            backoff.succeeded()
            self._outage.worked()
            await pause(stop, PAUSE)

    async def _write(self, connection: Connection) -> None:
        """All that waits. A batch that Postgres refuses because of its content is dropped."""
        while batch := self._waiting[: self._batch]:
            try:
                async with asyncio.timeout(WRITE_TIMEOUT):
                    inserted = await insert(connection, batch)
            except psycopg.Error as refused:
                if not is_about_a_row(refused):
                    raise
                log.exception("access log: entries refused by postgres")
                self._count("broken", len(batch))
            else:
                self._count("inserted", inserted)
                self._count("duplicate", len(batch) - inserted)
            del self._waiting[: len(batch)]

    def _count(self, result: str, entries: int = 1) -> None:
        LEDGER_OUTCOMES.labels(result).inc(entries)
