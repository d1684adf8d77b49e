"""A connection for a command about bills, and who runs it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from ext_authz.errors import ConfigError
from ext_authz.report import operator

if TYPE_CHECKING:
    from ext_authz.db.postgres import Connection
    from ext_authz.db.tables import Needs
    from ext_authz.tokens.model import Actor

R = TypeVar("R")


def actor(by: str = "") -> Actor:
    """Whoever runs the command may do what the login at Postgres may."""
    from ext_authz.tokens.model import Actor

    return Actor(via="cli", name=by or operator())


def with_connection(needs: Needs, work: Callable[[Connection], Awaitable[R]]) -> R:
    """Raises ConfigError for what cannot be done as things are."""
    from ext_authz.db.tables import connected
    from ext_authz.settings import DatabaseSettings, load_settings
    from ext_authz.tokens.model import NotDone

    async def done() -> R:
        async with connected(load_settings(DatabaseSettings).database_url, needs) as connection:
            return await work(connection)

    try:
        return asyncio.run(done())
    except NotDone as refused:
        raise ConfigError(refused.detail) from None


def in_transaction(needs: Needs, work: Callable[[Connection], Awaitable[R]]) -> R:
    """As `with_connection`, all of it or nothing."""

    async def whole(connection: Connection) -> R:
        async with connection.transaction():
            return await work(connection)

    return with_connection(needs, whole)
