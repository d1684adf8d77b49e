"""REST: grants and their tokens, service accounts, and the audit log."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, Request, Response

from ext_authz.api.documents import (
    AuditOut,
    ChoicesOut,
    CountOut,
    GrantOut,
    GrantsOut,
    IssuedOut,
    NewGrantIn,
    OwnerIn,
    OwnerOut,
    ReasonIn,
    RenewIn,
    ServiceAccountIn,
)
from ext_authz.api.rest import NO_STORE, caller, interfaces
from ext_authz.identity.api_tokens import MANAGE_TOKENS
from ext_authz.tokens.model import Actor, Issued, NotDone, State, Why
from ext_authz.tokens.service import TokenService

router = APIRouter(tags=["tokens"])

_ETAG = re.compile(r'"([1-9][0-9]{0,8})"')


async def _caller(request: Request) -> Actor:
    return await caller(request, MANAGE_TOKENS)


def _tokens(request: Request) -> TokenService:
    return interfaces(request).tokens


async def _version(if_match: Annotated[str, Header(max_length=20)] = "") -> int | None:
    """The version that the caller has seen (RFC 9110 section 13.1.1); None: any."""
    if if_match in ("", "*"):
        return None
    if (found := _ETAG.fullmatch(if_match)) is None:
        raise NotDone(Why.INVALID, 'If-Match: write the ETag of the grant, such as "3"', "If-Match")
    return int(found[1])


Caller = Annotated[Actor, Depends(_caller)]
Tokens = Annotated[TokenService, Depends(_tokens)]
Version = Annotated[int | None, Depends(_version)]
IdempotencyKey = Annotated[str, Header(max_length=64, pattern=r"^[\x21-\x7e]*$")]
Cursor = Annotated[str, Query(max_length=600, pattern=r"^[\x21-\x7e]*$")]
Limit = Annotated[int, Query(ge=1, le=200)]
Search = Annotated[str, Query(max_length=255, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]


def _tagged(response: Response, version: int) -> None:
    response.headers.update({**NO_STORE, "etag": f'"{version}"'})


def _issued(response: Response, issued: Issued) -> IssuedOut:
    _tagged(response, issued.grant.version)
    return IssuedOut.of(issued)


@router.get("/choices")
async def get_choices(caller: Caller, tokens: Tokens, service: Search = "") -> ChoicesOut:
    """What the caller may put into a grant; `service`: subject of the service account that is to own it."""
    return ChoicesOut.of(await tokens.choices(caller, service))


@router.get("/grants")
async def list_grants(
    caller: Caller,
    tokens: Tokens,
    *,
    everybody: bool = False,
    issuer: Search = "",
    subject: Search = "",
    text: Search = "",
    state: State | None = None,
    cursor: Cursor = "",
    limit: Limit = 50,
) -> GrantsOut:
    """Those of the caller, the newest first. `everybody`: of all owners, for administrators."""
    page = await tokens.list(
        caller,
        everybody=everybody,
        issuer=issuer,
        subject=subject,
        text=text,
        state=state,
        cursor=cursor,
        limit=limit,
    )
    return GrantsOut.of(page)


@router.post("/grants", status_code=201)
async def create_grant(
    caller: Caller, tokens: Tokens, response: Response, wanted: NewGrantIn, idempotency_key: IdempotencyKey = ""
) -> IssuedOut:
    """A grant with its first token, which is in this answer only. Under the same Idempotency-Key the same request gets
    the same answer for 24 hours."""
    issued = await tokens.create(caller, wanted.wanted(), idempotency_key=idempotency_key)
    response.headers["location"] = f"/tollgate/api/v1/grants/{issued.grant.id}"
    return _issued(response, issued)


@router.get("/grants/{grant}")
async def get_grant(caller: Caller, tokens: Tokens, response: Response, grant: UUID) -> GrantOut:
    """One grant, with its tokens."""
    found = await tokens.get(caller, grant)
    _tagged(response, found.version)
    return GrantOut.of(found)


@router.post("/grants/{grant}/renew")
async def renew_grant(
    caller: Caller,
    tokens: Tokens,
    response: Response,
    grant: UUID,
    wanted: RenewIn,
    version: Version,
    idempotency_key: IdempotencyKey = "",
) -> IssuedOut:
    """A new token of the same grant: the same quota, usage and id. The old one is accepted for `grace` seconds."""
    issued = await tokens.renew(
        caller,
        grant,
        grace=timedelta(seconds=wanted.grace),
        lifetime=None if wanted.lifetime is None else timedelta(seconds=wanted.lifetime),
        version=version,
        idempotency_key=idempotency_key,
    )
    return _issued(response, issued)


@router.post("/grants/{grant}/revoke")
async def revoke_grant(
    caller: Caller, tokens: Tokens, response: Response, grant: UUID, why: ReasonIn, version: Version
) -> GrantOut:
    """After the answer no check on any replica accepts a token of the grant."""
    revoked = await tokens.revoke(caller, grant, version=version, reason=why.reason)
    _tagged(response, revoked.version)
    return GrantOut.of(revoked)


@router.post("/grants/revoke-all")
async def revoke_all_grants(caller: Caller, tokens: Tokens, whose: OwnerIn) -> CountOut:
    """Every grant of an owner."""
    issuer, subject = whose.issuer or caller.issuer, whose.subject or caller.subject
    return CountOut(revoked=await tokens.revoke_all(caller, issuer, subject, reason=whose.reason))


@router.get("/service-accounts")
async def list_service_accounts(caller: Caller, tokens: Tokens) -> list[OwnerOut]:
    """Those of the caller's groups; of all groups for administrators."""
    return [OwnerOut.of(owner) for owner in await tokens.service_accounts(caller)]


@router.post("/service-accounts", status_code=201)
async def create_service_account(caller: Caller, tokens: Tokens, wanted: ServiceAccountIn) -> OwnerOut:
    """A caller that belongs to a group of the caller's."""
    return OwnerOut.of(await tokens.create_service_account(caller, wanted.name, wanted.group, tuple(wanted.roles)))


@router.get("/audit")
async def list_audit_entries(
    caller: Caller,
    tokens: Tokens,
    object: Search = "",  # noqa: A002 - the name in the log
    actor: Search = "",
    cursor: Cursor = "",
    limit: Limit = 50,
) -> AuditOut:
    """Every change by whomever, the latest first; for administrators."""
    return AuditOut.of(await tokens.audit(caller, object=object, who=actor, cursor=cursor, limit=limit))
