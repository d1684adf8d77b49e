"""One signing key, and its row in Postgres."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, LiteralString

from msgspec import Struct


class Key(Struct, frozen=True):
    """One signing key, without its private half."""

    kid: str
    """RFC 7638 thumbprint."""
    created_at: datetime
    signs_from: datetime
    retired_at: datetime | None
    withdrawn_at: datetime | None
    live: bool
    """Some of its tokens may be in use."""
    public: Mapping[str, Any]
    """The JWK."""
    private: bytes
    """Encrypted."""

    @property
    def published(self) -> bool:
        return self.withdrawn_at is None and (self.retired_at is None or self.live)

    def signs(self, at: datetime) -> bool:
        return self.withdrawn_at is None and self.signs_from <= at and (self.retired_at is None or at < self.retired_at)


def state_of(key: Key, now: datetime) -> str:
    """In one word."""
    if key.withdrawn_at is not None:
        return "withdrawn"
    if key.signs(now):
        return "signs"
    if key.signs_from > now and key.retired_at is None:
        return "next"
    return "published" if key.published else "retired"


KEYS: LiteralString = """
SELECT kid, created_at, signs_from, retired_at, withdrawn_at, retired_at > %(now)s - interval '1 hour' OR EXISTS (
    SELECT FROM tokens WHERE tokens.kid = signing_keys.kid AND expires_at > %(now)s - interval '1 hour'
), public_key, private_key
FROM signing_keys ORDER BY signs_from DESC, kid
"""
ADD: LiteralString = """
INSERT INTO signing_keys (kid, algorithm, public_key, private_key, created_at, signs_from)
VALUES (%s, 'ES256', %s, %s, %s, %s)
"""

RETIRE: LiteralString = """
UPDATE signing_keys SET retired_at = %(starts)s WHERE retired_at IS NULL OR retired_at > %(starts)s
"""
WITHDRAW: LiteralString = """
UPDATE signing_keys SET withdrawn_at = %(now)s WHERE kid = %(kid)s AND withdrawn_at IS NULL
RETURNING retired_at IS NULL OR retired_at > %(now)s
"""
LIVE: LiteralString = """
SELECT jti FROM tokens WHERE kid = %(kid)s AND expires_at > %(now)s AND least(ends_at, expires_at) > %(now)s LIMIT 500
"""
"""So many that their end takes far less than the timeout of Postgres."""
LOCK_OWNERS: LiteralString = """
SELECT FROM owners WHERE (issuer, subject) IN (
    SELECT issuer, subject FROM grants JOIN tokens ON grant_id = grants.id WHERE jti = ANY(%(jtis)s)
) ORDER BY issuer, subject FOR UPDATE
"""
"""As everywhere: owners before tokens."""
END: LiteralString = "UPDATE tokens SET ends_at = least(ends_at, %(now)s) WHERE jti = ANY(%(jtis)s)"
