"""What can be revoked, and under which id each entry is kept. The raw token never is: signatures are malleable."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

from msgspec import Struct

from ext_authz.identity.identity import Identity


class Kind(StrEnum):
    """The letter in front of every entry id."""

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
        """As the table, the commands, the log and the ledger say it."""
        return self.name.lower()


class Entry(Struct, frozen=True, kw_only=True):
    """One revocation, as in the table `revocations`."""

    kind: Kind
    issuer: str
    """The policy's short name of the issuer."""
    value: str = ""
    """`jti`, `sid`, `sub` or `azp`; empty for an issuer."""
    not_before: datetime | None = None
    """User, client and issuer only: tokens with `iat` at or before it are revoked (second granularity)."""
    expires_at: datetime
    """When no token that it could hit is alive any more."""
    reason: str = ""
    actor: str = ""


def entry_id(kind: Kind, issuer: str, value: str = "") -> str:
    """The id shared by the table's mirror in Redis and by the check."""
    return f"{kind}:{issuer}:{value}"


def ids(identity: Identity) -> tuple[str, str, str, str, str]:
    """The five ids a token is looked up under, in the order of `Kind`; "" where the token has no such claim."""
    name, who = identity.issuer_name, identity.principal
    return (
        entry_id(Kind.TOKEN, name, who.token_id),
        entry_id(Kind.SESSION, name, identity.session) if identity.session else "",
        entry_id(Kind.USER, name, who.subject),
        entry_id(Kind.CLIENT, name, who.client) if who.client else "",
        entry_id(Kind.ISSUER, name),
    )


def first_hit(held: Sequence[int | None], issued_at: int) -> Kind | None:
    """Which kind revokes a token, as `settle.lua` decides: token and session at once, the others what was issued at or
    before their time. `held`: what stands under each of `ids`, in whole seconds; None: nothing."""
    token, session, *others = held
    if token is not None:
        return Kind.TOKEN
    if session is not None:
        return Kind.SESSION
    kinds = zip((Kind.USER, Kind.CLIENT, Kind.ISSUER), others, strict=True)
    return next((kind for kind, not_before in kinds if not_before is not None and not_before >= issued_at), None)
