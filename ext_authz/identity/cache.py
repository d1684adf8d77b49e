"""What was found out about an Authorization value, for as long as that holds.

Keyed by the exact value *after* verification, so a second spelling of a token finds nothing and is verified anew.
Never an identity of the token: revocation goes by its claims, on every check. Bounded in entries and in bytes, since
one token may have a few roles or some hundreds: the oldest goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from sys import getsizeof
from typing import Generic, Protocol, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from ext_authz.clock import Clock
from ext_authz.errors import Denied
from ext_authz.identity.identity import Identity

MAX_BYTES = 67_108_864
"""Of verified tokens and their identities; 10,000 usual ones take 35 MB."""
MAX_REFUSED = 1000
MAX_REFUSED_BYTES = 4_194_304
REFUSED_SECONDS = 10.0

_ENTRY_BYTES = 1400
"""What an entry takes besides its texts (measured)."""
_NAME_BYTES = 40
"""What a name takes in a set or tuple besides its text."""


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
    size: int = 0
    """Bytes of memory, roughly; known once it is kept."""


class Refused(Struct, frozen=True):
    """A refusal and until when it is repeated, in monotonic time."""

    until: float
    refusal: Denied
    size: int


_Entry = TypeVar("_Entry", Verified, Refused)


class _Bounded(Generic[_Entry]):
    def __init__(self, most: int, most_bytes: int) -> None:
        self.hits = 0
        # Unlike a dict, it finds its oldest entry in constant time after a million deletions.
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._most = most
        self._most_bytes = most_bytes
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def _put(self, authorization: str, entry: _Entry) -> None:
        self._drop(authorization)
        self._entries[authorization] = entry
        self._bytes += entry.size
        while self._bytes > self._most_bytes or len(self._entries) > self._most:
            self._drop(next(iter(self._entries)))

    def _drop(self, authorization: str) -> None:
        if (gone := self._entries.pop(authorization, None)) is not None:
            self._bytes -= gone.size


class VerifiedTokens(_Bounded[Verified]):
    """Good tokens. Finding one is the hot path of the whole service."""

    def __init__(self, clock: Clock, size: int, most_bytes: int = MAX_BYTES) -> None:
        super().__init__(size, most_bytes)
        self._now = clock.now
        self._monotonic = clock.monotonic

    def find(self, authorization: str) -> Identity | None:
        entry = self._entries.get(authorization)
        if entry is None:
            return None
        if self._now() < entry.valid_until and self._monotonic() < entry.trust.trusted_until:
            self.hits += 1
            return entry.identity
        self._drop(authorization)
        return None

    def keep(self, authorization: str, entry: Verified) -> None:
        self._put(authorization, replace(entry, size=_size(authorization, entry.identity)))


class StaleTokens(VerifiedTokens):
    """Good tokens whose key nobody has confirmed for too long: found only while that is so, and while it is borne."""

    def find_within(self, authorization: str, grace: float) -> Identity | None:
        """`grace`: seconds since the key ceased to be trusted. Routes differ in it: a short one takes nothing away."""
        entry = self._entries.get(authorization)
        if entry is None:
            return None
        stale = self._monotonic() - entry.trust.trusted_until
        if self._now() < entry.valid_until and stale >= 0:
            return entry.identity if stale < grace else None
        self._drop(authorization)
        return None


class RefusedTokens(_Bounded[Refused]):
    """Bad tokens, for a few seconds: who sends the same one again and again pays for no cryptography."""

    def __init__(self, clock: Clock, size: int) -> None:
        super().__init__(min(size, MAX_REFUSED), MAX_REFUSED_BYTES)
        self._monotonic = clock.monotonic

    def ensure_unknown(self, authorization: str) -> None:
        """Refuse again what was refused a moment ago."""
        entry = self._entries.get(authorization)
        if entry is None:
            return
        if self._monotonic() < entry.until:
            self.hits += 1
            # A new one: a raised exception collects the frames it passes.
            raise Denied(entry.refusal.reason, entry.refusal.code, entry.refusal.detail)
        self._drop(authorization)

    def keep(self, authorization: str, refusal: Denied) -> None:
        until, size = self._monotonic() + REFUSED_SECONDS, _ENTRY_BYTES + getsizeof(authorization)
        self._put(authorization, Refused(until, refusal, size))


def _size(authorization: str, identity: Identity) -> int:
    names = [*identity.roles, *identity.groups, *identity.scopes, *identity.audiences]
    names += [text for claim in identity.claims for text in identity.texts(claim)]
    return _ENTRY_BYTES + getsizeof(authorization) + sum(map(getsizeof, names)) + _NAME_BYTES * len(names)
