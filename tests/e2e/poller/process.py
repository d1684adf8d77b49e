"""A poller of its own process, to be killed: `python -m tests.e2e.poller.process DATABASE_URL REDIS_URL KEYCLOAK`."""

from __future__ import annotations

import asyncio
import sys

from ext_authz.poller import state_checker
from tests.e2e.poller.world import issuer_of, world_of


async def main(database_url: str, redis_url: str, keycloak: str) -> None:
    state_checker.LEARN = 0.1
    async with world_of(database_url, redis_url, issuer_of(keycloak), ("console", "secret")) as world:
        await world.poller().run(asyncio.Event())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
