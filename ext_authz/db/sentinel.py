"""Redis Sentinel: connections that end at the server that is the primary now.

All Sentinels are asked at once, and of those that answer the ones with the latest configuration epoch count: a Sentinel
that was cut off during a fail-over still names the primary before it. docs/adr/0033-sentinel.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any

from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError
from redis.exceptions import ConnectionError as ConnectionFailed

from ext_authz.db.store_urls import sentinels_of

ANSWER = 0.5
"""Longest wait for a Sentinel, in seconds."""
LOOK = 1.0
"""Seconds between two questions whether a connection still ends at the primary."""

State = dict[str, Any]
"""What a Sentinel knows of a primary, as redis-py reads it."""


class Sentinels:
    """Those of one URL."""

    def __init__(self, addresses: Sequence[tuple[str, int]], name: str, options: Mapping[str, Any]) -> None:
        self._addresses = addresses
        self._name = name
        self._options = options

    async def primary(self) -> tuple[str, int]:
        """Its address.

        Raises:
            ConnectionFailed: there is none now, or no Sentinel says so.
        """
        async with Sentinel(self._addresses, sentinel_kwargs=self._options) as sentinel:  # type: ignore[no-untyped-call]
            answers = await asyncio.gather(*map(_primaries, sentinel.sentinels), return_exceptions=True)
            known = [each[self._name] for each in answers if isinstance(each, dict) and self._name in each]
            latest = max((state["config-epoch"] for state in known), default=None)
            states = [state for state in known if state["config-epoch"] == latest]
            up = [state for state in states if sentinel.check_master_state(state, self._name)]
        if not up:
            raise ConnectionFailed(_why(answers, known))
        return str(up[0]["ip"]), int(up[0]["port"])


async def _primaries(sentinel: Any) -> dict[str, State]:  # noqa: ANN401 - redis-py's client
    try:
        async with asyncio.timeout(ANSWER):
            found: dict[str, State] = await sentinel.sentinel_masters()
            return found
    except TimeoutError:  # without TLS, it waits for the end of a line, and does not answer a TLS handshake
        over_tls = issubclass(sentinel.connection_pool.connection_class, SSLConnection)
        raise ConnectionFailed("TLS: no answer" if over_tls else "no answer in time") from None


def _why(answers: Sequence[object], known: Sequence[State]) -> str:
    if known:
        return "its Sentinels name no primary that is up: a fail-over is under way, or no replica can take over"
    if any(isinstance(answer, dict) for answer in answers):
        return "its Sentinels know no primary of this name: see the name behind the hosts in TOLLGATE_REDIS_URL"
    if any(isinstance(answer, AuthenticationError | NoPermissionError) for answer in answers):
        return "its Sentinels refuse the user or password: see sentinel_password in TOLLGATE_REDIS_URL"
    if any(isinstance(answer, ResponseError) and "unknown command" in str(answer) for answer in answers):
        return "it has no Sentinel where TOLLGATE_REDIS_URL names one: write their port, or redis:// for Redis itself"
    return f"none of its Sentinels answers ({answers[0]})"


class ToPrimary(Connection):
    """Asks the Sentinels whenever it connects, and, as long as it is used, once a second whether that still holds."""

    def __init__(self, *, sentinels: Sentinels, marker: str, **options: Any) -> None:  # noqa: ANN401 - redis-py's
        """`marker`: the key without which checks do not rely on the revocations of a server."""
        super().__init__(**options)
        self._sentinels = sentinels
        self._marker = marker
        self._asked_at = 0.0

    async def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:  # noqa: FBT001, FBT002 - redis-py's
        if self.is_connected:
            if monotonic() - self._asked_at < LOOK or await self.is_current():
                return
            await self._leave()
        self.host, self.port = await self._sentinels.primary()
        self._asked_at = monotonic()
        await super().connect_check_health(check_health, retry_socket_connect)

    async def on_connect_check_health(self, check_health: bool = True) -> None:  # noqa: FBT001, FBT002 - redis-py's
        await super().on_connect_check_health(check_health)
        await self.send_command("INFO", "replication", check_health=False)
        if b"role:master" not in await self.read_response():
            raise ConnectionFailed("its Sentinels name a server that is a replica: a fail-over is under way")

    async def _leave(self) -> None:
        """Whoever cannot know yet that this server was replaced asks Postgres, if the server can be made to say so."""
        with suppress(RedisError, OSError):
            async with asyncio.timeout(ANSWER):
                await self.send_command("DEL", self._marker, check_health=False)
                await self.read_response()
        await self.disconnect(nowait=True)

    async def is_current(self) -> bool:
        """False when another server is the primary now. While no Sentinel says so, this one is."""
        try:
            address = await self._sentinels.primary()
        except (RedisError, OSError):
            return True
        finally:
            self._asked_at = monotonic()
        return address == (self.host, self.port)

    async def until_replaced(self) -> None:
        """Return when another server is the primary."""
        while await self.is_current():  # noqa: ASYNC110 - nobody could set an event
            await asyncio.sleep(LOOK)


class ToPrimaryOverTls(ToPrimary, SSLConnection):
    pass


def sentinels_at(url: str, options: Mapping[str, Any]) -> Sentinels:
    """`options`: of connections to the primary. Those about TLS hold for the Sentinels, too."""
    parts = sentinels_of(url)
    tls = {name: value for name, value in options.items() if name.startswith("ssl_")}
    more = {"ssl": url.startswith("rediss"), "protocol": 2, "driver_info": None, "retry": Retry(NoBackoff(), 0)}
    return Sentinels(parts.sentinels, parts.name, {**tls, **more, **parts.credentials})
