"""An operator who revokes: what `tollgate revoke user ...` and `tollgate revoke session ...` do, in this process."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from msgspec import Struct
from pydantic import SecretStr

from ext_authz.db.redis import connect
from ext_authz.errors import Unavailable
from ext_authz.revocation.copy import RevocationCopy
from ext_authz.revocation.entry import Entry, Kind
from ext_authz.revocation.revoker import Revoker
from ext_authz.revocation.store import RevocationStore

_TIMEOUT = 5.0
_KEPT = timedelta(hours=1)
"""Longer than any token of the demo realm lives."""


class Operator(Struct, frozen=True):
    """Where the stack keeps revocations, and the policy's name for the issuer."""

    database_url: str
    redis_url: str
    issuer: str

    def revoke_user(self, subject: str) -> None:
        """Every token of a user issued until now."""
        now = datetime.now(UTC)
        self._revoke(Entry(kind=Kind.USER, issuer=self.issuer, value=subject, not_before=now, expires_at=now + _KEPT))

    def revoke_session(self, sid: str) -> None:
        """Every token of a session."""
        expires_at = datetime.now(UTC) + _KEPT
        self._revoke(Entry(kind=Kind.SESSION, issuer=self.issuer, value=sid, expires_at=expires_at))

    def _revoke(self, entry: Entry) -> None:
        asyncio.run(self._written(entry))

    async def _written(self, entry: Entry) -> None:
        store = RevocationStore(SecretStr(self.database_url), _TIMEOUT)
        await store.start()
        async with connect(self.redis_url, timeout=_TIMEOUT) as redis:
            receipt = await Revoker(store, RevocationCopy(redis)).revoke(entry)
        await store.stop()
        if not receipt.everywhere:
            raise Unavailable("redis" if receipt.postgres else "postgres", receipt.sentence)
