"""REST: revocations, for administrators."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BeforeValidator, Field, StringConstraints

from ext_authz.api.documents import Answer, Body, ReasonIn
from ext_authz.api.rest import caller, interfaces
from ext_authz.identity.api_tokens import MANAGE_REVOCATIONS
from ext_authz.revocation.entry import Kind, Target
from ext_authz.tokens.model import Actor
from ext_authz.tokens.revocations import Revocations

KindName = Literal["token", "session", "user", "client", "issuer"]


def _label(kind: Kind | str) -> str:
    return kind.label if isinstance(kind, Kind) else kind


class TargetIn(Body):
    """What is revoked."""

    kind: KindName
    issuer: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
    """Name of the identity provider in the policy."""
    value: Annotated[str, StringConstraints(max_length=255, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")] = ""
    """jti, sid, sub or azp; empty for an issuer."""

    def target(self) -> Target:
        return Target(Kind.labelled(self.kind), self.issuer, self.value)


class RevokeIn(TargetIn, ReasonIn):
    """A revocation."""

    lifetime: Annotated[int, Field(ge=60, le=315_360_000)] | None = None
    """How long it stays in force, in seconds: at least as long as an affected token can live. Default: 30 days, or as
    long as API tokens live if that is longer."""


class LiftIn(TargetIn, ReasonIn):
    """A revocation that was a mistake."""


class RevocationOut(Answer):
    """One revocation."""

    kind: Annotated[KindName, BeforeValidator(_label)]
    issuer: str
    value: str
    not_before: datetime | None
    """Of users, clients and issuers: tokens issued until then are revoked."""
    expires_at: datetime
    reason: str
    actor: str
    created_at: datetime | None


class RevokedOut(Body):
    """The result of a revocation."""

    revocation: RevocationOut
    again: bool
    """It was in force before, and keeps its reason and time."""


class RevocationsOut(Body):
    """A page, the newest first."""

    revocations: list[RevocationOut]
    cursor: str


class PreviewOut(Body):
    """What a revocation would hit."""

    tokens: int
    """How many the ledger has seen in the last 24 hours."""
    last_seen_at: datetime | None
    """When one was seen last, within 7 days."""
    client: str
    """Of the token that was seen last."""
    in_force: bool
    """It is revoked already."""


router = APIRouter(tags=["revocations"])


async def _caller(request: Request) -> Actor:
    return await caller(request, MANAGE_REVOCATIONS)


def _revocations(request: Request) -> Revocations:
    return interfaces(request).revocations


Caller = Annotated[Actor, Depends(_caller)]
AllRevocations = Annotated[Revocations, Depends(_revocations)]
Limit = Annotated[int, Query(ge=1, le=200)]
Search = Annotated[str, Query(max_length=600, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]


@router.get("/revocations")
async def list_revocations(
    caller: Caller,
    revocations: AllRevocations,
    kind: KindName | None = None,
    issuer: Search = "",
    user: Search = "",
    cursor: Search = "",
    limit: Limit = 50,
) -> RevocationsOut:
    """What is in force, the newest first. `user`: by sub or name."""
    chosen = Kind.labelled(kind) if kind else None
    page = await revocations.listed(caller, kind=chosen, issuer=issuer, user=user, cursor=cursor, limit=limit)
    return RevocationsOut(revocations=[RevocationOut.of(each) for each in page.entries], cursor=page.cursor)


@router.post("/revocations", status_code=201)
async def revoke(caller: Caller, revocations: AllRevocations, wanted: RevokeIn) -> RevokedOut:
    """After the answer no check on any replica accepts what is revoked."""
    lifetime = timedelta(seconds=wanted.lifetime) if wanted.lifetime else None
    entry, again = await revocations.revoke(caller, wanted.target(), reason=wanted.reason, lifetime=lifetime)
    return RevokedOut(revocation=RevocationOut.of(entry), again=again)


@router.post("/revocations/lift", status_code=204)
async def lift(caller: Caller, revocations: AllRevocations, wanted: LiftIn) -> None:
    """Accept again what was revoked by mistake."""
    await revocations.lift(caller, wanted.target(), reason=wanted.reason)


@router.post("/revocations/preview")
async def preview(caller: Caller, revocations: AllRevocations, wanted: TargetIn) -> PreviewOut:
    """What a revocation would hit; nothing is revoked."""
    seen, in_force = await revocations.preview(caller, wanted.target())
    return PreviewOut(tokens=seen.lately, last_seen_at=seen.last_at, client=seen.client, in_force=in_force)
