"""A poller over real stores: what it has revoked, and what it has written about users."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, LiteralString

from pydantic import SecretStr

from ext_authz.clock import Clock, SystemClock
from ext_authz.db import redis
from ext_authz.db.lease import Lease
from ext_authz.db.migrate import migrate
from ext_authz.db.postgres import Pool
from ext_authz.identity.fetch import http_client
from ext_authz.policy.issuers import Claims, Issuer
from ext_authz.poller.admin_api import AdminApi
from ext_authz.poller.event_reader import EventReader, Polled
from ext_authz.poller.keycloak import TIMEOUT, Keycloak
from ext_authz.poller.poller import Poller
from ext_authz.poller.state_checker import StateChecker
from ext_authz.revocation.operations import Operations
from ext_authz.revocation.shards import Shards
from ext_authz.revocation.store import RevocationStore
from ext_authz.settings import StoreSettings
from tests.fake_keycloak import FakeKeycloak

LIFETIME = timedelta(hours=2)
ISSUER = "main"


def issuer_of(url: str, realm: str = "ml", client: str = "triton-gateway") -> Issuer:
    """Of a Keycloak at this URL; the policy reads the roles of one client, and groups."""
    where = f"{url}/realms/{realm}"
    return Issuer(
        name=ISSUER,
        issuer=where,
        jwks_url=f"{where}/protocol/openid-connect/certs",
        audiences=frozenset({client}),
        claims=Claims(roles=(("resource_access", client, "roles"),)),
    )


class World:
    """Everything of a poller in this process, whose parts tests call one by one."""

    def __init__(
        self, url: str, shards: Shards, issuer: Issuer, client: tuple[str, str], *, clock: Clock | None = None
    ) -> None:
        self.clock = clock or SystemClock()
        self.issuer, self._client, self.secret = issuer, client, client[1]
        self.pool = Pool(url, timeout=5)
        self.store = RevocationStore(SecretStr(url), 5)
        settings = StoreSettings.model_validate({"database_url": url, "redis_url": "redis://unused"})
        self.operations = Operations(self.store, shards, (issuer,), settings)
        self.http = http_client(TIMEOUT)
        self.keycloaks: list[Keycloak] = []
        self.realm: FakeKeycloak | None = None

    def keycloak(self) -> Keycloak:
        made = Keycloak(self.issuer, *self._client, http=self.http, clock=self.clock)
        self.keycloaks.append(made)
        return made

    def poller(self, *, poll: float = 0.2, seconds: float = 1.5) -> Poller:
        """Another process of several: its lease ends after so many seconds."""
        parts = (self.issuer, self.keycloak(), self.pool, self.operations, self.clock)
        return Poller(*parts, lifetime=LIFETIME, poll=poll, lease=seconds)

    async def parts(self) -> tuple[EventReader, StateChecker]:
        """Of a new process, which takes over the lease for as long as the test takes."""
        await self.rows("UPDATE leases SET until = '-infinity' WHERE name = %s RETURNING 1", f"poller:{ISSUER}")
        lease, api = Lease(self.pool, f"poller:{ISSUER}", seconds=600), AdminApi(self.keycloak())
        assert await lease.take()
        polled = Polled(self.issuer, api, lease, self.pool, self.operations, LIFETIME)
        return EventReader(polled), StateChecker(polled, self.clock)

    async def rows(self, query: LiteralString, *values: object) -> list[tuple[Any, ...]]:
        return await self.pool.run(lambda connection: _rows(connection, query, values))

    async def revoked(self) -> set[str]:
        """Ids of everything that is revoked."""
        return {entry.id for entry in await self.store.entries()}

    async def not_before(self, entry_id: str) -> float:
        """Seconds."""
        (found,) = [entry for entry in await self.store.entries() if entry.id == entry_id]
        assert found.not_before is not None
        return found.not_before.timestamp()

    async def owner(self, subject: str) -> tuple[bool, set[str], set[str]] | None:
        """Enabled, roles and groups, as the poller wrote them."""
        query: LiteralString = "SELECT enabled, current_roles, current_groups FROM owners WHERE subject = %s"
        rows = await self.rows(query, subject)
        return (rows[0][0], set(rows[0][1] or ()), set(rows[0][2] or ())) if rows else None

    async def service_account(self, subject: str, group: str) -> None:
        """With an API token."""
        await self.rows(
            "INSERT INTO owners (issuer, subject, kind, \"group\") VALUES (%s, %s, 'service', %s) RETURNING 1",
            *(ISSUER, subject, group),
        )
        await self.rows(
            "INSERT INTO grants (id, issuer, subject, name, lifetime, created_by) "
            "VALUES (gen_random_uuid(), %s, %s, 'robot', '1 day', 'x') RETURNING 1",
            *(ISSUER, subject),
        )

    async def seen(self, *subjects: str) -> None:
        """They have called."""
        for subject in subjects:
            await self.rows(
                "INSERT INTO tokens_seen (iss, token_id, issuer, session, subject, client, username, last_seen_at) "
                "VALUES (%s, %s, '', '', %s, '', '', now()) "
                "ON CONFLICT (iss, token_id) DO UPDATE SET last_seen_at = now() RETURNING 1",
                self.issuer.issuer,
                f"token of {subject}",
                subject,
            )


async def _rows(connection: Any, query: LiteralString, values: tuple[object, ...]) -> list[tuple[Any, ...]]:  # noqa: ANN401
    return list(await (await connection.execute(query, values)).fetchall())


@asynccontextmanager
async def world_of(
    database_url: str, redis_url: str, issuer: Issuer, client: tuple[str, str], clock: Clock | None = None
) -> AsyncIterator[World]:
    await migrate(database_url)
    shards = Shards(redis_url, [redis.connect(redis_url, timeout=2)], 2)
    world = World(database_url, shards, issuer, client, clock=clock)
    await world.pool.open()
    await world.store.start()
    try:
        yield world
    finally:
        await world.http.aclose()
        await world.store.stop()
        await world.pool.close()
        await shards.close()
