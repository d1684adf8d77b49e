"""The whole language, said once, and what each part of it compiles to."""

from __future__ import annotations

from pathlib import Path

import pytest

from ext_authz.policy.cel.errors import ConditionError
from ext_authz.policy.cel.expressions import Amount
from ext_authz.policy.cel.variables import Call, Caller, Variables
from ext_authz.policy.faults import PolicyFaults
from ext_authz.policy.issuers import Asap, Claims, Proofs
from ext_authz.policy.kserve import Kind, Right
from ext_authz.policy.load import load_policy
from ext_authz.policy.model import Algorithm, Cors, Failure, Flood, Limit, OnFailure, Plan, Policy, Resource, Responses
from ext_authz.policy.rights import EVERYONE, NOBODY, AnyOf, Has, Not, Trait
from ext_authz.policytool.diff import _parts
from tests.unit.policy.writing import GOOD, loaded, write

WHOLE = r"""
version: 1
realm: tollgate
resource: {url: https://models.example, name: Models, documentation: https://docs.example/}
cors: {origins: [https://app.example], headers: [x-b, authorization], exposed_headers: [retry-after], max_age: 1h}
issuers:
  - name: demo
    issuer: ${TOLLGATE_ISSUER}
    jwks_url: https://id.example/keys
    audiences: [triton-gateway]
    algorithms: [RS256, ES256]
    strict_type: true
    clients: [web-app]
    claims:
      roles: [realm_access.roles, resource_access.triton-gateway.roles]
      scopes: [scope, scp]
      groups: [groups, org.groups]
      keep: [tenant, plan, org.unit, 'https://id\.example/tier']
    cnf: ignore
    leeway: 10s
    max_token_age: 1h
    jwks_refresh: 1m
    jwks_cooldown: 5s
    jwks_max_stale: 2h
plans:
  gold: {roles: [gold, platinum]}
  silver: {claim: plan, values: [silver]}
limits:
  user-minute: {key: [user], plans: {gold: 100/minute, default: 10/minute}}
  ip-second: {key: [ip, route], rate: 5/second, algorithm: gcra, burst: 9}
  smooth: {key: [client, token, path, model], rate: 7/hour, algorithm: sliding_window, dry_run: true}
  tenant-month:
    key: ['claim:tenant']
    rate: 1000/month
    algorithm: calendar
    timezone: UTC
    cost: {header: x-batch-rows, max: 1000}
  rows: {key: [user], rate: 9/day, cost: {cel: "int(request.headers['x-rows']) * 2", max: 50}}
  double: {key: [user], rate: 9/day, cost: 2}
  billed: {key: [client], rate: 500/month, algorithm: calendar, anchor: billing}
billing_days: {demo: {shop: 15}}
flood: {rate: 50/second, burst: 100}
client_address: {trusted_hops: 2}
max_duration: 5m
models:
  sentiment:
    visibility: public
    call: {any: [{role: infer}, {group: research}]}
    administer: {role: admin}
    versions: {"2": {call: {role: tester}}}
  'team-*': {roles: [team]}
routes:
  - name: infer
    path: /v2/models/{model}/infer
    methods: [POST]
    hosts: [models.example, "*.models.example"]
    headers: [x-batch-rows]
    permission: {not: {client: legacy}}
    when: "identity.claims.tenant == request.headers['x-tenant']"
    limits: [user-minute, rows]
    failure: {redis: local, grace: 5s}
    max_duration: 1m
  - {name: generate, operation: generate, roles: [a, b]}
  - name: stream
    operation: stream
    permission: {all: [{any: [{scope: s2}, {scope: s1}]}, {not: {scope: s3}}]}
  - {name: service, grpc: package.Service/*}
  - {name: method, grpc: package.Service/Method, public: true}
experiments:
  sentiment-v2:
    model: sentiment
    weights: {stable: 90, canary: 10}
    override: {header: x-experiment, values: {try: canary}, permission: {role: tester}}
  team: {model: team-a, weights: {only: 100}, salt: again}
failure: {redis: deny, postgres: allow, jwks: local, grace: 30s, local_share: 0.5}
responses: {problem_base: "https://errors.example/", hints: false, ratelimit_headers: false, decision_header: false}
explain: {keep: 2h}
"""


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    path = write(tmp_path_factory.mktemp("whole"), WHOLE)
    return load_policy(path, {"TOLLGATE_ISSUER": "https://id.example/realms/ml"})


def has(trait: Trait, *values: str) -> Has:
    return Has(trait, frozenset(values))


def test_an_issuer(policy: Policy) -> None:
    (issuer,) = policy.issuers
    assert (issuer.name, issuer.issuer, issuer.jwks_url) == (
        "demo",
        "https://id.example/realms/ml",
        "https://id.example/keys",
    )
    assert issuer.types == {"at+jwt", "application/at+jwt"}
    assert issuer.claims == Claims(
        roles=(("realm_access", "roles"), ("resource_access", "triton-gateway", "roles")),
        scopes=(("scope",), ("scp",)),
        groups=(("groups",), ("org", "groups")),
        keep={
            "tenant": ("tenant",),
            "plan": ("plan",),
            "org.unit": ("org", "unit"),
            r"https://id\.example/tier": ("https://id.example/tier",),
        },
        decisive=frozenset({"roles", "scopes"}),  # a plan is for those without gold, a route for those without s3
    )
    assert (issuer.cnf, issuer.algorithms, issuer.clients) == (
        "ignore",
        frozenset({"RS256", "ES256"}),
        frozenset({"web-app"}),
    )
    assert (issuer.leeway, issuer.max_token_age, issuer.jwks_refresh) == (10, 3600, 60)
    assert (issuer.jwks_cooldown, issuer.jwks_max_stale) == (5, 7200)


def verifying(tmp_path: Path, text: str = "") -> Policy:
    path = write(tmp_path, WHOLE.replace("cnf: ignore", f"cnf: verify{text}"))
    return load_policy(path, {"TOLLGATE_ISSUER": "https://id.example/realms/ml"})


def test_proofs_of_keys(tmp_path: Path) -> None:
    policy = verifying(tmp_path, "\n    dpop: {algorithms: [ES256, EdDSA], max_age: 2m, nonce: true}")
    (issuer,) = policy.issuers
    assert issuer.cnf == "verify"
    assert issuer.proofs == Proofs(frozenset({"ES256", "EdDSA"}), 120, nonce=True)
    assert policy.responses.dpop == ("ES256", "EdDSA")
    (usual,) = verifying(tmp_path).issuers
    assert usual.proofs == Proofs()


ASKED = """
    introspection: {client_id: gateway, client_secret: "${ASKS}", opaque: true, lightweight: true, cache: 5s}"""


def asking(tmp_path: Path, text: str = "") -> Policy:
    path = write(
        tmp_path, WHOLE.replace("cnf: ignore", f"cnf: ignore{ASKED}").replace("plans:\n", f"{text}plans:\n", 1)
    )
    return load_policy(path, {"TOLLGATE_ISSUER": "https://id.example/realms/ml/", "ASKS": "not-to-be-seen"})


def test_introspection(tmp_path: Path) -> None:
    (issuer,) = asking(tmp_path).issuers
    rules = issuer.introspection
    assert rules
    assert rules.url == "https://id.example/realms/ml/protocol/openid-connect/token/introspect"
    assert (rules.client_id, rules.client_secret.get_secret_value()) == ("gateway", "not-to-be-seen")
    assert (rules.opaque, rules.lightweight, rules.cache) == (True, True, 5)
    assert "not-to-be-seen" not in repr(issuer)
    assert [value for value in _parts(asking(tmp_path)) if "not-to-be-seen" in str(value)] == [], "tollgate policy diff"


SERVICES = """version: 1
issuers:
  - name: web
    issuer: team/web
    audiences: [gateway]
    algorithms: [ES256]
    asap: {repositories: ["https://keys.example/asap", "http://127.0.0.1:9000/"], roles: [infer]}
  - {name: jobs, issuer: jobs, audiences: [gateway], max_token_age: 90s, asap: {repositories: ["https://keys.example"],
     other_subjects: true, replays: accept}}
routes: [{name: live, path: /v2/health/live, methods: [GET], public: true}]
"""


def test_services_that_sign_their_own_tokens(tmp_path: Path) -> None:
    policy = loaded(tmp_path, SERVICES)
    web, jobs = policy.issuers
    repositories = ("https://keys.example/asap/", "http://127.0.0.1:9000/")
    assert (web.issuer, web.jwks_url, web.max_token_age) == ("team/web", "", 3600)
    assert web.asap == Asap(repositories, frozenset({"infer"}))
    assert jobs.asap == Asap(("https://keys.example/",), other_subjects=True, replays=True)
    assert (jobs.max_token_age, policy.longest_life) == (90, 3630)


def test_opaque_tokens_have_one_issuer(tmp_path: Path) -> None:
    second = f"  - name: other\n    issuer: https://other.example\n    audiences: [a]{ASKED}\n"
    with pytest.raises(PolicyFaults) as wrong:
        asking(tmp_path, second)
    assert "a token that is no JWT does not say whose it is" in str(wrong.value)
    assert "not-to-be-seen" not in str(wrong.value)


def test_pages_may_send_proofs_where_they_are_verified(policy: Policy, tmp_path: Path) -> None:
    """The headers of `cors` are for what the policy's author knows of; this one follows from `cnf`."""
    cors = verifying(tmp_path).cors
    assert cors
    assert "dpop" in cors.headers
    assert "dpop-nonce" in cors.exposed_headers
    assert policy.cors
    assert "dpop" not in policy.cors.headers
    assert policy.responses.dpop == ()


def test_how_long_a_call_lasts(policy: Policy) -> None:
    first, *others = policy.routes
    assert (first.max_duration, {route.max_duration for route in others}) == (60, {300})


def test_plans_keep_their_order(policy: Policy) -> None:
    gold, silver = policy.plans
    assert isinstance(gold, Plan)
    assert (gold.name, gold.roles, gold.claim) == ("gold", frozenset({"gold", "platinum"}), "")
    assert (silver.name, silver.claim, silver.values) == ("silver", "plan", frozenset({"silver"}))


def test_limits(policy: Policy) -> None:
    limits = policy.limits
    assert limits["user-minute"].by_plan == {
        "gold": Limit("user-minute", ("user",), 100, 60),
        "default": Limit("user-minute", ("user",), 10, 60),
    }
    assert limits["user-minute"].of("silver").limit == 10
    assert limits["ip-second"].of("") == Limit("ip-second", ("ip", "route"), 5, 1, Algorithm.GCRA, 9)
    assert limits["smooth"].of("") == Limit(
        "smooth", ("client", "token", "path", "model"), 7, 3600, Algorithm.SLIDING_WINDOW
    )
    assert limits["tenant-month"].of("") == Limit(
        "tenant-month", ("claim:tenant",), 1000, 31 * 86_400, Algorithm.CALENDAR, 0, "month"
    )
    assert [name for name, rule in limits.items() if rule.dry_run] == ["smooth"]
    assert limits["tenant-month"].key == ("claim:tenant",)


def test_billing_days(policy: Policy) -> None:
    assert policy.limits["billed"].billing_days == {"demo": {"shop": 15}}
    assert policy.limits["tenant-month"].billing_days is None


def test_costs(policy: Policy) -> None:
    header, cel, number = (policy.limits[name].cost for name in ("tenant-month", "rows", "double"))
    assert (header.header, header.most, header.expression) == ("x-batch-rows", 1000, None)
    assert cel.expression is not None
    assert (cel.expression.text, cel.most) == ("int(request.headers['x-rows']) * 2", 50)
    assert (number.amount, number.header, number.expression) == (2, "", None)


def test_models(policy: Policy) -> None:
    sentiment, team = policy.models.rule("sentiment"), policy.models.rule("team-a")
    assert sentiment is not None
    assert team is not None
    assert sentiment.rights == {
        Right.CALL: AnyOf((has(Trait.ROLE, "infer"), has(Trait.GROUP, "research"))),
        Right.SEE: EVERYONE,
        Right.ADMINISTER: has(Trait.ROLE, "admin"),
    }
    assert sentiment.versions == {"2": {Right.CALL: has(Trait.ROLE, "tester")}}
    assert (team.name, team.rights[Right.ADMINISTER]) == ("team-*", NOBODY)
    assert policy.models.rule("teams") is None


def test_routes(policy: Policy) -> None:
    infer, generate, _, service, method = policy.routes
    assert (infer.path, infer.methods, infer.grpc) == ("/v2/models/{model}/infer", frozenset({"POST"}), False)
    assert (infer.hosts, infer.headers) == (("models.example", "*.models.example"), frozenset({"x-batch-rows"}))
    assert infer.permission == Not(has(Trait.CLIENT, "legacy"))
    assert infer.when is not None
    assert infer.when.claims == {"tenant"}
    assert infer.limits == (policy.limits["user-minute"], policy.limits["rows"])
    assert (generate.operation, generate.path, generate.methods) == (Kind.GENERATE, "", frozenset())
    assert generate.permission == has(Trait.ROLE, "a", "b")
    assert (service.path, service.grpc, service.permission) == ("/package.Service/{method}", True, EVERYONE)
    assert (method.path, method.methods, method.public) == ("/package.Service/Method", frozenset({"POST"}), True)


def test_a_failure_mode_of_a_route_overrides_what_it_names(policy: Policy) -> None:
    deny, local, allow = OnFailure.DENY, OnFailure.LOCAL, OnFailure.ALLOW
    assert policy.failure == Failure(deny, allow, local, 30, 0.5)
    assert policy.routes[0].failure == Failure(local, allow, local, 5, 0.5)
    assert policy.routes[1].failure == policy.failure


def test_experiments_by_model(policy: Policy) -> None:
    first, second = policy.experiments["sentiment"], policy.experiments["team-a"]
    assert (first.name, list(first.weights.items()), first.salt) == (
        "sentiment-v2",
        [("stable", 90), ("canary", 10)],
        "sentiment-v2",
    )
    assert first.override is not None
    assert (first.override.header, first.override.values) == ("x-experiment", {"try": "canary"})
    assert first.override.permission == has(Trait.ROLE, "tester")
    assert (second.salt, second.override) == ("again", None)


def test_what_clients_are_told(policy: Policy) -> None:
    assert policy.resource == Resource("https://models.example", "Models", "https://docs.example/", ("s1", "s2"))
    assert policy.responses.resource_metadata == policy.resource.metadata_url
    assert policy.resource.metadata_url == "https://models.example/.well-known/oauth-protected-resource"
    assert policy.cors == Cors(("https://app.example",), ("authorization", "x-b"), ("retry-after",), 3600)


def test_own_tokens(tmp_path: Path) -> None:
    tokens = "tokens: {audiences: [gateway], max_lifetime: 7d, administrators: {role: boss}}\n"
    policy = loaded(tmp_path, f"{GOOD}resource: {{url: https://models.example}}\n{tokens}")
    assert policy.tokens is not None
    assert (policy.tokens.per_owner, policy.tokens.administrators) == (50, has(Trait.ROLE, "boss"))
    issuer = policy.tokens.issuer
    assert (issuer.issuer, issuer.jwks_url) == (
        "https://models.example/tollgate",
        "https://models.example/tollgate/jwks",
    )
    assert (sorted(issuer.algorithms), issuer.max_token_age, sorted(issuer.audiences)) == (
        ["ES256"],
        604_800,
        ["gateway"],
    )
    assert loaded(tmp_path, GOOD).tokens is None


def test_the_name_of_the_consoles_route_is_the_policys_only_without_one(tmp_path: Path) -> None:
    named = GOOD.replace("name: infer,", "name: console,")
    assert loaded(tmp_path, named).routes[0].name == "console"
    write(tmp_path, f"{named}tokens: {{audiences: [gateway], issuer: 'https://models.example/tollgate'}}\n")
    with pytest.raises(PolicyFaults, match="console is the route to Tollgate's own console"):
        load_policy(tmp_path / "policy.yaml", {})


def test_without_a_word_about_it_no_page_may_call_and_no_challenge_names_a_document(tmp_path: Path) -> None:
    policy = loaded(tmp_path, GOOD)
    assert (policy.resource, policy.cors, policy.responses.resource_metadata) == (None, None, "")


def test_the_rest(policy: Policy) -> None:
    assert policy.flood == Flood(50, 1, 100)
    assert policy.trusted_hops == 2
    assert policy.responses == Responses(
        "https://errors.example/",
        hints=False,
        ratelimit_headers=False,
        decision_header=False,
        resource_metadata="https://models.example/.well-known/oauth-protected-resource",
    )
    assert policy.explain_keep == 7200


def test_a_policy_with_defaults(tmp_path: Path) -> None:
    policy = loaded(tmp_path, GOOD)
    assert (policy.flood, policy.trusted_hops, policy.experiments) == (None, 0, {})
    assert (policy.failure, policy.responses, policy.explain_keep) == (Failure(), Responses(), 3600)
    assert policy.issuers[0].claims.roles == (("realm_access", "roles"),)
    assert (policy.routes[0].permission, policy.routes[0].when, policy.routes[0].hosts) == (EVERYONE, None, ())


# amounts

VARIABLES = Variables(
    identity=Caller(claims={"seats": 3, "text": "x", "list": ["a"]}),
    request=Call(headers={"x-rows": "12", "x-bad": "x"}),
)


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("3", 3),
        ("int(request.headers['x-rows']) * 2", 24),
        ("identity.claims.seats", 3),
        ("size(identity.claims.list)", 1),
        ("-5", -5),
        ("int(request.headers['x-bad'])", None),
        ("int(request.headers['x-none'])", None),
        ("identity.claims.list", None),
        ("identity.claims.none", None),
        ("9223372036854775807 + identity.claims.seats", None),
        ("1 / (identity.claims.seats - 3)", None),
    ],
)
def test_an_amount(text: str, amount: int | None) -> None:
    assert Amount.compile(text).of(VARIABLES) == amount


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("true", "must be a whole number, and is bool"),
        ("1.5", "and is double"),
        ("'1'", "and is string"),
        ("nothing", "unknown variable"),
        ("1 +", "ends too early"),
        ("1" * 1001, "at most 1000 characters"),
        ("identity.roles.map(r, identity.groups.map(g, g)).size()", "a macro inside another"),
    ],
)
def test_what_is_no_amount(text: str, words: str) -> None:
    with pytest.raises(ConditionError, match=words):
        Amount.compile(text)


def test_an_amount_knows_what_it_reads() -> None:
    amount = Amount.compile("identity.claims.seats + int(request.headers.x)")
    assert (amount.names, amount.claims) == (frozenset({"identity.claims", "request.headers"}), frozenset({"seats"}))
    large = Variables(identity=Caller(claims={"seats": "x" * 10_000}))
    assert Amount.compile("size(string(identity.claims.seats))").of(large) is None


DECISIVE = {
    "granted": ("", "permission: {role: a}", set()),
    "one of several": ("", "permission: {any: [{role: a}, {all: [{group: g}, {scope: s}]}]}", set()),
    "denied": ("", "permission: {not: {role: a}}", {"roles"}),
    "denied somewhere": (
        "",
        "permission: {all: [{role: a}, {any: [{not: {any: [{group: g}, {scope: s}]}}]}]}",
        {"groups", "scopes"},
    ),
    "other things denied": ("", "permission: {not: {client: legacy}}", set()),
    "a condition": ("", "when: 'identity.groups.size() < 3'", {"groups"}),
    "a condition about another thing": ("", "when: 'time.hour > 7'", set()),
    "a plan": ("plans: {gold: {roles: [gold]}}", "roles: [a]", {"roles"}),
    "a plan by claim": ("plans: {gold: {claim: plan, values: [gold]}}", "roles: [a]", set()),
    "a cost": (
        "limits: {l: {key: [user], rate: 9/day, cost: {cel: 'identity.scopes.size()', max: 9}}}",
        "roles: [a]",
        {"scopes"},
    ),
    "a right on a model": ("models: {m: {call: {not: {role: a}}}}", "roles: [a]", {"roles"}),
    "a right on a version": (
        "models: {m: {roles: [a], versions: {'1': {see: {not: {group: g}}}}}}",
        "roles: [a]",
        {"groups"},
    ),
    "an override": (
        "models: {m: {roles: [a]}}\nexperiments: {e: {model: m, weights: {x: 100}, "
        "override: {header: x-e, values: {x: x}, permission: {not: {role: a}}}}}",
        "roles: [a]",
        {"roles"},
    ),
}


@pytest.mark.parametrize("case", DECISIVE)
def test_what_a_caller_may_gain_by_not_having(tmp_path: Path, case: str) -> None:
    parts, route, decisive = DECISIVE[case]
    issuer = '{name: demo, issuer: "https://id.example", audiences: [a], claims: {keep: [plan]}}'
    text = f"version: 1\nissuers: [{issuer}]\n{parts}\nroutes:\n  - {{name: r, path: /r, methods: [GET], {route}}}\n"
    assert loaded(tmp_path, text).issuers[0].claims.decisive == decisive


def test_a_policy_that_refuses_over_budget_does_so_on_every_route_but_public_ones(tmp_path: Path) -> None:
    routes = GOOD.replace(
        "routes:", "over_budget: refuse\nroutes:\n  - {name: live, path: /live, methods: [GET], public: true}"
    )
    found = {route.name: [rule.name for rule in route.limits] for route in loaded(tmp_path, routes).routes}
    assert found == {"live": [], "infer": ["user", "budget"]}
    assert "budget" not in loaded(tmp_path, routes).limits
    assert [rule.name for rule in loaded(tmp_path, GOOD).routes[0].limits] == ["user"]
