"""An operator who revokes: what `tollgate revoke user ...` and `tollgate revoke session ...` do, in this process."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from msgspec import Struct

from ext_authz.errors import Unavailable
from ext_authz.revocation.entry import Kind
from ext_authz.revocation.operations import opened
from ext_authz.revocation.target import Target
from ext_authz.settings import StoreSettings

_KEPT = timedelta(hours=1)
"""Longer than any token of the demo realm lives."""


class Operator(Struct, frozen=True):
    """Where the stack keeps revocations, and the policy's name for the issuer."""

    database_url: str
    redis_url: str
    issuer: str

    def revoke_user(self, subject: str) -> None:
        """Every token of a user issued until now."""
        asyncio.run(self._revoke(Target(Kind.USER, self.issuer, subject)))

    def revoke_session(self, sid: str) -> None:
        """Every token of a session."""
        asyncio.run(self._revoke(Target(Kind.SESSION, self.issuer, sid)))

    async def _revoke(self, target: Target) -> None:
        stores = StoreSettings.model_validate({"database_url": self.database_url, "redis_url": self.redis_url})
        async with opened(stores, ()) as operations:
            receipt = (await operations.revoke(target, actor="demo", reason="", lifetime=_KEPT)).receipt
        if not receipt.everywhere:
            raise Unavailable("redis" if receipt.postgres else "postgres", receipt.sentence)
