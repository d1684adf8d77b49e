"""Recorded decisions as requests and callers of today: what the ledger keeps of them, and what it does not.

Nothing is guessed: a decision that depends on what was not recorded ends in `NotRecorded`. Two things are assumed: a
call that was refused before revocations were looked up is not revoked; one that was not refused for its body has one
that is neither empty nor compressed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NoReturn

from msgspec.structs import replace

from ext_authz.clock import Clock
from ext_authz.decision import Principal, Reason, Request
from ext_authz.errors import Denied, TollgateError
from ext_authz.identity.claim_values import Claims
from ext_authz.identity.claims import identify
from ext_authz.identity.gitlab import JOB
from ext_authz.identity.identity import Claim, Identity, invalid
from ext_authz.ledger.event import DecisionRecord, StoredEvent
from ext_authz.phases.context import CheckContext
from ext_authz.phases.flood_guard import CODE as FLOOD
from ext_authz.policy.cel.expressions import Amount, Condition
from ext_authz.policy.issuers import Issuer
from ext_authz.policy.model import Policy, Route
from ext_authz.policy.names import RESERVED
from ext_authz.policy.rights import ModelNames
from ext_authz.policytool.alike import all_alike, reads_alike, tokens_alike
from ext_authz.policytool.callers import laid_out
from ext_authz.policytool.cases import GRPC
from ext_authz.revocation.entry import Kind

_ASSUMED = ("content-encoding", "content-length", "grpc-encoding")
_LONGEST_PATH = 512
"""Characters that an event keeps of it."""
_NO_VERDICT = (Reason.UNAVAILABLE, Reason.INTERNAL)
_MOST_KNOWN = 100_000
_WITHOUT_TOKEN = (Reason.NO_CREDENTIAL, Reason.INVALID_REQUEST)
_HELD = ("roles", "scopes", "groups")
_JUDGED_CALLERS = frozenset({*_HELD, "audiences", "models", *(f"owner.{name}" for name in _HELD)})


class NotRecorded(TollgateError):
    """A decision depends on something that was not kept; the text says on what."""


class _Headers(Mapping[str, str]):
    """The ledger keeps none: they may hold credentials."""

    def __getitem__(self, name: str) -> NoReturn:
        if name in _ASSUMED:
            raise KeyError(name)
        raise NotRecorded("headers")

    def __iter__(self) -> Iterator[str]:
        raise NotRecorded("headers")

    def __len__(self) -> NoReturn:
        raise NotRecorded("headers")


class _KeptClaims(dict[str, Claim]):
    """What was kept of a token, and which names were not looked for at the time."""

    def __init__(self, known: Mapping[str, Claim], unknown: frozenset[str]) -> None:
        super().__init__(known)
        self.unknown = unknown

    def get(self, name: str, default: object = None) -> object:  # type: ignore[override]  # one signature is enough here
        if name in self.unknown:
            raise NotRecorded(f"the claim {name}")
        return super().get(name, default)


def replayable(policy: Policy) -> Policy:
    """Without what cannot be replayed: each worker counts floods for itself, and a header may choose a variant."""
    return replace(policy, flood=None, experiments={})


def recorded_request(event: StoredEvent) -> Request:
    """The call, as far as it was recorded.

    Raises:
        NotRecorded: not far enough.
    """
    record = event.record
    if event.reason in _NO_VERDICT:
        raise NotRecorded("a verdict: a dependency or the authorizer itself had failed")
    if event.code in ("body_compressed", "body_missing"):
        raise NotRecorded("headers")
    if event.code == FLOOD:
        raise NotRecorded("who called from an address that was refused too often")
    if record is None:
        raise NotRecorded("anything but the outcome")
    if len(event.path) >= _LONGEST_PATH:
        raise NotRecorded("the whole path")
    return Request(
        method=event.method,
        host=record.host,
        path=event.path,
        authorization=("as it was",),
        content_type=GRPC if _spoke_grpc(event, record) else "",
        headers=_Headers(),
        source=record.source,
        models=(event.model,) if event.model else (),
        versions=(event.model_version,) if event.model_version else (),
    )


def revoked_by(event: StoredEvent) -> Kind:
    """Of a revoked call. Older versions did not record what was revoked: the token, then."""
    label = event.record.revoked_by if event.record else ""
    return next((kind for kind in Kind if kind.label == label), Kind.TOKEN)


def _spoke_grpc(event: StoredEvent, record: DecisionRecord) -> bool:
    """The record says how the call is served."""
    return record.grpc is not (event.code == "protocol_mismatch")


def ensure_recorded(event: StoredEvent, context: CheckContext) -> None:
    """That nothing used what is not kept, and cannot raise NotRecorded by itself."""
    if context.match is None:
        return
    if not event.route:
        raise NotRecorded("which protocol was spoken")
    route = context.match.route
    if context.identity and route.path.startswith(f"/{RESERVED}/"):
        raise NotRecorded("the query")
    for expression in expressions(route):
        _ensure_answerable(expression, context)


def expressions(route: Route) -> Iterator[Condition | Amount]:
    """All that are evaluated on it."""
    for expression in (route.when, *(rule.cost.expression for rule in route.limits)):
        if expression is not None:
            yield expression


def _ensure_answerable(expression: Condition | Amount, context: CheckContext) -> None:
    if "request.query" in expression.names:
        raise NotRecorded("the query")
    claims = context.identity.claims if context.identity else {}
    if not isinstance(claims, _KeptClaims) or "identity.claims" not in expression.names:
        return
    missing = claims.unknown & expression.claims if expression.claims else claims.unknown
    if missing:
        raise NotRecorded(f"the claim {min(missing)}")


class RecordedCallers:
    """Phase 2 of a replay: reads the decision records through the issuers of one policy; set `event` first."""

    def __init__(self, policy: Policy, old: Policy, clock: Clock) -> None:
        self.event: StoredEvent
        self._clock = clock
        self._issuers = {issuer.issuer: issuer for issuer in policy.issuers}
        self._old = {issuer.issuer: issuer for issuer in old.issuers}
        self._old_hash = old.hash
        self._same_tokens = tokens_alike(policy.tokens, old.tokens)
        self._same = all_alike(policy.issuers, old.issuers) and self._same_tokens
        self._known: dict[tuple[str, str, str, str, int], tuple[object, Identity]] = {}

    def cached(self, _authorization: str, _grace: float) -> Identity | None:
        """Every caller is looked up below."""
        return None

    async def authenticate(self, _authorization: tuple[str, ...], _grace: float, _request: Request, /) -> Identity:
        """The caller of the event.

        Raises:
            Denied: refused then, and for what would be refused today.
            NotRecorded: the caller was not kept, or what the token would be today.
        """
        event, record = self.event, self.event.record
        if event.reason in _WITHOUT_TOKEN:
            raise Denied(Reason(event.reason), event.code, "as it was")
        if event.reason == Reason.INVALID_CREDENTIAL:
            if not self._same:
                raise NotRecorded("what the refused token contained")
            raise Denied(Reason.INVALID_CREDENTIAL, event.code, "as it was")
        if record is None or not event.subject:
            raise NotRecorded("who called")
        return self._identity(event, record)

    def _identity(self, event: StoredEvent, record: DecisionRecord) -> Identity:
        issuer = self._issuers.get(event.issuer)
        if issuer is None:
            raise invalid("issuer_unknown", "the token comes from an issuer that is not accepted here")
        key = (event.policy, event.issuer, event.subject, event.token_id, record.issued_at)
        token = _of_token(event, record)
        known, identity = self._known.get(key, (None, None))
        at, leeway = self._clock.now(), issuer.leeway
        if identity is None or known != token or not record.issued_at - leeway <= at < identity.expires_at + leeway:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            identity = self._identified(event, record, issuer)
            self._known[key] = token, identity
        return identity

    def _identified(self, event: StoredEvent, record: DecisionRecord, issuer: Issuer) -> Identity:
        if _JUDGED_CALLERS.intersection(record.left_out):
            raise NotRecorded("a list of the token that was too long")
        old = self._old.get(event.issuer)
        if record.api_token and not self._same_tokens:
            raise NotRecorded("which API tokens are accepted")
        if old is None or not reads_alike(issuer, old):
            raise NotRecorded("what the token holds where this policy reads it")
        if record.api_token:
            identity = _api_token(event, record, issuer)
        else:
            identity = identify(_claims(event, record, issuer), issuer, self._clock.now())
        unknown = self._unknown(event, record, issuer, old)
        return replace(identity, claims=_KeptClaims(identity.claims, unknown)) if unknown else identity

    def _unknown(self, event: StoredEvent, record: DecisionRecord, issuer: Issuer, old: Issuer) -> frozenset[str]:
        """The claims that this policy uses and that were not kept then."""
        looked_at = old.claims.keep.keys() if event.policy == self._old_hash else record.claims.keys()
        left_out = {name.removeprefix("claims.") for name in record.left_out}
        return frozenset(issuer.claims.keep.keys() - looked_at | left_out)


def _of_token(event: StoredEvent, record: DecisionRecord) -> object:
    """What a caller is made of. An API token keeps its id, and its owner may get other rights."""
    lists = record.audiences, record.roles, record.scopes, record.groups, record.models, record.left_out
    return event.client, record.session, record.expires_at, record.api_token, record.claims, record.owner, lists


def _api_token(event: StoredEvent, record: DecisionRecord, issuer: Issuer) -> Identity:
    """What the token had of its owner, who is of this issuer."""
    identity = Identity(
        principal=Principal(event.issuer, event.subject, event.client, record.roles, event.token_id),
        issuer_name=issuer.name,
        session=record.session,
        issued_at=record.issued_at,
        expires_at=record.expires_at,
        audiences=record.audiences,
        scopes=frozenset(record.scopes),
        roles=frozenset(record.roles),
        groups=frozenset(record.groups),
        claims=record.claims,
        grant=record.session,
        models=None if record.models is None else ModelNames(record.models),
    )
    held = {name: frozenset(record.owner.get(name, ())) for name in _HELD}
    return replace(identity, owner=replace(identity, models=None, **held)) if record.owner else identity


def _claims(event: StoredEvent, record: DecisionRecord, issuer: Issuer) -> Claims:
    """The recorded part of the token, laid out as its issuer does."""
    claims: Claims = {
        "iss": event.issuer,
        "sub": event.subject,
        "aud": list(record.audiences),
        "typ": "Bearer",
        "jti": event.token_id,
        "iat": record.issued_at,
        "exp": record.expires_at,
    }
    if event.client:
        claims["project_path" if issuer.gitlab and event.subject.startswith(JOB) else "azp"] = event.client
    if record.session:
        claims["sid"] = record.session
    kept = {path: record.claims[name] for name, path in issuer.claims.keep.items() if name in record.claims}
    return laid_out(claims, issuer, record, kept)
