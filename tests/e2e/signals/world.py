"""The receivers of the console over a real Postgres and a real Redis, with the keys of the tests as the issuer's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from hashlib import sha256
from typing import Any, LiteralString

import httpx
from msgspec.structs import replace
from starlette.applications import Starlette

from ext_authz.clock import SystemClock
from ext_authz.db.postgres import Pool
from ext_authz.identity.authenticator import TokenAuthenticator
from ext_authz.identity.messages import SignedMessages
from ext_authz.policy.issuers import Issuer
from ext_authz.signals.obedience import Obedience
from ext_authz.signals.receivers import Receivers
from ext_authz.signals.stream import Stream, Streams
from tests.e2e.revocation.world import World, world_of
from tests.signals import AUDIENCE, CONSOLE, STREAM
from tests.tokens import EC256, RSA, jwks
from tests.unit.identity.world import an_issuer

SECRET = "Bearer of-the-stream"
OTHER = "https://other.example/realms/other"


class Receiving:
    """The console's endpoints, and what became of what they were sent."""

    def __init__(self, world: World, obedience: Obedience, streams: Streams, http: httpx.AsyncClient) -> None:
        self.world = world
        self.obedience = obedience
        self.streams = streams
        self._http = http

    async def post(self, path: str, content: str, media_type: str, **headers: str) -> httpx.Response:
        url = f"/tollgate/signals/{path}"
        return await self._http.post(url, content=content, headers={"content-type": media_type, **headers})

    async def log_out(self, token: str) -> httpx.Response:
        return await self.post("backchannel-logout", f"logout_token={token}", "application/x-www-form-urlencoded")

    async def push(self, text: str, **headers: str) -> httpx.Response:
        """As the transmitter of `stream_is_pushed`."""
        return await self.post("events", text, "application/secevent+jwt", **{"authorization": SECRET, **headers})

    async def stream_is_pushed(self) -> None:
        secret = sha256(SECRET.encode()).hexdigest()
        stream = Stream(issuer="ml", id=STREAM, audience=(AUDIENCE,), push="https://x", authorization=secret)
        await self.streams.keep(stream)
        self.streams._fresh_until = 0

    async def rows(self, query: LiteralString, *values: object) -> list[tuple[Any, ...]]:
        async def asked(connection: Any) -> list[tuple[Any, ...]]:  # noqa: ANN401
            return list(await (await connection.execute(query, values)).fetchall())

        return await self.world.store.read(asked)

    async def audit(self) -> list[tuple[Any, ...]]:
        """Of signals: who, what kind, and what it revoked. The revocations came in the same way."""
        assert await self.rows("SELECT DISTINCT via FROM audit_log") in ([], [("signal",)])
        query: LiteralString = "SELECT actor, details->>'kind', details->'revoked' FROM audit_log WHERE action = %s"
        return await self.rows(f"{query} ORDER BY position", "signal.obeyed")

    async def revoked(self) -> list[str]:
        """Ids that are in force, in Postgres; each is in Redis too."""
        ids = sorted(entry.id for entry in await self.world.store.entries())
        assert None not in [await self.world.held(each) for each in ids]
        return ids


def issuers() -> Sequence[Issuer]:
    other = {"name": "other", "issuer": OTHER, "jwks_url": "https://other.example/certs"}
    return [an_issuer(), replace(an_issuer(), **other, algorithms=frozenset({"ES256"}))]


@asynccontextmanager
async def receiving(database_url: str, redis_url: str) -> AsyncIterator[Receiving]:
    """Clients: the console and `web-app`; of the other issuer `their-app`."""

    async def fetch(url: str) -> bytes:
        return jwks(EC256 if "other" in url else RSA)

    clock, pool = SystemClock(), Pool(database_url, timeout=5)
    authenticator = TokenAuthenticator(issuers(), fetch=fetch, clock=clock, cache_size=1)
    async with world_of(database_url, redis_url) as world:
        await pool.open()
        obedience = Obedience(world.operations, timedelta(days=31), clock)
        streams = Streams(pool, "ml")
        clients: Mapping[str, frozenset[str]] = {
            "ml": frozenset({CONSOLE, "web-app"}),
            "other": frozenset({"their-app"}),
        }
        receivers = Receivers(
            SignedMessages(authenticator.key_sets),
            obedience,
            streams,
            clients,
            {issuer.name: issuer for issuer in issuers()},
            console=("ml", CONSOLE),
            clock=clock,
            address=lambda request: request.client.host if request.client else "",
        )
        transport = httpx.ASGITransport(Starlette(routes=receivers.routes()))
        async with httpx.AsyncClient(transport=transport, base_url="http://console", timeout=60) as http:
            yield Receiving(world, obedience, streams, http)
        await pool.close()
        await authenticator.stop()
