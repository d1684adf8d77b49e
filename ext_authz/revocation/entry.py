"""What can be revoked, under which id each revocation is kept, and the rule "is this token revoked".

The raw token is never an id: signatures are malleable.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum

from msgspec import Struct

from ext_authz.errors import escaped
from ext_authz.identity.identity import Identity

TokenIds = tuple[str, str, str, str, str]
"""The ids that a token is looked up under, in the order of `Kind`; "" where the token has no such claim."""

NEVER = -math.inf
"""Nothing is revoked."""


class Kind(StrEnum):
    """The letter in front of every id."""

    TOKEN = "t"  # noqa: S105 - a letter, no secret
    """One token, by `jti`."""
    SESSION = "s"
    """Every token of a session, by `sid`."""
    USER = "u"
    """Every token of a subject issued at or before `not_before`."""
    CLIENT = "c"
    """Every token of a client (`azp`) issued at or before `not_before`."""
    ISSUER = "i"
    """Every token of an issuer issued at or before `not_before`."""

    @property
    def label(self) -> str:
        """Its name in the table, the commands, the log and the ledger."""
        return self.name.lower()

    @classmethod
    def labelled(cls, label: str) -> Kind:
        return cls[label.upper()]


CLAIMS = {Kind.TOKEN: "jti", Kind.SESSION: "sid", Kind.USER: "sub", Kind.CLIENT: "azp", Kind.ISSUER: "iss"}
"""The claim that holds the value of each kind."""


class Target(Struct, frozen=True):
    """One thing that can be revoked."""

    kind: Kind
    issuer: str
    """Its name in the policy."""
    value: str = ""
    """`jti`, `sid`, `sub` or `azp`; empty for an issuer."""

    @property
    def id(self) -> str:
        return entry_id(self.kind, self.issuer, self.value)

    def entry(self, *, expires_at: datetime, reason: str, actor: str, not_before: datetime | None = None) -> Entry:
        """Its revocation. A token and a session are revoked whole, whatever `not_before` is."""
        since = None if self.kind in (Kind.TOKEN, Kind.SESSION) else not_before
        return Entry(
            self.kind,
            self.issuer,
            self.value,
            not_before=since,
            expires_at=expires_at,
            reason=reason,
            actor=actor,
        )

    def __str__(self) -> str:
        return " ".join(filter(None, [self.kind.label, escaped(self.value), self.value and "of", self.issuer]))


class Entry(Target, frozen=True, kw_only=True):
    """One revocation, as in the table `revocations`."""

    not_before: datetime | None = None
    """User, client and issuer only: tokens with `iat` at or before it are revoked (second granularity)."""
    expires_at: datetime
    """When every token that it revokes has expired."""
    reason: str = ""
    actor: str = ""
    created_at: datetime | None = None
    """When it came into force; set by Postgres."""


class Origin(Struct, frozen=True):
    """The way in which a change came, for the audit log."""

    via: str = ""
    """`cli`, `console`, `rest`, `grpc` or `signal`."""
    address: str = ""
    """Of the client."""


UNSAID = Origin()


def entry_id(kind: Kind, issuer: str, value: str = "") -> str:
    """The id in the table, in its copy in Redis, and in the check."""
    return f"{kind}:{issuer}:{value}"


def ids(identity: Identity) -> TokenIds:
    """The ids of a verified token."""
    name, who = identity.issuer_name, identity.principal
    return (
        entry_id(Kind.TOKEN, name, who.token_id),
        entry_id(Kind.SESSION, name, identity.session) if identity.session else "",
        entry_id(Kind.USER, name, who.subject),
        entry_id(Kind.CLIENT, name, who.client) if who.client else "",
        entry_id(Kind.ISSUER, name),
    )


def revoked_until(held: str | None) -> float:
    """Tokens issued up to this second are revoked by a row; `held`: its state as in `redis_keys.revocation`."""
    if held is None or held.startswith("-"):
        return NEVER
    second = held.partition(":")[2]
    return int(second) if second else math.inf


def revoked_by(token: TokenIds, issued_at: int, until: Callable[[str], float]) -> Kind | None:
    """The rule: the first kind whose revocation covers the time at which the token was issued.

    `until`: `revoked_until` for one id. `settle.lua` implements the same rule in Redis;
    tests/e2e/revocation/test_rule.py compares them.
    """
    return next((kind for kind, each in zip(Kind, token, strict=True) if each and issued_at <= until(each)), None)
