"""Every way a check can end, as a table. `test_check.py` runs it; `test_delete_a_phase.py` over broken copies too."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import ModuleType

from msgspec import Struct
from msgspec.structs import replace

from ext_authz.decision import Allow, Answer, Decision, DecisionIds, Deny, Principal, Quota, Reason, Request
from ext_authz.errors import TollgateError, Unavailable
from ext_authz.identity.authenticator import TokenAuthenticator
from ext_authz.ledger.event import Event, decode
from ext_authz.phases.model_reads import ModelsDocument
from ext_authz.phases.quota_reads import QuotaDocument
from ext_authz.policy.cel.expressions import Condition
from ext_authz.policy.issuers import Claims, Issuer, OwnTokens
from ext_authz.policy.kserve import Kind, Right
from ext_authz.policy.model import Limit, LimitRule, Policy, Route
from ext_authz.policy.names import CONSOLE
from ext_authz.policy.rights import EVERYONE, NOBODY, Has, ModelRule, ModelRules, Not, Permission, Trait
from ext_authz.revocation import entry as revocation
from ext_authz.settlement.model import Outcome, SettleRequest, SettleResult
from tests import tokens
from tests.fakes import FakeClock


def role(name: str) -> Permission:
    return Has(Trait.ROLE, frozenset({name}))


def callable_by(model: str, name: str) -> ModelRule:
    return ModelRule(model, {Right.CALL: role(name), Right.SEE: role(name), Right.ADMINISTER: NOBODY})


GET, POST = frozenset({"GET"}), frozenset({"POST"})
TODAY = int(FakeClock().now())
GRPC = "/inference.GRPCInferenceService/"
USER = LimitRule("user", {"default": Limit("user", ("user",), 10, 60)})
PATH = LimitRule("path", {"default": Limit("path", ("path", "model"), 100, 60)})
ROUTES = (
    Route(name="live", path="/v2/health/live", methods=frozenset({"GET"}), public=True),
    Route(name="grpc-live", path=f"{GRPC}ServerLive", methods=POST, grpc=True, public=True),
    Route(
        name="infer",
        path="/v2/models/{model}/infer",
        methods=frozenset({"POST"}),
        limits=(USER, PATH),
    ),
    Route(name="list", path="/v2/models", methods=frozenset({"GET"}), permission=role("models-admin")),
    Route(name="grpc-infer", path=f"{GRPC}ModelInfer", methods=frozenset({"POST"}), grpc=True),
    Route(name="grpc-stream", path=f"{GRPC}ModelStreamInfer", methods=frozenset({"POST"}), grpc=True),
    Route(name="metadata", operation=Kind.METADATA),
    Route(name="index", path="/v2/repository/index", methods=POST, hosts=("index.example",)),
    Route(name="models-run", path="/run/{model}/{version}", methods=frozenset({"POST"})),
    Route(name="open", path="/{rest=**}", methods=GET | POST, hosts=("*.open.example",), public=True),
    Route(name="team", path="/team", methods=GET, headers=frozenset({"x-team"}), permission=Not(role("infer"))),
    Route(name="shift", path="/shift", methods=GET, when=Condition.compile("request.headers['x-shift'] == 'night'")),
    Route(
        name="stats",
        path="/v2/models/stats",
        methods=GET,
        hosts=("stats.example",),
        when=Condition.compile("model.name != 'cancer'"),
    ),
    Route(name="shop", path="/shop/{rest=**}", methods=GET, public=True, upstream="shop"),
    Route(name="today", path="/today", methods=GET, when=Condition.compile(f"time.epoch == {TODAY}")),
)
POLICY = Policy(
    hash="feedbeef00000000",
    issuers=(
        Issuer(
            name="kc",
            issuer=tokens.ISSUER,
            jwks_url="https://kc.example/certs",
            audiences=frozenset({tokens.AUDIENCE}),
            claims=Claims(roles=(("realm_access", "roles"), ("resource_access", tokens.AUDIENCE, "roles"))),
        ),
    ),
    tokens=OwnTokens(Issuer("tollgate", "https://models.example/tollgate", "", frozenset()), 60, 1),
    routes=ROUTES,
    models=ModelRules(
        [
            callable_by("sentiment", "infer"),
            callable_by("cancer", "doctor"),
            callable_by("team-*", "team"),
            ModelRule("shown", {Right.CALL: NOBODY, Right.SEE: EVERYONE, Right.ADMINISTER: NOBODY}),
            ModelRule("staged", callable_by("", "infer").rights, {"2": {Right.CALL: role("tester")}}),
        ]
    ),
)


class ScriptedSettlement:
    """Returns one result, and keeps its requests and what it was given to record."""

    def __init__(self, answer: SettleResult | TollgateError) -> None:
        self._answer = answer
        self.requests: list[SettleRequest] = []
        self.recorded: list[Event] = []

    async def settle(self, ask: SettleRequest) -> SettleResult:
        self.requests.append(ask)
        if isinstance(self._answer, TollgateError):
            raise self._answer
        return self._answer

    def record(self, event: bytes) -> None:
        self.recorded.append(decode(event))


class World(Struct):
    """One check with all its parts, and what is left to look at afterwards."""

    clock: FakeClock
    settlement: ScriptedSettlement
    decide: Callable[[Request], Awaitable[Decision]]


ALL_WELL = SettleResult(Outcome.OK, -1, (9, 99), (60_000, 60_000))


class Scenario(Struct, frozen=True):
    """One request, what the settlement says to it, and what must come of it."""

    name: str
    request: Request
    reason: Reason
    code: str = ""
    answer: SettleResult | Unavailable = ALL_WELL
    document: type | None = None
    """What Tollgate itself answers; None: the call goes to a model."""
    upstream: str = ""
    """The application that it goes to."""


def post(path: str = "/v2/models/sentiment/infer", **changes: object) -> Request:
    """A good REST call of alice, but for the changes."""
    return _request(path, {"content_type": "application/json", **changes})


def grpc(method: str = "ModelInfer", **changes: object) -> Request:
    """A good gRPC call of alice, but for the changes."""
    return _request(GRPC + method, {"content_type": "application/grpc", "models": ("sentiment",), **changes})


def _request(path: str, fields: dict[str, object]) -> Request:
    defaults = {"method": "POST", "host": "models.example", "path": path, "authorization": (bearer(),)}
    return Request(**(defaults | fields))  # type: ignore[arg-type]


def bearer(**claims: object) -> str:
    """A good token of alice at the fake clock's start, but for the changes."""
    return f"Bearer {tokens.mint(claims, now=FakeClock().now())}"


EVERY_MODEL = {"resource_access": {tokens.AUDIENCE: {"roles": ["infer", "doctor", "team", "tester"]}}}
ADMIN = {"realm_access": {"roles": ["models-admin"]}}
OVER = SettleResult(Outcome.LIMITED, 0, (0, 99), (41_000, 60_000), 41_000)

EMPTY = {"content-length": "0"}
INDEX = post("/v2/repository/index", host="index.example")
CONSOLE_CALL = post("/tollgate.tokens.v1.TokenService/CreateToken", content_type="application/grpc")

SCENARIOS = (
    Scenario("a good call", post(), Reason.ALLOWED),
    Scenario("a good gRPC call", grpc(), Reason.ALLOWED),
    Scenario("a good gRPC call of a version", grpc(versions=("2",)), Reason.ALLOWED),
    Scenario("a public route", post("/v2/health/live", method="GET", authorization=()), Reason.ALLOWED),
    Scenario("a route by role", post("/v2/models", method="GET", authorization=(bearer(**ADMIN),)), Reason.ALLOWED),
    Scenario(
        "a model by pattern", post("/v2/models/team-a/infer", authorization=(bearer(**EVERY_MODEL),)), Reason.ALLOWED
    ),
    Scenario("metadata over REST", post("/v2/models/sentiment", method="GET"), Reason.ALLOWED),
    Scenario("metadata over gRPC", grpc("ModelMetadata"), Reason.ALLOWED),
    Scenario("metadata of a public model", post("/v2/models/shown", method="GET"), Reason.ALLOWED),
    Scenario("a model outside the surface", post("/run/sentiment/3"), Reason.ALLOWED),
    Scenario("a version for all callers", post("/run/staged/1"), Reason.ALLOWED),
    Scenario(
        "a public host", post("/about", method="GET", host="www.open.example:443", authorization=()), Reason.ALLOWED
    ),
    Scenario("a condition that holds", post("/shift", method="GET", headers={"x-shift": "night"}), Reason.ALLOWED),
    Scenario("a condition on the time", post("/today", method="GET"), Reason.ALLOWED),
    Scenario("the index of the models", INDEX, Reason.ALLOWED, document=list),
    Scenario(
        "quotas",
        post("/.tollgate/quota", method="GET"),
        Reason.ALLOWED,
        document=QuotaDocument,
    ),
    Scenario(
        "quotas of a revoked caller",
        post("/.tollgate/quota", method="GET"),
        Reason.REVOKED,
        "revoked",
        SettleResult(Outcome.REVOKED, revoked_by=revocation.Kind.USER),
    ),
    Scenario("models", post("/.tollgate/models", method="GET"), Reason.ALLOWED, document=ModelsDocument),
    Scenario(
        "models for a revoked caller",
        post("/.tollgate/models", method="GET"),
        Reason.REVOKED,
        "revoked",
        SettleResult(Outcome.REVOKED, revoked_by=revocation.Kind.USER),
    ),
    Scenario(
        "quotas without a token",
        post("/.tollgate/quota", method="GET", authorization=()),
        Reason.NO_CREDENTIAL,
        "credential_missing",
    ),
    Scenario(
        "a page of the console",
        post("/tollgate/tokens", method="GET", authorization=()),
        Reason.ALLOWED,
        upstream=CONSOLE,
    ),
    Scenario(
        "a token that the console verifies itself",
        post("/tollgate/api/v1/tokens", authorization=("Bearer x",), query="access_token=x"),
        Reason.ALLOWED,
        upstream=CONSOLE,
    ),
    Scenario(
        "a page of an application",
        post("/shop/a", method="GET", authorization=()),
        Reason.ALLOWED,
        upstream="shop",
    ),
    Scenario("a gRPC call of the console", CONSOLE_CALL, Reason.ALLOWED, upstream=CONSOLE),
    Scenario(
        "a gRPC call of the console over REST",
        replace(CONSOLE_CALL, content_type="application/json"),
        Reason.BAD_REQUEST,
        "protocol_mismatch",
    ),
    Scenario("a path that the console cannot have", post("/tollgate/%2e"), Reason.BAD_REQUEST, "path_not_canonical"),
    # phase 1
    Scenario("a path that is not canonical", post("/v2//models"), Reason.BAD_REQUEST, "path_not_canonical"),
    Scenario("no such route", post("/v2/repository/index"), Reason.NO_ROUTE, "route_unknown"),
    Scenario("another method", post(method="PUT"), Reason.METHOD_NOT_ALLOWED, "method_not_allowed"),
    Scenario("CONNECT", post("", method="CONNECT"), Reason.BAD_REQUEST, "method_refused"),
    Scenario("gRPC on a REST path", post(content_type="application/grpc"), Reason.BAD_REQUEST, "protocol_mismatch"),
    Scenario(
        "a call of Triton's that is no operation",
        post("/v2/models/a/b", host="a.open.example"),
        Reason.NO_ROUTE,
        "operation_unknown",
    ),
    Scenario("a route without its header", post("/team", method="GET"), Reason.NO_ROUTE, "header_missing"),
    Scenario("a host spelled oddly", post(host="models.example."), Reason.BAD_REQUEST, "host_not_canonical"),
    Scenario("a public route of another host", post("/about", method="GET"), Reason.NO_ROUTE, "route_unknown"),
    Scenario(
        "gRPC on a REST path of an operation",
        post("/v2/models/sentiment", method="GET", content_type="application/grpc"),
        Reason.BAD_REQUEST,
        "protocol_mismatch",
    ),
    Scenario(
        "REST on a gRPC path of an operation",
        grpc("ModelMetadata", content_type="application/json"),
        Reason.BAD_REQUEST,
        "protocol_mismatch",
    ),
    Scenario("REST on a gRPC path", grpc(content_type="application/json"), Reason.BAD_REQUEST, "protocol_mismatch"),
    # phase 2
    Scenario("no token", post(authorization=()), Reason.NO_CREDENTIAL, "credential_missing"),
    Scenario("two tokens", post(authorization=(bearer(), bearer())), Reason.INVALID_REQUEST, "credential_repeated"),
    Scenario("a token in the query", post(query="a=1&access_token=x"), Reason.INVALID_REQUEST, "credential_in_query"),
    Scenario("a like-named parameter", post(query="no_access_token=x"), Reason.ALLOWED),
    Scenario("an expired token", post(authorization=(bearer(exp=1),)), Reason.INVALID_CREDENTIAL, "token_expired"),
    # phase 3
    Scenario("a model of others", post("/v2/models/cancer/infer"), Reason.FORBIDDEN, "model_forbidden"),
    Scenario("a model that is not there", post("/v2/models/nothing/infer"), Reason.FORBIDDEN, "model_forbidden"),
    Scenario("a model of others over gRPC", grpc(models=("cancer",)), Reason.FORBIDDEN, "model_forbidden"),
    Scenario("no model in the message", grpc(models=()), Reason.BAD_REQUEST, "model_missing"),
    Scenario("an empty model name", grpc(models=("",)), Reason.BAD_REQUEST, "model_missing"),
    Scenario("two model names", grpc(models=("sentiment", "cancer")), Reason.BAD_REQUEST, "model_missing"),
    Scenario("two versions", grpc(versions=("1", "2")), Reason.BAD_REQUEST, "model_missing"),
    Scenario("a name that Triton cuts", grpc(models=("sentiment\0x",)), Reason.BAD_REQUEST, "model_not_canonical"),
    Scenario("a name by pattern that is none", grpc(models=("team-é",)), Reason.BAD_REQUEST, "model_not_canonical"),
    Scenario("a step for a name", post("/run/.../1"), Reason.FORBIDDEN, "model_forbidden"),
    Scenario("an odd name in a path", post("/run/sentiment~/1"), Reason.BAD_REQUEST, "model_not_canonical"),
    Scenario("a version that Triton repairs", grpc(versions=("01",)), Reason.BAD_REQUEST, "version_not_canonical"),
    Scenario(
        "a public route to a model", post(host="a.open.example", authorization=()), Reason.FORBIDDEN, "model_forbidden"
    ),
    Scenario("what is seen but not called", post("/v2/models/shown/infer"), Reason.FORBIDDEN, "model_forbidden"),
    Scenario("metadata of others", post("/v2/models/cancer", method="GET"), Reason.FORBIDDEN, "model_forbidden"),
    Scenario(
        "metadata of others over gRPC", grpc("ModelMetadata", models=("cancer",)), Reason.FORBIDDEN, "model_forbidden"
    ),
    Scenario("metadata of no model", grpc("ModelMetadata", models=()), Reason.BAD_REQUEST, "model_missing"),
    Scenario("statistics of all models", post("/v2/models/stats", method="GET"), Reason.FORBIDDEN, "model_forbidden"),
    Scenario(
        "statistics of all models, but one",
        post("/v2/models/stats", method="GET", host="stats.example", authorization=(bearer(**EVERY_MODEL),)),
        Reason.FORBIDDEN,
        "condition_false",
    ),
    Scenario("a model by pattern of others", post("/v2/models/team-a/infer"), Reason.FORBIDDEN, "model_forbidden"),
    Scenario("a version of others", post("/run/staged/2"), Reason.FORBIDDEN, "model_forbidden"),
    Scenario("a version left to Triton", post("/v2/models/staged/infer"), Reason.FORBIDDEN, "model_forbidden"),
    Scenario(
        "a version of others over gRPC", grpc(models=("staged",), versions=("2",)), Reason.FORBIDDEN, "model_forbidden"
    ),
    Scenario("a condition that does not hold", post("/shift", method="GET"), Reason.FORBIDDEN, "condition_false"),
    Scenario(
        "a permission that is missing",
        post("/team", method="GET", headers={"x-team": ""}),
        Reason.FORBIDDEN,
        "permission_missing",
    ),
    Scenario("a stream without all models", grpc("ModelStreamInfer"), Reason.FORBIDDEN, "model_forbidden"),
    Scenario("a route of another role", post("/v2/models", method="GET"), Reason.FORBIDDEN, "role_missing"),
    Scenario("a packed body", post(headers={"content-encoding": "GZIP"}), Reason.BAD_REQUEST, "body_compressed"),
    Scenario("a packed message", grpc(headers={"grpc-encoding": "deflate"}), Reason.BAD_REQUEST, "body_compressed"),
    Scenario("what says that it is not packed", post(headers={"content-encoding": "identity"}), Reason.ALLOWED),
    Scenario(
        "a packed message of a stream",
        grpc("ModelStreamInfer", headers={"grpc-encoding": "gzip"}),
        Reason.BAD_REQUEST,
        "body_compressed",
    ),
    Scenario(
        "a packed message of nobody",
        grpc("ServerLive", headers={"grpc-encoding": "gzip"}, authorization=()),
        Reason.BAD_REQUEST,
        "body_compressed",
    ),
    Scenario(
        "a packed message that asks for metadata",
        grpc("ModelMetadata", headers={"grpc-encoding": "gzip"}),
        Reason.BAD_REQUEST,
        "body_compressed",
    ),
    Scenario("the encoding of the other protocol", post(headers={"grpc-encoding": "gzip"}), Reason.ALLOWED),
    Scenario("an empty body", post(headers=EMPTY), Reason.BAD_REQUEST, "body_missing"),
    Scenario(
        "an empty body for a model of others",
        post("/v2/models/cancer/infer", headers=EMPTY),
        Reason.FORBIDDEN,
        "model_forbidden",
    ),
    Scenario("an empty body of a gRPC call", grpc(headers=EMPTY), Reason.ALLOWED),
    Scenario("metadata has no body", post("/v2/models/sentiment", method="GET", headers=EMPTY), Reason.ALLOWED),
    Scenario("a body", post(headers={"content-length": "10"}), Reason.ALLOWED),
    # phase 4
    Scenario(
        "revoked", post(), Reason.REVOKED, "revoked", SettleResult(Outcome.REVOKED, revoked_by=revocation.Kind.USER)
    ),
    Scenario("over the limit", post(), Reason.OVER_LIMIT, "over_limit", OVER),
    Scenario("allowed without Redis", post(), Reason.ALLOWED, "", replace(ALL_WELL, degraded="redis")),
    Scenario("over the limit without Redis", post(), Reason.OVER_LIMIT, "over_limit", replace(OVER, degraded="redis")),
    Scenario("Redis is down", post(), Reason.UNAVAILABLE, "redis_unavailable", Unavailable("redis")),
    Scenario("the ledger is full", post(), Reason.UNAVAILABLE, "ledger_unavailable", Unavailable("ledger")),
)

ALICE = Principal(
    tokens.ISSUER,
    tokens.ALICE,
    "web-app",
    ("default-roles-ml", "infer", "offline_access"),
    str(tokens.keycloak_claims()["jti"]),
)


def world(answer: SettleResult | TollgateError, module: ModuleType, policy: Policy = POLICY) -> World:
    """A check over the policy above or another one, from `module` (the real one, or a broken copy of it)."""
    clock, settlement = FakeClock(), ScriptedSettlement(answer)

    async def fetch(_url: str) -> bytes:
        return tokens.jwks(tokens.RSA)

    authenticator = TokenAuthenticator(policy.issuers, fetch=fetch, clock=clock, cache_size=100)
    return World(clock, settlement, module.Check(policy, authenticator, settlement, DecisionIds(clock)).decide)


def verify(scenario: Scenario, decision: Decision, settlement: ScriptedSettlement) -> None:
    """What holds for every decision, whatever it is."""
    seen = (decision.reason, decision.code) if isinstance(decision, Deny) else (Reason.ALLOWED, "")
    assert seen == (scenario.reason, scenario.code)
    assert decision.degraded == _without(scenario, settlement)
    assert (type(decision.document) if isinstance(decision, Answer) else None) is scenario.document
    assert (decision.upstream if isinstance(decision, Allow) else "") == scenario.upstream
    settled = [decode(ask.event) for ask in settlement.requests if ask.event]
    events = settlement.recorded + settled
    if scenario.document in (QuotaDocument, ModelsDocument):
        assert events == [], "what was read costs nothing, and is not recorded"
        return
    assert [event.decision_id for event in events] == [decision.decision_id] * len(events)
    assert len(events) == (2 if scenario.reason is Reason.UNAVAILABLE else 1), "one decision, one line in the ledger"
    last = settlement.recorded[-1] if settlement.recorded else events[-1]
    assert (last.route, last.model) == (decision.route, decision.model)
    assert (last.subject, last.client) == (decision.principal.subject, decision.principal.client)
    if settlement.requests:
        assert decision.principal.issuer == tokens.ISSUER, "nobody is settled who is not known"
    if scenario.reason in {Reason.REVOKED, Reason.OVER_LIMIT} and settled:
        assert not settlement.recorded, "the settlement wrote it"
    if scenario.reason is Reason.ALLOWED and settlement.requests and settlement.requests[0].quota_requests:
        assert decision.quotas == (Quota("user", 10, 60, 9, 60), Quota("path", 100, 60, 99, 60))


def _without(scenario: Scenario, settlement: ScriptedSettlement) -> str:
    return scenario.answer.degraded if settlement.requests and isinstance(scenario.answer, SettleResult) else ""
