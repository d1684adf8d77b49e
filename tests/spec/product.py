"""The product, from bytes to bytes, with phases that find what a case says: all that decides is the real thing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import Any, cast

from ext_authz.check import Check
from ext_authz.decision import DecisionIds, Principal, Reason, Request
from ext_authz.edge.authorizer import Authorizer
from ext_authz.edge.response import Responder
from ext_authz.errors import Denied, Unavailable
from ext_authz.gen.tollgate.envoy.v3.external_auth_pb2 import CheckResponse
from ext_authz.identity.identity import Identity
from ext_authz.ledger.event import decode
from ext_authz.policy.cel.expressions import Condition
from ext_authz.policy.kserve import Right
from ext_authz.policy.model import Failure, Limit, LimitRule, Match, OnFailure, Policy, Responses, Route
from ext_authz.policy.rights import EVERYONE, NOBODY, Has, ModelRule, ModelRules, Permission, Trait
from ext_authz.revocation.entry import Kind
from ext_authz.settlement.model import Outcome, QuotaRequest, SettleRequest, SettleResult
from ext_authz.settlement.redis import RedisSettlement
from tests.fakes import FakeClock
from tests.requests import check_request
from tests.spec import decision_order as spec
from tests.spec.decision_order import Case

GRACE = 60
CLOCK = FakeClock()
LIMITS = (LimitRule("user", {"default": Limit("user", ("user",), 10, 60)}),)
NEVER = Condition.compile("request.method == 'never'")
WITHOUT_ROLE = Has(Trait.ROLE, frozenset({"operator"}))
BROKEN = cast("Permission", object())
MODELS = ModelRules(
    [
        ModelRule(name, {Right.CALL: who, Right.SEE: who, Right.ADMINISTER: NOBODY})
        for name, who in (("mine", EVERYONE), ("theirs", NOBODY))
    ]
)


def _routes() -> list[Route]:
    """One for each permission and failure mode, `/{permission}/{redis}/{postgres}/{keys}/{model}`, and a public one."""
    post = frozenset({"POST"})
    routes = [Route(name="public", path="/public", methods=post, public=True)]
    for permission, *modes in product(*map(spec.values, ("permission", "if_redis", "if_postgres", "if_keys"))):
        path = "/".join(["", permission, *modes, "{model}"])
        redis, postgres, keys = map(OnFailure, modes)
        routes.append(
            Route(
                name=path,
                path=path,
                methods=post,
                permission={"role": WITHOUT_ROLE, "broken": BROKEN}.get(permission, EVERYONE),
                when=NEVER if permission == "condition" else None,
                limits=LIMITS,
                failure=Failure(redis=redis, postgres=postgres, jwks=keys, grace=GRACE),
            )
        )
    return routes


class Product:
    """One authorizer whose phases find what `case` says."""

    def __init__(self) -> None:
        self.case = Case()
        self.taken = ""
        """Which counters something was taken from."""
        self.counted = False
        self.reasons: list[str] = []
        """Of the ledger's events."""
        policy = Policy(hash="0" * 16, issuers=(), routes=tuple(_routes()), models=MODELS)
        settlement = RedisSettlement(
            "redis://127.0.0.1:1",
            timeout=1,
            ledger_max=1,
            revoked_in_postgres=self._revoked_in_postgres,
            known=self,
            clock=CLOCK,
        )
        inside = cast("Any", settlement)
        inside._queues = [self]
        inside._failure_mode._limits = self
        inside._failure_mode._redis_seen_at = lambda: self._seen_at(self.case.redis)
        check = Check(policy, self, settlement, DecisionIds(CLOCK))
        inside = cast("Any", check)
        inside._flood = self
        self._table, self.reads, inside._routes = inside._routes, inside._routes.reads, self
        self._authorizer = Authorizer(check, Responder("realm", Responses(), "0" * 16))
        principal = Principal("issuer", "alice", "app", (), "jti")
        self._identity = Identity(principal, "kc", "sid", 1, 2.0, (), frozenset(), frozenset())
        self._stale = Identity(principal, "kc", "sid", 1, 2.0, (), frozenset(), frozenset(), degraded="jwks")

    async def run(self, case: Case) -> spec.Outcome:
        """What comes of one check."""
        self.case, self.taken, self.reasons, self.counted = case, "none", [], False
        message = _message(case.route, case.credential, case.permission, case.if_redis, case.if_postgres, case.if_keys)
        response = CheckResponse.FromString(await self._authorizer.check(message))
        said = {name: value.string_value for name, value in response.dynamic_metadata.fields.items()}
        return spec.Outcome(
            verdict=_verdict(response, said["reason"]),  # type: ignore[arg-type]
            code="" if said["code"] == "allowed" else said["code"],
            quota=self.taken,  # type: ignore[arg-type]
            ledger=len(self.reasons),
            degraded=said.get("degraded", ""),
            counted=self.counted,
        )

    # phase 1, and the flood guard

    def match(self, *call: Any) -> Match:  # noqa: ANN401 - as the table takes it
        if self.case.route == "broken":
            raise RuntimeError("broken")
        found: Match = self._table.match(*call)
        return found

    def prove(self, *call: Any) -> None:  # noqa: ANN401 - as the table takes it
        self._table.prove(*call)

    def check(self, _address: str, _now: int) -> None:
        if self.case.flood == "over":
            raise Denied(Reason.OVER_LIMIT, "flood", "")

    def count(self, _address: str, _now: int) -> None:
        self.counted = True

    # phase 2

    def cached(self, _authorization: str, _grace: float) -> Identity | None:
        return self._identity if self.case.identity == "cached" else None

    async def authenticate(self, _authorization: tuple[str, ...], grace: float, _request: Request, /) -> Identity:
        match self.case.identity:
            case "verified":
                return self._identity
            case "refused":
                raise Denied(Reason.INVALID_CREDENTIAL, "token_expired", "")
            case "keys away" if grace:
                return self._stale
            case "keys away":
                raise Unavailable("jwks")
        raise RuntimeError("broken")

    # phase 4: Redis, the worker's own counters, its own revocations, Postgres

    down, has_room = "", True

    async def put(self, ask: SettleRequest) -> SettleResult:
        answer = self._found_in_redis(ask)
        if ask.event and answer.outcome in (Outcome.OK, Outcome.REVOKED, Outcome.LIMITED):
            self.record(ask.event, answer.outcome)
        if answer.outcome is Outcome.OK and ask.quota_requests:
            self.taken = "shared"
        return answer

    def _found_in_redis(self, ask: SettleRequest) -> SettleResult:
        match self.case.redis:
            case "away" | "away too long":
                raise Unavailable("redis")
            case "ledger full":
                return SettleResult(Outcome.LEDGER_FULL)
            case "broken":
                raise RuntimeError("broken")
            case "incomplete" if any(ask.revocation):
                return SettleResult(Outcome.INCOMPLETE)
        if self.case.revoked == "yes" and any(ask.revocation):
            return SettleResult(Outcome.REVOKED, revoked_by=Kind.USER)
        return self._counted()

    def _counted(self) -> SettleResult:
        return (
            SettleResult(Outcome.OK, -1, (1,), (1,))
            if self.case.quota == "left"
            else SettleResult(Outcome.LIMITED, 0, (0,), (1,))
        )

    def record(self, event: bytes, outcome: int) -> None:
        reason = {Outcome.REVOKED: "revoked", Outcome.LIMITED: "over_limit"}.get(Outcome(outcome))
        self.reasons.append(reason or decode(event).reason)

    record_degraded = record

    def take(self, _takes: tuple[QuotaRequest, ...]) -> SettleResult:
        answer = self._counted()
        if answer.outcome is Outcome.OK:
            self.taken = "local"
        return answer

    def whole_at(self) -> float:
        return self._seen_at(self.case.postgres)

    def revokes(self, _ids: tuple[str, str, str, str, str], _issued_at: int) -> Kind | None:
        return Kind.USER if self.case.revoked == "yes" else None

    def saw_revoked(self, _ids: tuple[str, str, str, str, str], _by: Kind) -> None:
        """It is known anyway."""

    async def _revoked_in_postgres(self, asks: Sequence[SettleRequest]) -> Sequence[Kind | None]:
        if self.case.postgres != "up":
            raise Unavailable("postgres")
        return [self.revokes(ask.revocation, ask.issued_at) for ask in asks]

    def _seen_at(self, state: str) -> float:
        return CLOCK.monotonic() - (GRACE if state == "away too long" else GRACE - 1)


@cache
def _message(route: str, credential: str, permission: str, *modes: str) -> bytes:
    model = "theirs" if permission == "model" else "mine"
    path = {"public": "/public", "malformed": "//", "unknown": "/nothing"}.get(
        route, "/".join(["", permission, *modes, model])
    )
    return check_request(
        "PUT" if route == "method" else "POST",
        path + ("?access_token=x" if credential == "query" else ""),
        token="token",
        content_type="application/grpc" if route == "protocol" else "application/json",
    )


def _verdict(response: CheckResponse, reason: str) -> str:
    if response.status.code == 0:
        return "allow"
    if reason == "internal":
        return "broken"
    return "unavailable" if response.HasField("error_response") else "deny"
