"""The bodies of the REST interface, from which its OpenAPI description is generated."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from ext_authz.tokens import model
from ext_authz.tokens.model import State

Text = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
Names = Annotated[list[Text], Field(max_length=100)]


class Body(BaseModel):
    """Unknown names are errors: a misspelt one would be a wish left out."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Answer(Body):
    """Made from what the service returns, field by field."""

    model_config = ConfigDict(from_attributes=True)

    @classmethod
    def of(cls, what: object) -> Self:
        return cls.model_validate(what)


def _seconds(duration: timedelta | int) -> int:
    return int(duration.total_seconds()) if isinstance(duration, timedelta) else duration


def _hex(digest: bytes | str) -> str:
    return digest.hex() if isinstance(digest, bytes) else digest


Seconds = Annotated[int, BeforeValidator(_seconds)]


class OwnerOut(Answer):
    """A person or a service account."""

    issuer: str
    """Name of the identity provider in the policy."""
    subject: str
    kind: Literal["user", "service"]
    group: str
    """Path of the group that a service account belongs to."""
    username: str


class TokenOut(Answer):
    """What is known of one token: never the token itself."""

    jti: str
    issued_at: datetime
    expires_at: datetime
    ends_at: datetime | None
    """When it was replaced or revoked, the grace of a renewal included."""


class GrantOut(Answer):
    """One thing that calls. Its id, quota and usage stay the same when its token is renewed."""

    id: UUID
    owner: OwnerOut
    name: str
    scopes: list[str]
    models: list[str] | None
    """Null: all that the owner may use."""
    roles: list[str] | None
    """Null: all that the owner has."""
    lifetime: Seconds
    """Of each of its tokens, in seconds."""
    version: int
    """Grows with every change; the same as in the header ETag."""
    state: State
    created_at: datetime
    expires_at: datetime
    """Of its latest token."""
    revoked_at: datetime | None
    last_used_at: datetime | None
    """Of any of its tokens, to about ten seconds."""
    last_used_from: str
    tokens: list[TokenOut]
    """The latest first; empty in lists."""


class IssuedOut(Answer):
    """A grant with its token, which can be read here only."""

    grant: GrantOut
    token: str
    """Secret."""


class ChoicesOut(Answer):
    """What the caller may put into a grant."""

    scopes: list[str]
    models: list[str]
    roles: list[str]
    max_lifetime: Seconds
    """In seconds."""
    left: int
    """How many grants the owner may still make."""


class GrantsOut(Answer):
    """A page, the newest first."""

    grants: list[GrantOut]
    cursor: str
    """For the next page; empty: there is none."""


class NewGrantIn(Body):
    """A grant that somebody asks for."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
    """Of one owner's live grants no two have the same."""
    lifetime: Annotated[int, Field(ge=60, le=31_536_000)]
    """Of each of its tokens, in seconds."""
    scopes: Names = []
    models: Names | None = None
    """Names or patterns. Null: all that the owner may use."""
    roles: Names | None = None
    """Null: all that the owner has."""
    service: Annotated[str, StringConstraints(max_length=255)] = ""
    """Subject of the service account that is to own it; empty: the caller."""

    def wanted(self) -> model.NewGrant:
        return model.NewGrant(
            name=self.name,
            lifetime=timedelta(seconds=self.lifetime),
            scopes=tuple(self.scopes),
            models=None if self.models is None else tuple(self.models),
            roles=None if self.roles is None else tuple(self.roles),
            service=self.service,
        )


class RenewIn(Body):
    """How a token is replaced by a new one."""

    grace: Annotated[int, Field(ge=0, le=604_800)] = 0
    """How long the old token is still accepted, in seconds."""
    lifetime: Annotated[int, Field(ge=60, le=31_536_000)] | None = None
    """Of the new token, in seconds. Null: as before."""


class ReasonIn(Body):
    """Why; kept in the history."""

    reason: Annotated[str, StringConstraints(max_length=1000, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")] = ""


class OwnerIn(ReasonIn):
    """Whose grants; both empty: the caller's."""

    issuer: Annotated[str, StringConstraints(max_length=32)] = ""
    subject: Annotated[str, StringConstraints(max_length=255)] = ""


class CountOut(Body):
    """How many."""

    revoked: int


class ServiceAccountIn(Body):
    """A caller that belongs to a group, not to a person."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
    group: Text
    """Path of a group that the caller is in."""
    roles: Names = []


class AuditEntryOut(Answer):
    """One change."""

    position: int
    at: datetime
    actor: str
    via: str
    address: str
    action: str
    object: str
    details: dict[str, Any]
    hash: Annotated[str, BeforeValidator(_hex)]
    """SHA-256 over this entry and the hash before it, in hexadecimal digits."""


class AuditOut(Answer):
    """A page, the latest first."""

    entries: list[AuditEntryOut]
    cursor: str


class Problem(BaseModel):
    """Why a request was not done (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    field: str = ""
    """The part of the request that is wrong, if it is one."""
