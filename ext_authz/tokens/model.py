"""What is managed: owners, their grants, the tokens of a grant; who manages it; and why something is not done."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal
from uuid import UUID

from msgspec import Struct

from ext_authz.errors import TollgateError
from ext_authz.identity.identity import Identity

SERVICE = "service:"
"""Before the name of a service account, in its subject: identity providers do not write colons into `sub`."""

Via = Literal["console", "rest", "grpc", "cli", "signal"]


class Actor(Struct, frozen=True, kw_only=True):
    """Who does something, verified before."""

    via: Via
    name: str
    """As the audit log has it: the user name or subject, with its issuer; of a command `user@host`."""
    issuer: str = ""
    """Name of the issuer in the policy; empty for a command."""
    subject: str = ""
    identity: Identity | None = None
    """As their token said, with the standing that the owner has now; None for a command."""
    administrator: bool = False
    address: str = ""
    """Of their client."""


class Owner(Struct, frozen=True, kw_only=True):
    """A person or a service account."""

    issuer: str
    subject: str
    kind: Literal["user", "service"] = "user"
    group: str = ""
    """Path of the group that a service account belongs to."""
    username: str = ""
    enabled: bool = True


class Token(Struct, frozen=True, kw_only=True):
    """What is known of one token of a grant: never the token itself."""

    jti: str
    issued_at: datetime
    expires_at: datetime
    ends_at: datetime | None = None
    """When it was replaced or revoked, the grace of a renewal included."""
    issued_by: str = ""


class State(StrEnum):
    """Of a grant."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


class Grant(Struct, frozen=True, kw_only=True):
    """One thing that calls. Its id, quota and usage stay the same when its token is renewed."""

    id: UUID
    owner: Owner
    name: str
    """1 to 64 printable characters; of one owner's live grants no two have the same."""
    scopes: tuple[str, ...]
    models: tuple[str, ...] | None
    """Names or patterns; None: all that the owner may use."""
    roles: tuple[str, ...] | None
    """None: all that the owner has."""
    lifetime: timedelta
    """Of each of its tokens."""
    version: int
    """Grows with every change."""
    created_at: datetime
    created_by: str
    expires_at: datetime
    """Of its latest token."""
    revoked_at: datetime | None = None
    revoked_by: str = ""
    last_used_at: datetime | None = None
    """Of any of its tokens, to about ten seconds; from the ledger."""
    last_used_from: str = ""
    """Address of the caller then."""
    tokens: tuple[Token, ...] = ()
    """The latest first; empty in lists."""
    state: State = State.ACTIVE


class NewGrant(Struct, frozen=True, kw_only=True):
    """What somebody asks for."""

    name: str
    lifetime: timedelta
    scopes: tuple[str, ...] = ()
    models: tuple[str, ...] | None = None
    roles: tuple[str, ...] | None = None
    service: str = ""
    """Subject of the service account that is to own it; empty: the actor."""


class Issued(Struct, frozen=True):
    """A grant with the token itself, which exists nowhere else."""

    grant: Grant
    token: str
    """Secret: shown once."""

    def __repr__(self) -> str:
        return f"Issued({self.grant!r}, token='***')"


class Choices(Struct, frozen=True, kw_only=True):
    """What an actor may put into a grant."""

    scopes: tuple[str, ...]
    models: tuple[str, ...]
    """Those of the policy that the actor may call; patterns as the policy has them."""
    roles: tuple[str, ...]
    max_lifetime: timedelta
    left: int
    """How many grants the owner may still make."""


class Page(Struct, frozen=True):
    """Some grants, the newest first."""

    grants: tuple[Grant, ...]
    cursor: str = ""
    """For the next page; empty: there is none."""


class Why(StrEnum):
    """Why something is not done; each interface has one table from these to its own statuses."""

    INVALID = "invalid"
    """The request is wrong in itself."""
    TOO_WIDE = "too_wide"
    """It asks for more than the owner may do."""
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    """Nothing there, or nothing that this actor may know of."""
    CONFLICT = "conflict"
    """Of the name, the version or the idempotency key with what is there."""
    TOO_MANY = "too_many"
    """The owner has as many as the policy allows."""


class NotDone(TollgateError):
    """Nothing was changed. `detail` is for the actor: what is wrong, and what to do instead; `field` names the part of
    the request, if it is one."""

    def __init__(self, why: Why, detail: str, field: str = "") -> None:
        super().__init__(detail)
        self.why = why
        self.detail = detail
        self.field = field
