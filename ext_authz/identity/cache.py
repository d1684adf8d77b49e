"""What was found out about an Authorization value, for as long as that holds.

Keyed by the exact value *after* verification, so a second spelling of a token finds nothing and is verified anew.
Never an identity of the token: revocation goes by its claims, on every check.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

from msgspec import Struct

from ext_authz.clock import Clock
from ext_authz.errors import Denied
from ext_authz.identity.identity import Identity

MAX_REFUSED = 1000
REFUSED_SECONDS = 10.0


class Trust(Protocol):
    """What an identity rests on, and dies with: the signing key of a JWT."""

    trusted_until: float
    """Monotonic time; may move both ways."""


class Verified(Struct, frozen=True, eq=False):
    """An identity and how long it may be believed without looking again."""

    identity: Identity
    valid_until: float
    """Seconds since the epoch, leeway included."""
    trust: Trust


class VerifiedTokens:
    """Good tokens, bounded: the oldest goes first. Finding one is the hot path of the whole service."""

    def __init__(self, clock: Clock, size: int) -> None:
        self.hits = 0
        self._now = clock.now
        self._monotonic = clock.monotonic
        self._size = size
        # Unlike a dict, it finds its oldest entry in constant time after a million deletions.
        self._entries: OrderedDict[str, Verified] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, authorization: str) -> Identity | None:
        entry = self._entries.get(authorization)
        if entry is None:
            return None
        if self._now() < entry.valid_until and self._monotonic() < entry.trust.trusted_until:
            self.hits += 1
            return entry.identity
        del self._entries[authorization]
        return None

    def keep(self, authorization: str, entry: Verified) -> None:
        self._entries[authorization] = entry
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)


class StaleTokens(VerifiedTokens):
    """Good tokens whose key nobody has confirmed for too long: found only while that is so, and while it is borne."""

    def find_within(self, authorization: str, grace: float) -> Identity | None:
        """`grace`: seconds since the key ceased to be trusted."""
        entry = self._entries.get(authorization)
        if entry is None:
            return None
        if self._now() < entry.valid_until and 0 <= self._monotonic() - entry.trust.trusted_until < grace:
            return entry.identity
        del self._entries[authorization]
        return None


class RefusedTokens:
    """Bad tokens, for a few seconds: who sends the same one again and again pays for no cryptography."""

    def __init__(self, clock: Clock, size: int) -> None:
        self.hits = 0
        self._monotonic = clock.monotonic
        self._size = min(size, MAX_REFUSED)
        self._entries: OrderedDict[str, tuple[float, Denied]] = OrderedDict()

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
        del self._entries[authorization]

    def keep(self, authorization: str, refusal: Denied) -> None:
        self._entries[authorization] = (self._monotonic() + REFUSED_SECONDS, refusal)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)
