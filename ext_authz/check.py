"""*** START HERE *** One request, one path through the code, in four numbered phases. The first refusal ends it.

No protobuf, no gRPC, no Redis client in here: `edge/` reads the request and writes the response, `settlement/` is the
one round trip. Deny is where a request starts; the one `Allow` is made at the end of this file.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Protocol

from ext_authz.decision import Allow, Answer, Decision, DecisionIds, Deny, Reason, Request, milliseconds
from ext_authz.errors import Denied, Overloaded, Unavailable
from ext_authz.identity.identity import Identity, RefusedToken
from ext_authz.phases.bodies import ensure_body, ensure_uncompressed
from ext_authz.phases.client_address import client_address
from ext_authz.phases.context import CheckContext
from ext_authz.phases.experiments import Experiments
from ext_authz.phases.flood_guard import FloodGuard
from ext_authz.phases.model_reads import ModelRead, model_read
from ext_authz.phases.permission import ensure_permitted, ensure_public
from ext_authz.phases.quota_reads import QuotaRead, QuotaReads
from ext_authz.phases.settle_request import SettleRequests
from ext_authz.policy.kserve import ModelScope
from ext_authz.policy.model import RESOURCE_METADATA, Failure, Match, OnFailure, Policy, Route
from ext_authz.policy.names import ensure_model, ensure_version
from ext_authz.policy.routes import RouteTable
from ext_authz.settlement.model import Settlement

OVERLOADED = "overloaded"
_RETRY_UNAVAILABLE = 1
"""Seconds after which a caller may try again when a dependency did not answer."""

_SHORTEST = 1000
"""Milliseconds that every allowed call has, so that a short one is not cut off at the end of a token."""

_SETTLED = frozenset({Reason.REVOKED, Reason.OVER_LIMIT})
"""The settlement itself wrote these into the ledger. A flood is not written at all: that would carry it on."""


class Authenticator(Protocol):
    """Phase 2: `identity.authenticator.TokenAuthenticator` in a worker, `callers.GivenCallers` in the policy tools."""

    def cached(self, authorization: str, grace: float) -> Identity | None:
        """A caller who was verified before, without waiting; `grace` as below."""

    async def authenticate(self, authorization: tuple[str, ...], grace: float, request: Request, /) -> Identity:
        """The caller; raises Denied or Unavailable. `grace`: how much longer keys are believed that are too old;
        `request`: what a token that is bound to a key is presented with."""


class Check:
    """Decides. Holds no state of its own but caches of things derived from the policy."""

    def __init__(self, policy: Policy, authenticator: Authenticator, settlement: Settlement, ids: DecisionIds) -> None:
        self._policy = policy
        documents = ("/", RESOURCE_METADATA) if policy.resource else ("/",)
        self._routes = RouteTable(policy.routes, policy.failure, documents, console=policy.tokens is not None)
        self._authenticator = authenticator
        self._settlement = settlement
        self._settle_requests = SettleRequests(policy)
        self._quota_reads = QuotaReads(policy, self._routes)
        self._experiments = Experiments(policy.experiments) if policy.experiments else None
        self._flood = FloodGuard(policy.flood.rate, policy.flood.window, policy.flood.burst) if policy.flood else None
        self._ids = ids

    def silent(self) -> Check:
        """Without reports of the flood guard and of dry-run limits: this policy is not in force."""
        self._settle_requests.dry_runs.in_force = False
        if self._flood is not None:
            self._flood.in_force = False
        return self

    async def decide(self, request: Request, context: CheckContext | None = None) -> Decision:
        """The decision, with everything that a caller, a log and a bill need. Only a bug raises.

        `context`: to be filled in on the way.
        """
        context = context or CheckContext()
        context.decision_id = self._ids.mint()
        context.at_ms = milliseconds(context.decision_id)
        try:
            return await self._decided(request, context)
        except Denied as denied:
            return self._denied(request, context, denied)
        except Overloaded as overload:
            # What cannot be done in time is not made more by recording it, unless the ledger holds something else.
            detail = "more requests arrive than can be decided in time: try again"
            refused = Denied(Reason.UNAVAILABLE, OVERLOADED, detail, retry_after=_RETRY_UNAVAILABLE)
            return self._denied(request, context, refused) if overload.settled else _deny(context, refused)
        except Unavailable as failure:
            # No verdict, so never a 403: Envoy answers 503, and fails open only where the mesh is configured to.
            code, detail = f"{failure.dependency}_unavailable", "the request could not be decided: try again"
            outage = Denied(Reason.UNAVAILABLE, code, detail, retry_after=_RETRY_UNAVAILABLE)
            return self._denied(request, context, outage)

    async def _decided(self, request: Request, context: CheckContext) -> Allow | Answer:
        # phase 1: route. Strict path grammar, exactly one rule; what no rule serves is refused.
        context.phase = "route"
        match = self._match(request, context)
        if match.route.public:
            ensure_public(match, context, request)
            self._record(request, context)
            return _allow(match, context)

        # phase 2: identity. A bearer token to a verified caller.
        context.phase = "identity"
        identity = await self._identity(request, context, match.route.failure)
        context.identity, context.principal, context.degraded = identity, identity.principal, identity.degraded
        if match.route in self._routes.reads:
            return await self._read(identity, match.route, request, context)

        # phase 3: permission. The route's, its condition, and the right that the call needs on its model.
        context.phase = "permission"
        ensure_uncompressed(request, match)
        context.model, context.version = _target(match, request)
        ensure_permitted(identity, match, context, request, self._policy)
        ensure_body(request, match)
        self._routes.prove(request.method, request.path, request.host)  # worth caching: some caller may use it

        # phase 4: settlement. Revoked? Quota left in every limit? Into the ledger. One round trip, atomically.
        context.phase = "settlement"
        if self._experiments:
            model, version, headers = context.model, context.version, request.headers
            context.variant = self._experiments.variant(model, identity, headers, context.trace, version)
            context.served = self._experiments.served(model, context.variant)
        prepared = self._settle_requests.prepared(identity, match, context, request)
        context.settle_result = await self._settlement.settle(prepared.complete(context, request))
        context.degraded = context.settle_result.degraded or identity.degraded
        context.quotas = prepared.quotas(context.settle_result)
        return _allow(match, context) if context.answer is None else _answer(context)

    async def _read(self, identity: Identity, route: Route, request: Request, context: CheckContext) -> Answer:
        """GET /.tollgate/quota, /.tollgate/models: not for revoked callers; nothing is taken, no answer recorded."""
        read: QuotaRead | ModelRead
        if route is self._routes.quota:
            read = self._quota_reads.prepared(identity, request, context)
        else:
            self._quota_reads.ensure_rate(identity, context)
            read = model_read(identity, request, self._policy)
        context.settle_result = result = await self._settlement.settle(read.settle_request)
        context.degraded = result.degraded or identity.degraded
        context.answer = read.document(result)
        return _answer(context)

    def _match(self, request: Request, context: CheckContext) -> Match:
        try:
            match = self._routes.match(request.method, request.path, request.host, request.headers)
            context.match, context.route = match, match.route.name
            _ensure_protocol(request, match)
        except Denied:
            if self._cached(request, math.inf) is None:
                self._ensure_no_flood(request, context)
                self._count_refusal(request, context)  # a flood of nonsense is a flood too
            raise
        return match

    async def _identity(self, request: Request, context: CheckContext, failure: Failure) -> Identity:
        grace = failure.grace if failure.jwks is OnFailure.LOCAL else 0
        cached = self._cached(request, grace)
        if cached is None:
            self._ensure_no_flood(request, context)
        try:
            _ensure_no_query_token(request.query)
            return cached or await self._authenticator.authenticate(request.authorization, grace, request)
        except Denied as denied:
            if isinstance(denied, RefusedToken):
                context.refused, context.principal = denied.identity, denied.identity.principal
            if cached is None:  # and now refused, unlike those who wait for keys that cannot be fetched
                self._count_refusal(request, context)
            raise

    def _cached(self, request: Request, grace: float) -> Identity | None:
        return self._authenticator.cached(request.authorization[0], grace) if len(request.authorization) == 1 else None

    def _ensure_no_flood(self, request: Request, context: CheckContext) -> None:
        """Before a signature is checked: an unknown caller from an address that was refused too often has to wait."""
        if self._flood is not None:
            self._flood.check(client_address(request, self._policy.trusted_hops), context.at_ms * 1000)

    def _count_refusal(self, request: Request, context: CheckContext) -> None:
        if self._flood is not None:
            self._flood.count(client_address(request, self._policy.trusted_hops), context.at_ms * 1000)

    def _denied(self, request: Request | None, context: CheckContext, denied: Denied) -> Deny:
        if context.match and request and not context.model:  # refused before phase 3
            with suppress(Denied):
                context.model, context.version = _target(context.match, request)
        was_read = denied.reason is Reason.REVOKED and context.settle_request is None
        if denied.reason not in _SETTLED or was_read:
            self._record(request, context, denied.reason, denied.code)
        return _deny(context, denied)

    def _record(
        self, request: Request | None, context: CheckContext, reason: Reason = Reason.ALLOWED, code: str = ""
    ) -> None:
        self._settlement.record(self._settle_requests.event(context, request, reason, code))

    def refuse(self, denied: Denied, request: Request | None = None, context: CheckContext | None = None) -> Deny:
        """The refusal of what `decide` did not decide: a message that could not be read, or a bug on the way.

        Under the id that `decide` minted, if it came so far: it supersedes what the settlement recorded then.
        """
        context = context or CheckContext()
        context.decision_id = context.decision_id or self._ids.mint()
        return self._denied(request, context, denied)


def _ensure_protocol(request: Request, match: Match) -> None:
    if request.is_grpc != match.grpc:
        spoken, served = ("gRPC", "plain HTTP") if request.is_grpc else ("plain HTTP", "gRPC")
        detail = f"this path is served as {served}, and the request says {spoken} in its content-type"
        raise Denied(Reason.BAD_REQUEST, "protocol_mismatch", detail)


def _ensure_no_query_token(query: str) -> None:
    if "access_token=" in query and any(part.startswith("access_token=") for part in query.split("&")):
        detail = "send the token in the Authorization header only: addresses end up in logs"
        raise Denied(Reason.INVALID_REQUEST, "credential_in_query", detail)


def _target(match: Match, request: Request) -> tuple[str, str]:
    """The model and version that the call names: in the path, or in the gRPC message as Envoy extracted it."""
    if not match.model_from_message:
        return match.model, match.version
    if len(request.models) != 1 or not request.models[0] or len(request.versions) > 1:
        detail = "the message names no single model: set model_name once, in one plain message of at most 4096 fields"
        raise Denied(Reason.BAD_REQUEST, "model_missing", detail)
    model, version = request.models[0], request.versions[0] if request.versions else ""
    ensure_model(model)
    ensure_version(version)
    return model, version


def _deny(context: CheckContext, denied: Denied) -> Deny:
    return Deny(
        context.decision_id,
        denied.reason,
        denied.code,
        denied.detail,
        scope=denied.scope,
        principal=context.principal,
        route=context.route,
        model=context.model,
        quotas=denied.quotas,
        retry_after=denied.retry_after,
        degraded=context.degraded,
        revoked_by=denied.revoked_by,
        nonce=denied.nonce,
    )


def _answer(context: CheckContext) -> Answer:
    """In place of an Allow, after the same phases: what was asked for is answered here, not by a model."""
    return Answer(
        context.decision_id, context.principal, context.route, context.answer, context.quotas, context.degraded
    )


def _lasting(match: Match, context: CheckContext) -> int:
    """Milliseconds: what is left of the token, what the route lets a call last, at least a second.

    A caller within the leeway of an expired token has what is left of that.
    """
    cap, identity = match.route.max_duration * 1000, context.identity
    if identity is None:
        return cap
    left = identity.expires_at * 1000 - context.at_ms
    if left >= cap:
        return cap
    if left < _SHORTEST:
        left = min(cap, left + identity.leeway * 1000)
    return max(_SHORTEST, int(left))


def _allow(match: Match, context: CheckContext) -> Allow:
    """Reached only through every phase that the route needs; of a public one that is the route and its condition."""
    return Allow(
        context.decision_id,
        context.principal,
        context.route,
        context.model,
        context.quotas,
        context.degraded,
        context.variant,
        context.version,
        context.version or context.served,
        every_model=match.scope is ModelScope.ALL,
        upstream=match.route.upstream,
        keeps_token=match.route.keeps_token,
        lasts=_lasting(match, context),
    )
