"""What can be revoked, and under which id each entry is kept. The raw token never is: signatures are malleable."""

from __future__ import annotations

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
