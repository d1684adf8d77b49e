"""The console's part for signals as a process has it: on a port that Keycloak reaches, with its background task."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import jwt
import uvicorn
from starlette.applications import Starlette

from ext_authz.clock import SystemClock
from ext_authz.console_settings import ConsoleSettings
from ext_authz.db.postgres import Pool
from ext_authz.identity.authenticator import TokenAuthenticator
from ext_authz.identity.fetch import HttpFetch
from ext_authz.identity.identity import Identity
from ext_authz.policy.load import load_policy
from ext_authz.revocation.entry import Kind, ids
from ext_authz.signals.parts import Signals
from tests.e2e.revocation.world import World, world_of
from tests.keycloak import RunningKeycloak
from tests.realm_admin import CONSOLE
from tests.services import free_port
from tests.waiting import until

POLICY = """\
version: 1
issuers:
  - name: keycloak
    issuer: {issuer}
    jwks_url: {issuer}/protocol/openid-connect/certs
    audiences: [triton-gateway]
    jwks_refresh: 2s
routes:
  - {{name: live, path: /v2/health/live, methods: [GET], public: true}}
"""


class Console:
    """What receives signals, and who sends them."""

    def __init__(self, world: World, signals: Signals, authenticator: TokenAuthenticator, origin: str) -> None:
        self.world = world
        self.signals = signals
        self.authenticator = authenticator
        self.origin = origin

    async def identity(self, token: str) -> Identity:
        return await self.authenticator.authenticate((f"Bearer {token}",))

    async def revoked(self, identity: Identity) -> Kind | None:
        """By what Postgres and Redis agree that it is: what only Postgres holds is on its way to Redis."""
        (kind,) = await self.world.store.revoked([(ids(identity), identity.issued_at)])
        if kind is None or await self.world.held(ids(identity)[list(Kind).index(kind)]) is None:
            return None
        return kind

    async def until_revoked(self, identity: Identity, seconds: float = 20) -> Kind:
        async def revoked() -> bool:
            return await self.revoked(identity) is not None

        await until(revoked, seconds)
        kind = await self.revoked(identity)
        assert kind is not None
        return kind


def environ(keycloak: RunningKeycloak, directory: Path, database_url: str, redis_url: str) -> dict[str, str]:
    """Settings of the console, and of `tollgate signals`."""
    policy = directory / "policy.yaml"
    policy.write_text(POLICY.format(issuer=keycloak.issuer))
    return {
        "TOLLGATE_POLICY": str(policy),
        "TOLLGATE_DATABASE_URL": database_url,
        "TOLLGATE_REDIS_URL": redis_url,
        "TOLLGATE_CONSOLE_CLIENT_SECRET": CONSOLE[1],
    }


@asynccontextmanager
async def console_at(keycloak: RunningKeycloak, environ: dict[str, str], **settings: object) -> AsyncIterator[Console]:
    """Until the end of the block."""
    given: dict[str, Any] = {name.removeprefix("TOLLGATE_").lower(): value for name, value in environ.items()}
    key = base64.b64encode(b"k" * 32).decode()
    configured = ConsoleSettings.model_validate(
        {**given, "console_keys": key, "console_events_poll": 0.1, "console_signal_clients": "web-app", **settings}
    )
    policy, clock, fetch = load_policy(configured.policy, {}), SystemClock(), HttpFetch(5)
    authenticator = TokenAuthenticator(policy.issuers, fetch=fetch, clock=clock, cache_size=100)
    pool, stop = Pool(environ["TOLLGATE_DATABASE_URL"], timeout=5), asyncio.Event()
    await authenticator.start()
    async with world_of(environ["TOLLGATE_DATABASE_URL"], environ["TOLLGATE_REDIS_URL"]) as world:
        await pool.open()
        signals = Signals(configured, policy, pool, authenticator, world.operations, clock)
        async with asyncio.TaskGroup() as tasks:
            server, origin = served(Starlette(routes=signals.routes))
            tasks.create_task(server.serve())
            tasks.create_task(signals.run(stop))
            await until(lambda: server.started)
            try:
                yield Console(world, signals, authenticator, origin)
            finally:
                stop.set()
                server.should_exit = True
        await pool.close()
    await authenticator.stop()
    await fetch.aclose()


def served(application: Starlette) -> tuple[uvicorn.Server, str]:
    port = free_port()
    config = uvicorn.Config(application, host="127.0.0.1", port=port, log_config=None, lifespan="off")
    return uvicorn.Server(config), f"http://127.0.0.1:{port}"


class Login:
    """A user with a session of `web-app`."""

    def __init__(self, keycloak: RunningKeycloak, username: str = "") -> None:
        self.keycloak = keycloak
        self.username = username or keycloak.admin.user("infer")
        form = {"grant_type": "password", "username": self.username, "password": self.username, "scope": "openid"}
        answer = self._post("token", **form)
        self.token, self.refresh_token = str(answer["access_token"]), str(answer["refresh_token"])

    @property
    def sid(self) -> str:
        return str(jwt.decode(self.token, options={"verify_signature": False})["sid"])

    def log_out(self) -> None:
        self._post("logout", refresh_token=self.refresh_token)

    def _post(self, path: str, **form: str) -> dict[str, Any]:
        url = f"{self.keycloak.issuer}/protocol/openid-connect/{path}"
        answer = httpx.post(url, data={"client_id": "web-app", **form}, timeout=30).raise_for_status()
        return dict(answer.json()) if answer.content else {}
