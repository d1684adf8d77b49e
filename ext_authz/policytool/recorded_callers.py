"""Phase 2 of a replay: the callers of recorded decisions, as another policy would recognise them."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from ext_authz.clock import Clock
from ext_authz.decision import Reason
from ext_authz.errors import Denied
from ext_authz.identity.claims import Claims, identify
from ext_authz.identity.identity import Identity, invalid
from ext_authz.ledger.decisions import RecordedDecision
from ext_authz.ledger.facts import Facts
from ext_authz.policy.model import Issuer, Policy
from ext_authz.policytool.claims import put
from ext_authz.policytool.unrecorded import KeptClaims, NotRecorded

_MOST_KNOWN = 100_000
_WITHOUT_TOKEN = (Reason.NO_CREDENTIAL, Reason.INVALID_REQUEST)
_JUDGED_CALLERS = frozenset({"roles", "scopes", "groups", "audiences"})


class RecordedCallers:
    """Reads the recorded facts through the issuers of one policy; set `event` first."""

    def __init__(self, policy: Policy, old: Policy, clock: Clock) -> None:
        self.event: RecordedDecision
        self._clock = clock
        self._issuers = {issuer.issuer: issuer for issuer in policy.issuers}
        self._old = {issuer.issuer: issuer for issuer in old.issuers}
        self._old_hash = old.hash
        self._same = _all_alike(policy.issuers, old.issuers)
        self._known: dict[tuple[str, str, str, str, int], Identity] = {}

    def cached(self, _authorization: str, _grace: float) -> Identity | None:
        """Everybody is looked up below."""
        return None

    async def authenticate(self, _authorization: tuple[str, ...], _grace: float, /) -> Identity:
        """The caller of the event.

        Raises:
            Denied: refused then, and for what would be refused today.
            NotRecorded: nobody knows who it was, or what the token would be today.
        """
        event, facts = self.event, self.event.facts
        if event.reason in _WITHOUT_TOKEN:
            raise Denied(Reason(event.reason), event.code, "as it was")
        if event.reason == Reason.INVALID_CREDENTIAL:
            if not self._same:
                raise NotRecorded("what the refused token said")
            raise Denied(Reason.INVALID_CREDENTIAL, event.code, "as it was")
        if facts is None or not event.subject:
            raise NotRecorded("who called")
        return self._identity(event, facts)

    def _identity(self, event: RecordedDecision, facts: Facts) -> Identity:
        issuer = self._issuers.get(event.issuer)
        if issuer is None:
            raise invalid("issuer_unknown", "the token comes from an issuer that is not accepted here")
        key = (event.policy, event.issuer, event.subject, event.token_id, facts.issued_at)
        identity = self._known.get(key)
        if identity is None or self._clock.now() >= identity.expires_at + issuer.leeway:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            identity = self._known[key] = self._identified(event, facts, issuer)
        return identity

    def _identified(self, event: RecordedDecision, facts: Facts, issuer: Issuer) -> Identity:
        if _JUDGED_CALLERS.intersection(facts.left_out):
            raise NotRecorded("a list of the token that was too long")
        old = self._old.get(event.issuer)
        if old is None or not _reads_alike(issuer, old):
            raise NotRecorded("what the token holds where this policy looks")
        identity = identify(_claims(event, facts, issuer), issuer, "", self._clock.now())
        unknown = self._unknown(event, facts, issuer, old)
        return replace(identity, claims=KeptClaims(identity.claims, unknown)) if unknown else identity

    def _unknown(self, event: RecordedDecision, facts: Facts, issuer: Issuer, old: Issuer) -> frozenset[str]:
        """The claims that this policy looks at and nobody looked at then."""
        looked_at = old.claims.keep.keys() if event.policy == self._old_hash else facts.claims.keys()
        left_out = {name.removeprefix("claims.") for name in facts.left_out}
        return frozenset(issuer.claims.keep.keys() - looked_at | left_out)


def _claims(event: RecordedDecision, facts: Facts, issuer: Issuer) -> Claims:
    """The recorded part of the token, laid out as its issuer does."""
    claims: Claims = {
        "iss": event.issuer,
        "sub": event.subject,
        "aud": list(facts.audiences),
        "typ": "Bearer",
        "jti": event.token_id,
        "iat": facts.issued_at,
        "exp": facts.expires_at,
    }
    if event.client:
        claims["azp"] = event.client
    if facts.session:
        claims["sid"] = facts.session
    held = issuer.claims
    for paths, names in ((held.roles, facts.roles), (held.scopes, facts.scopes), (held.groups, facts.groups)):
        put(claims, paths[0], list(names))
    for name, path in held.keep.items():
        if name in facts.claims:
            value = facts.claims[name]
            put(claims, path, list(value) if isinstance(value, tuple) else value)
    return claims


def _all_alike(issuers: Sequence[Issuer], others: Sequence[Issuer]) -> bool:
    """No token is taken by one and refused by the other."""
    by_name = {issuer.issuer: issuer for issuer in others}
    return len(issuers) == len(others) and all(
        issuer.issuer in by_name and _takes_alike(issuer, by_name[issuer.issuer]) for issuer in issuers
    )


def _takes_alike(one: Issuer, other: Issuer) -> bool:
    same = (one.audiences, one.clients, one.leeway, one.max_token_age, one.claims)
    return _reads_alike(one, other) and same == (
        other.audiences,
        other.clients,
        other.leeway,
        other.max_token_age,
        other.claims,
    )


def _reads_alike(one: Issuer, other: Issuer) -> bool:
    """What is not recorded of a token (its header, `cnf`, claims that nobody kept) makes no difference."""
    found = [
        (issuer.claims.roles, issuer.claims.scopes, issuer.claims.groups, issuer.take_bound, issuer.types)
        for issuer in (one, other)
    ]
    return found[0] == found[1] and one.algorithms >= other.algorithms
