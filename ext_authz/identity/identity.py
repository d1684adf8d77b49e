"""A verified caller. Nothing here is taken from an unverified token."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from msgspec import Struct

from ext_authz.decision import Principal

MAX_TEXT = 255
"""Characters of any claim that travels on into headers, logs, Redis keys and the ledger."""

# Control characters, line and paragraph separators, and halves of surrogate pairs.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

Claim = str | int | float | bool | tuple[str, ...]


class Identity(Struct, frozen=True, eq=False):
    """What one good token says. Compared and hashed by object identity, so that it can key per-token caches."""

    principal: Principal
    issuer_name: str
    """The policy's short name of the issuer; prefixes every revocation key."""
    session: str
    """`sid`, or empty (service accounts have none)."""
    issued_at: int
    """`iat`, whole seconds, rounded down."""
    expires_at: float
    """`exp`, seconds since the epoch, without leeway."""
    audiences: tuple[str, ...]
    scopes: frozenset[str]
    roles: frozenset[str]
    """All of them, as long as they are; `principal.roles` has those that travel on."""
    key_id: str
    """`kid` of the signing key: the identity dies when the key leaves the issuer's key set."""
    groups: frozenset[str] = frozenset()
    claims: Mapping[str, Claim] = {}
    """What the policy keeps, by the name that it writes; only what the token has."""
    username: str = ""
    """`preferred_username`, where the token has one: for operators who look for somebody; nothing is decided by it."""
    leeway: int = 0
    """Seconds that it is taken beyond `expires_at`."""
    degraded: str = ""
    """"jwks" when the signing key is one that nobody has confirmed for too long, and the failure policy bears it."""

    def texts(self, claim: str) -> tuple[str, ...]:
        """The values of a kept claim as text, to compare and to count by; none where the token does not have it."""
        value = self.claims.get(claim, ())
        return value if isinstance(value, tuple) else (_text(value),)


def _text(value: str | float) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def is_text(text: str) -> bool:
    """Fit to travel on: 1 to `MAX_TEXT` characters, none of which controls anything."""
    return 1 <= len(text) <= MAX_TEXT and not _UNSAFE.search(text)


def plain(names: Iterable[str]) -> tuple[str, ...]:
    """Those that are, in their order."""
    return tuple(filter(is_text, names))
