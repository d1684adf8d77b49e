"""The bodies of the REST interface, from which its OpenAPI description is generated."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ext_authz.tokens import model
from ext_authz.tokens.audit import AuditEntry
from ext_authz.tokens.model import State

Text = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
Names = Annotated[list[Text], Field(max_length=100)]


class Body(BaseModel):
    """Unknown names are errors: a misspelt one would be a wish left out."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class OwnerOut(Body):
    """A person or a service account."""

    issuer: str
    """Name of the identity provider in the policy."""
    subject: str
    kind: Literal["user", "service"]
    group: str
    """Path of the group that a service account belongs to."""
    username: str

    @classmethod
    def of(cls, owner: model.Owner) -> OwnerOut:
        return cls(
            issuer=owner.issuer,
            subject=owner.subject,
            kind=owner.kind,
            group=owner.group,
            username=owner.username,
        )


class TokenOut(Body):
    """What is known of one token: never the token itself."""

    jti: str
    issued_at: datetime
    expires_at: datetime
    ends_at: datetime | None
    """When it was replaced or revoked, the grace of a renewal included."""


class GrantOut(Body):
    """One thing that calls. Its id, quota and usage stay the same when its token is renewed."""

    id: UUID
    owner: OwnerOut
    name: str
    scopes: list[str]
    models: list[str] | None
    """Null: all that the owner may use."""
    roles: list[str] | None
    """Null: all that the owner has."""
    lifetime: int
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

    @classmethod
    def of(cls, grant: model.Grant) -> GrantOut:
        return cls(
            id=grant.id,
            owner=OwnerOut.of(grant.owner),
            name=grant.name,
            scopes=list(grant.scopes),
            models=None if grant.models is None else list(grant.models),
            roles=None if grant.roles is None else list(grant.roles),
            lifetime=_seconds(grant.lifetime),
            version=grant.version,
            state=grant.state,
            created_at=grant.created_at,
            expires_at=grant.expires_at,
            revoked_at=grant.revoked_at,
            last_used_at=grant.last_used_at,
            last_used_from=grant.last_used_from,
            tokens=[
                TokenOut(jti=each.jti, issued_at=each.issued_at, expires_at=each.expires_at, ends_at=each.ends_at)
                for each in grant.tokens
            ],
        )


class IssuedOut(Body):
    """A grant with its token, which can be read here only."""

    grant: GrantOut
    token: str
    """Secret."""


class ChoicesOut(Body):
    """What the caller may put into a grant."""

    scopes: list[str]
    models: list[str]
    roles: list[str]
    max_lifetime: int
    """In seconds."""
    left: int
    """How many grants the owner may still make."""

    @classmethod
    def of(cls, choices: model.Choices) -> ChoicesOut:
        return cls(
            scopes=list(choices.scopes),
            models=list(choices.models),
            roles=list(choices.roles),
            max_lifetime=_seconds(choices.max_lifetime),
            left=choices.left,
        )


class GrantsOut(Body):
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


class AuditEntryOut(Body):
    """One change."""

    position: int
    at: datetime
    actor: str
    via: str
    address: str
    action: str
    object: str
    details: dict[str, Any]
    hash: str
    """SHA-256 over this entry and the hash before it, in hexadecimal digits."""

    @classmethod
    def of(cls, entry: AuditEntry) -> AuditEntryOut:
        return cls(
            position=entry.position,
            at=entry.at,
            actor=entry.actor,
            via=entry.via,
            address=entry.address,
            action=entry.action,
            object=entry.object,
            details=dict(entry.details),
            hash=entry.hash.hex(),
        )


class AuditOut(Body):
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


def _seconds(duration: timedelta) -> int:
    return int(duration.total_seconds())
