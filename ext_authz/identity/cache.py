"""What was found out about an Authorization value, for as long as that holds.

Keyed by the exact value *after* verification, so a second spelling of a token finds nothing and is verified anew.
Never an identity of the token: revocation goes by its claims, on every check. Bounded in entries and in bytes, since
one token may have a few roles or some hundreds: the oldest goes first.
"""

from __future__ import annotations

import math
from sys import getsizeof
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from ext_authz.bounded import BoundedCache
from ext_authz.clock import Clock
from ext_authz.errors import Denied
from ext_authz.identity.identity import Identity

MAX_BYTES = 67_108_864
"""Of verified tokens and their identities; 10,000 usual ones take 35 MB."""
MAX_REFUSED = 1000
MAX_REFUSED_BYTES = 4_194_304
REFUSED_SECONDS = 10.0

_IDENTITY_BYTES = 1100
"""What an identity takes besides its texts (measured)."""
_NAME_BYTES = 40
"""What a name takes in a set or tuple besides its text."""


class Trust(Protocol):
    """What an identity rests on, and dies with: the signing key of a JWT."""

    trusted_until: float
    """Monotonic time; may move both ways."""


class Verified(Struct, eq=False):
    """An identity and how long it may be believed without looking again."""

    identity: Identity
    valid_until: float
    """Seconds since the epoch, leeway included."""
    trust: Trust
    marked: Identity | None = None
    """The same, saying that its key is only borne; always the same object, since others remember things by it."""

    def known_at(self, now: float) -> Identity:
        """`now`: monotonic."""
        if now < self.trust.trusted_until:
            return self.identity
        if self.marked is None:
            self.marked = replace(self.identity, degraded="jwks")
        return self.marked


class VerifiedTokens:
    """Good tokens. Finding one is the hot path of the whole service."""

    def __init__(self, clock: Clock, size: int, max_bytes: int = MAX_BYTES) -> None:
        self.hits = 0
        self._now = clock.now
        self._monotonic = clock.monotonic
        self._entries: BoundedCache[str, Verified] = BoundedCache(max_bytes, size)

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, authorization: str, grace: float = 0) -> Identity | None:
        """`grace`: for so many seconds a key is borne that nobody has confirmed for too long. Routes differ in it: a
        short one takes nothing away. A key that was withdrawn (-inf) is not borne."""
        entry = self._entries.get(authorization)
        if entry is None:
            return None
        if self._now() < entry.valid_until:
            now, trusted_until = self._monotonic(), entry.trust.trusted_until
            if now < trusted_until + grace:
                self.hits += 1
                return entry.known_at(now)
            if trusted_until > -math.inf:
                return None
        self._entries.pop(authorization)
        return None

    def keep(self, authorization: str, entry: Verified) -> None:
        self._entries.put(authorization, entry, _size(authorization, entry.identity))


class RefusedTokens:
    """Bad tokens, for a few seconds: who sends the same one again and again pays for no cryptography."""

    def __init__(self, clock: Clock, size: int) -> None:
        self.hits = 0
        self._monotonic = clock.monotonic
        self._entries: BoundedCache[str, tuple[float, Denied]] = BoundedCache(MAX_REFUSED_BYTES, min(size, MAX_REFUSED))

    def __len__(self) -> int:
        return len(self._entries)

    def ensure_unknown(self, authorization: str) -> None:
        """Refuse again what was refused a moment ago."""
        entry = self._entries.get(authorization)
        if entry is None:
            return
        until, refusal = entry
        if self._monotonic() < until:
            self.hits += 1
            # A new one: a raised exception collects the frames it passes.
            raise Denied(refusal.reason, refusal.code, refusal.detail)
        self._entries.pop(authorization)

    def keep(self, authorization: str, refusal: Denied) -> None:
        self._entries.put(
            authorization, (self._monotonic() + REFUSED_SECONDS, refusal), getsizeof(authorization) + 1000
        )


def _size(authorization: str, identity: Identity) -> int:
    names = [*identity.roles, *identity.groups, *identity.scopes, *identity.audiences]
    names += [text for claim in identity.claims for text in identity.texts(claim)]
    return _IDENTITY_BYTES + getsizeof(authorization) + sum(map(getsizeof, names)) + _NAME_BYTES * len(names)
