"""The gRPC interface: `tollgate.tokens.v1.TokenService` and `tollgate.revocation.v1.RevocationService`.

One method per call, in the order of the protos; `_served` gives each its caller and its errors.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError, Message

from ext_authz.api import messages
from ext_authz.api.callers import Callers
from ext_authz.api.failures import failure_of
from ext_authz.gen.tollgate.revocation.v1 import revocation_pb2
from ext_authz.gen.tollgate.tokens.v1 import tokens_pb2
from ext_authz.identity.api_tokens import MANAGE_REVOCATIONS, MANAGE_TOKENS
from ext_authz.tokens.model import Actor, NotDone, Why
from ext_authz.tokens.revocations import Revocations
from ext_authz.tokens.service import TokenService

TOKENS, REVOCATIONS = "tollgate.tokens.v1.TokenService", "tollgate.revocation.v1.RevocationService"
_MOST, _USUAL = 200, 50
_Work = Callable[[Actor, Any], Awaitable[Message]]
Context = grpc.aio.ServicerContext[Any, Any]


class GrpcServices:
    """`handlers` are what a server of grpcio takes."""

    def __init__(self, tokens: TokenService, revocations: Revocations, callers: Callers) -> None:
        self._tokens = tokens
        self._revocations = revocations
        self._callers = callers
        of_tokens: dict[str, tuple[type[Message], _Work]] = {
            "GetChoices": (tokens_pb2.GetChoicesRequest, self._get_choices),
            "CreateGrant": (tokens_pb2.CreateGrantRequest, self._create_grant),
            "RenewGrant": (tokens_pb2.RenewGrantRequest, self._renew_grant),
            "RevokeGrant": (tokens_pb2.RevokeGrantRequest, self._revoke_grant),
            "RevokeAllGrants": (tokens_pb2.RevokeAllGrantsRequest, self._revoke_all_grants),
            "GetGrant": (tokens_pb2.GetGrantRequest, self._get_grant),
            "ListGrants": (tokens_pb2.ListGrantsRequest, self._list_grants),
            "ListServiceAccounts": (tokens_pb2.ListServiceAccountsRequest, self._list_service_accounts),
            "CreateServiceAccount": (tokens_pb2.CreateServiceAccountRequest, self._create_service_account),
            "ListAuditEntries": (tokens_pb2.ListAuditEntriesRequest, self._list_audit_entries),
        }
        of_revocations: dict[str, tuple[type[Message], _Work]] = {
            "Revoke": (revocation_pb2.RevokeRequest, self._revoke),
            "Lift": (revocation_pb2.LiftRequest, self._lift),
            "ListRevocations": (revocation_pb2.ListRevocationsRequest, self._list_revocations),
            "Preview": (revocation_pb2.PreviewRequest, self._preview),
        }
        self.handlers = (
            self._handler(TOKENS, MANAGE_TOKENS, of_tokens),
            self._handler(REVOCATIONS, MANAGE_REVOCATIONS, of_revocations),
        )

    def _handler(
        self, service: str, scope: str, calls: Mapping[str, tuple[type[Message], _Work]]
    ) -> grpc.GenericRpcHandler:
        served: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            name: grpc.unary_unary_rpc_method_handler(self._served(scope, request, work))
            for name, (request, work) in calls.items()
        }
        return grpc.method_handlers_generic_handler(service, served)

    def _served(self, scope: str, kind: type[Message], work: _Work) -> Callable[[bytes, Context], Awaitable[bytes]]:
        async def answer(message: bytes, context: Context) -> bytes:
            try:
                actor = await self.actor(context, scope)
                return (await work(actor, _parsed(kind, message))).SerializeToString()
            except Exception as error:  # noqa: BLE001 - failure_of logs what is a bug
                return await refused(context, error)

        return answer

    async def actor(self, context: Context, scope: str) -> Actor:
        """Who calls; `scope`: what an API token must have for it.

        Raises:
            Denied, Unavailable
        """
        sent = [(name, value) for name, value in context.invocation_metadata() or () if isinstance(value, str)]
        authorization = tuple(value for name, value in sent if name == "authorization")
        forwarded = [value for name, value in sent if name == "x-forwarded-for"]
        address = self._callers.forwarded(_host(context.peer()), forwarded)
        return await self._callers.actor(authorization, scope, "grpc", address)

    async def _get_choices(self, actor: Actor, request: tokens_pb2.GetChoicesRequest) -> Message:
        choices = await self._tokens.choices(actor, request.service)
        return tokens_pb2.GetChoicesResponse(
            scopes=choices.scopes,
            models=choices.models,
            roles=choices.roles,
            max_lifetime=messages.duration(choices.max_lifetime),
            left=choices.left,
        )

    async def _create_grant(self, actor: Actor, request: tokens_pb2.CreateGrantRequest) -> Message:
        wanted = messages.new_grant(request)
        issued = await self._tokens.create(actor, wanted, idempotency_key=request.idempotency_key)
        return tokens_pb2.CreateGrantResponse(grant=messages.grant_message(issued.grant), token=issued.token)

    async def _renew_grant(self, actor: Actor, request: tokens_pb2.RenewGrantRequest) -> Message:
        issued = await self._tokens.renew(
            actor,
            messages.identifier(request.id),
            grace=messages.lasting("grace", request.grace),
            lifetime=messages.lasting("lifetime", request.lifetime) if request.HasField("lifetime") else None,
            version=request.version or None,
            idempotency_key=request.idempotency_key,
        )
        return tokens_pb2.RenewGrantResponse(grant=messages.grant_message(issued.grant), token=issued.token)

    async def _revoke_grant(self, actor: Actor, request: tokens_pb2.RevokeGrantRequest) -> Message:
        grant = messages.identifier(request.id)
        revoked = await self._tokens.revoke(actor, grant, version=request.version or None, reason=request.reason)
        return tokens_pb2.RevokeGrantResponse(grant=messages.grant_message(revoked))

    async def _revoke_all_grants(self, actor: Actor, request: tokens_pb2.RevokeAllGrantsRequest) -> Message:
        issuer, subject = request.issuer or actor.issuer, request.subject or actor.subject
        revoked = await self._tokens.revoke_all(actor, issuer, subject, reason=request.reason)
        return tokens_pb2.RevokeAllGrantsResponse(revoked=revoked)

    async def _get_grant(self, actor: Actor, request: tokens_pb2.GetGrantRequest) -> Message:
        grant = await self._tokens.get(actor, messages.identifier(request.id))
        return tokens_pb2.GetGrantResponse(grant=messages.grant_message(grant))

    async def _list_grants(self, actor: Actor, request: tokens_pb2.ListGrantsRequest) -> Message:
        page = await self._tokens.list(
            actor,
            everybody=request.everybody,
            issuer=request.issuer,
            subject=request.subject,
            text=request.text,
            state=messages.state_of(request.state),
            cursor=request.cursor,
            limit=_limit(request.limit),
        )
        return tokens_pb2.ListGrantsResponse(grants=map(messages.grant_message, page.grants), cursor=page.cursor)

    async def _list_service_accounts(self, actor: Actor, _: tokens_pb2.ListServiceAccountsRequest) -> Message:
        found = await self._tokens.service_accounts(actor)
        return tokens_pb2.ListServiceAccountsResponse(service_accounts=map(messages.owner_message, found))

    async def _create_service_account(self, actor: Actor, request: tokens_pb2.CreateServiceAccountRequest) -> Message:
        roles = messages.bounded("roles", request.roles)
        owner = await self._tokens.create_service_account(actor, request.name, request.group, roles)
        return tokens_pb2.CreateServiceAccountResponse(service_account=messages.owner_message(owner))

    async def _list_audit_entries(self, actor: Actor, request: tokens_pb2.ListAuditEntriesRequest) -> Message:
        page = await self._tokens.audit(
            actor, object=request.object, who=request.actor, cursor=request.cursor, limit=_limit(request.limit)
        )
        return tokens_pb2.ListAuditEntriesResponse(
            entries=map(messages.audit_message, page.entries), cursor=page.cursor
        )

    async def _revoke(self, actor: Actor, request: revocation_pb2.RevokeRequest) -> Message:
        lifetime = messages.lasting("lifetime", request.lifetime) if request.HasField("lifetime") else None
        target = messages.target_of(request.target)
        entry, again = await self._revocations.revoke(actor, target, reason=request.reason, lifetime=lifetime)
        return revocation_pb2.RevokeResponse(revocation=messages.revocation_message(entry), again=again)

    async def _lift(self, actor: Actor, request: revocation_pb2.LiftRequest) -> Message:
        await self._revocations.lift(actor, messages.target_of(request.target), reason=request.reason)
        return revocation_pb2.LiftResponse()

    async def _list_revocations(self, actor: Actor, request: revocation_pb2.ListRevocationsRequest) -> Message:
        page = await self._revocations.listed(
            actor,
            kind=messages.kind_of(request.kind),
            issuer=request.issuer,
            user=request.user,
            cursor=request.cursor,
            limit=_limit(request.limit),
        )
        found = map(messages.revocation_message, page.entries)
        return revocation_pb2.ListRevocationsResponse(revocations=found, cursor=page.cursor)

    async def _preview(self, actor: Actor, request: revocation_pb2.PreviewRequest) -> Message:
        seen, in_force = await self._revocations.preview(actor, messages.target_of(request.target))
        return revocation_pb2.PreviewResponse(
            tokens=seen.lately, last_seen_at=messages.timestamp(seen.last_at), client=seen.client, in_force=in_force
        )


def _parsed(kind: type[Message], message: bytes) -> Message:
    try:
        request = kind.FromString(message)
    except DecodeError:
        raise NotDone(Why.INVALID, "the message cannot be parsed") from None
    messages.ensure_plain(request)
    return request


async def refused(context: Context, error: Exception) -> NoReturn:
    """Ends the call."""
    failure = failure_of(error)
    await context.abort(failure.grpc, failure.detail, (("code", failure.code),))


def _limit(limit: int) -> int:
    if not 0 <= limit <= _MOST:
        raise NotDone(Why.INVALID, f"limit: 1 to {_MOST}; 0: {_USUAL}", "limit")
    return limit or _USUAL


def _host(peer: str) -> str:
    """Of `ipv4:127.0.0.1:1234`, `ipv6:%5B::1%5D:1234` or `unix:`."""
    return peer.partition(":")[2].rpartition(":")[0].strip("[]").removeprefix("%5B").removesuffix("%5D")
