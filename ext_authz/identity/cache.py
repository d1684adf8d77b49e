"""The results of earlier verifications, by Authorization value, for as long as they hold.

Keyed by the exact value *after* verification, so another spelling of a token is not found and is verified again.
The key is never the identity of a token: revocation is decided by claims, on every check. Bounded in entries and in
bytes, since one token may have a few roles or some hundreds: the oldest entry is evicted first.
"""

from __future__ import annotations

import math
from sys import getsizeof

from msgspec import Struct
from msgspec.structs import replace

from ext_authz.bounded import BoundedCache
from ext_authz.clock import Clock
from ext_authz.errors import Denied
from ext_authz.identity.identity import Identity, RefusedToken
from ext_authz.identity.keys import SigningKey
from ext_authz.identity.standing import Changed, owner_key

MAX_BYTES = 67_108_864
"""Of verified tokens and their identities; 10,000 typical ones take 35 MB."""
MAX_REFUSED = 1000
MAX_REFUSED_BYTES = 4_194_304
REFUSED_SECONDS = 10.0

_IDENTITY_BYTES = 1100
"""Of an identity without its strings (measured)."""
_NAME_BYTES = 40
"""Of one name in a set or tuple, without its string."""


class Verified(Struct, eq=False):
    """An identity and how long it is valid without another verification."""

    identity: Identity
    valid_until: float
    """Seconds since the epoch, leeway included."""
    key: SigningKey
    once: bool = False
    """It may not be used again, and is not kept."""
    owner: str = ""
    """`owner_key`, where more is known of the owner than the token says."""
    degraded: Identity | None = None
    """The same identity while its key is within its grace; always the same object, since caches are keyed by it."""

    def at(self, now: float) -> Identity:
        """`now`: monotonic."""
        if now < self.key.trusted_until:
            return self.identity
        if self.degraded is None:
            self.degraded = replace(self.identity, degraded="jwks")
        return self.degraded


class VerifiedTokens:
    """Verified tokens. `find` is the hot path of the whole service."""

    def __init__(self, clock: Clock, size: int, max_bytes: int = MAX_BYTES) -> None:
        self.hits = 0
        self._now = clock.now
        self._monotonic = clock.monotonic
        self._entries: BoundedCache[str, Verified] = BoundedCache(max_bytes, size)

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, authorization: str, grace: float = 0) -> Identity | None:
        """`grace`: seconds for which a key is accepted beyond its trust. Routes differ in it, so an entry that is too
        old for one route is kept for the others. A key that was withdrawn (-inf) has no grace."""
        entry = self._entries.get(authorization)
        if entry is None:
            return None
        if self._now() < entry.valid_until:
            now, trusted_until = self._monotonic(), entry.key.trusted_until
            if now < trusted_until + grace:
                self.hits += 1
                return entry.at(now)
            if trusted_until > -math.inf:
                return None
        self._entries.pop(authorization)
        return None

    def forget(self, owners: Changed) -> None:
        """Of 10,000 tokens this takes a millisecond."""
        self._entries.drop(lambda entry: entry.owner in owners)

    def forget_users(self, issuer: str, users: frozenset[str] | None) -> None:
        """`issuer`: its name in the policy. None: all users of it."""
        self._entries.drop(
            lambda entry: (
                entry.identity.issuer_name == issuer and (users is None or entry.identity.principal.subject in users)
            )
        )

    def keep(self, authorization: str, entry: Verified) -> None:
        self._entries.put(authorization, entry, _size(authorization, entry.identity))


class RefusedTokens:
    """Refused tokens, for a few seconds: sending the same one again costs no cryptography."""

    def __init__(self, clock: Clock, size: int) -> None:
        self.hits = 0
        self._monotonic = clock.monotonic
        self._entries: BoundedCache[str, tuple[float, Denied]] = BoundedCache(MAX_REFUSED_BYTES, min(size, MAX_REFUSED))

    def __len__(self) -> int:
        return len(self._entries)

    def ensure_unknown(self, authorization: str) -> None:
        """Raises Denied for a token that was refused shortly before."""
        entry = self._entries.get(authorization)
        if entry is None:
            return
        until, refusal = entry
        if self._monotonic() < until:
            self.hits += 1
            raise _again(refusal)
        self._entries.pop(authorization)

    def forget(self, owners: Changed) -> None:
        """A user who was enabled again need not wait."""
        self._entries.drop(lambda entry: isinstance(entry[1], RefusedToken) and _owner(entry[1]) in owners)

    def keep(self, authorization: str, refusal: Denied) -> None:
        known = (
            _size(authorization, refusal.identity) if isinstance(refusal, RefusedToken) else getsizeof(authorization)
        )
        self._entries.put(authorization, (self._monotonic() + REFUSED_SECONDS, _again(refusal)), known + 1000)


def _owner(refused: RefusedToken) -> str:
    return owner_key(refused.identity.issuer_name, refused.identity.principal.subject)


def _again(refusal: Denied) -> Denied:
    """A new exception: one that is raised holds the frames that it passes, and the whole request with them."""
    if isinstance(refusal, RefusedToken):
        return RefusedToken(refusal, refusal.identity)
    return Denied(refusal.reason, refusal.code, refusal.detail)


def _size(authorization: str, identity: Identity) -> int:
    whole = _size(authorization, identity.owner) if identity.owner else 0
    names = [*identity.roles, *identity.groups, *identity.scopes, *identity.audiences]
    names += [text for claim in identity.claims for text in identity.texts(claim)]
    return whole + _IDENTITY_BYTES + getsizeof(authorization) + sum(map(getsizeof, names)) + _NAME_BYTES * len(names)
