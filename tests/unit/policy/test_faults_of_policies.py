"""What a policy may not say: every rule of the language, with the place, the code and the words of its fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from ext_authz.policy.load import examine
from tests.unit.policy.writing import GOOD, write

RATE = "rate: 10/minute"
KEY = "key: [user]"
ROUTE = "methods: [POST], limits: [user]"
TEMPLATE = "/v2/models/{model}/infer"
CANCER = "cancer: {roles: [infer]}"
GOLD = "gold: {roles: [gold]}"
ISSUER = "audiences: [gateway]"
MORE = "    limits: [user]\n"


def more(text: str) -> tuple[str, str]:
    """Another part at the end."""
    return "\nroutes:", f"\n{text}\nroutes:"


def route(text: str) -> tuple[str, str]:
    """Another route behind the first."""
    return "limits: [user]}\n", f"limits: [user]}}\n  - {{name: other, {text}}}\n"


FAULTS: list[tuple[str, str, str, str]] = [
    # the whole
    ("version: 1", "version: 2", "version", "must be 1, not 2"),
    ("version: 1", "version: 1\nversion: 1", "version", "has the key 'version' twice"),
    ("version: 1", "version: 1\nrealm: 'a\"b'", "realm", "does not have the right form"),
    ("models:", "modles:", "modles", "did you mean 'models'?"),
    ("gateway]", "'${NOWHERE}']", "issuers.0.audiences.0", "NOWHERE is not set"),
    (*more("max_duration: 0s"), "max_duration", "write a duration from 1s to 1d"),
    (*more("max_duration: 2d"), "max_duration", "write a duration from 1s to 1d"),
    (*route("path: /x, methods: [GET], max_duration: 25h"), "routes.1.max_duration", "from 1s to 1d"),
    (*route("path: /x, methods: [GET], max_duration: 60"), "routes.1.max_duration", "60 has no unit; write 60s"),
    # issuers
    (ISSUER, "audiences: []", "issuers.0.audiences", "at least one item"),
    (ISSUER, "audience: [gateway]", "issuers.0.audience", "did you mean 'audiences'?"),
    (ISSUER, f"{ISSUER}, algorithms: [HS256]", "issuers.0.algorithms.0", "tokens with 'HS256' are never accepted"),
    (
        ISSUER,
        f"{ISSUER}, leeway: 5m",
        "issuers.0.leeway",
        "would accept expired tokens; write at most 60s",
    ),
    (ISSUER, f"{ISSUER}, leeway: soon", "issuers.0.leeway", "for example 30s"),
    (ISSUER, f"{ISSUER}, leeway: 30", "issuers.0.leeway", "30 has no unit; write 30s"),
    (
        ISSUER,
        f"{ISSUER}, max_token_age: 31d",
        "issuers.0.max_token_age",
        "outlive its revocation; write at most 30d",
    ),
    (ISSUER, f"{ISSUER}, cnf: maybe", "issuers.0.cnf", "not one of refuse, ignore, verify"),
    (ISSUER, f"{ISSUER}, dpop: {{nonce: true}}", "issuers.0", "cnf is refuse; write cnf: verify"),
    (
        ISSUER,
        f"{ISSUER}, cnf: verify, dpop: {{max_age: 11m}}",
        "issuers.0.dpop.max_age",
        "proofs are made for one request each; write at most 10m",
    ),
    (
        ISSUER,
        f"{ISSUER}, cnf: verify, dpop: {{algorithms: [HS256]}}",
        "issuers.0.dpop.algorithms.0",
        "'HS256' are never accepted",
    ),
    (
        ISSUER,
        f"{ISSUER}, introspection: {{client_id: c, client_secret: s}}",
        "issuers.0.introspection",
        "nothing is asked; write opaque: true, lightweight: true, or both",
    ),
    (
        ISSUER,
        f"{ISSUER}, introspection: {{client_id: c, client_secret: s, opaque: true, url: 'http://id.example/i'}}",
        "issuers.0",
        "the secret of a client would be sent over http; use https for introspection.url",
    ),
    (
        ISSUER,
        f"{ISSUER}, introspection: {{client_id: c, client_secret: s, opaque: true, cache: 6m}}",
        "issuers.0.introspection.cache",
        "would live on; write at most 5m",
    ),
    (
        ISSUER,
        f"{ISSUER}, introspection: {{client_id: c, client_secret: '', opaque: true}}",
        "issuers.0.introspection.client_secret",
        "the secret is empty; write a variable that has it",
    ),
    (ISSUER, f"{ISSUER}, roles_client: ''", "issuers.0.roles_client", "1 to 255 characters"),
    ("https://id", "ftp://id", "issuers.0.issuer", "does not have the right form"),
    ("https://id", "http://id", "issuers.0", "keys fetched over http can be replaced on the way"),
    ("keep: [tenant, plan]", "keep: [a..b]", "issuers.0.claims.keep.0", "keys joined by dots"),
    ("{keep: [tenant, plan]}", "{roles: [r], keep: [tenant, plan]}, roles_client: c", "issuers.0", "short for"),
    # plans
    (GOLD, "gold: {}", "plans.gold", "write either roles, or claim and values"),
    (GOLD, "gold: {claim: plan}", "plans.gold", "claim and values go together"),
    (GOLD, "gold: {roles: [a], claim: plan, values: [x]}", "plans.gold", "write either roles, or claim and values"),
    (GOLD, "gold: {claim: pla, values: [x]}", "plans.gold.claim", "did you mean 'plan'?"),
    (GOLD, "default: {roles: [x]}", "plans.default", "the plan of callers without another"),
    # limits
    (RATE, "rate: ten/minute", "limits.user.rate", "number/period"),
    (RATE, "rate: 0/minute", "limits.user.rate", "from 1 to 999999999, not 0"),
    (RATE, "rate: 10/month", "limits.user", "add algorithm: calendar"),
    (RATE, f"{RATE}, burst: 3", "limits.user", "burst goes with algorithm: gcra"),
    (RATE, f"{RATE}, timezone: UTC", "limits.user", "timezone goes with algorithm: calendar"),
    (RATE, "rate: 1/day, algorithm: calendar, timezone: CET", "limits.user.timezone", "must be 'UTC'"),
    (RATE, "rate: 1/day, algorithm: calendar, anchor: billing", "limits.user", "rates per month"),
    (RATE, "rate: 1/month, algorithm: calendar, anchor: billing", "limits.user", "add client to key"),
    (RATE, f"{RATE}, anchor: 15", "limits.user.anchor", "must be 'billing'"),
    (RATE, f"{RATE}}}\n  budget: {{key: [client], rate: 1/day", "limits.budget", "choose another name"),
    (*more("over_budget: stop"), "over_budget", "is not one of allow, refuse"),
    (*more("billing_days: {demo: {shop: 32}}"), "billing_days.demo.shop", "31"),
    (*more("billing_days: {dmeo: {shop: 3}}"), "billing_days.dmeo", "did you mean 'demo'?"),
    (*more("billing_days: {other: {shop: 3}}"), "billing_days.other", "write one of"),
    (RATE, "dry_run: true", "limits.user", "write either rate or plans"),
    (RATE, f"{RATE}, shadow: true", "limits.user.shadow", "write dry_run instead"),
    (RATE, f"{RATE}, plans: {{default: 1/day}}", "limits.user", "write either rate or plans"),
    (RATE, "plans: {gold: 1/day}", "limits.user", "plans need a rate for default"),
    (RATE, "plans: {gold: 1/hour, default: 1/day}", "limits.user", "one period, not day and hour"),
    (RATE, "plans: {godl: 2/day, default: 1/day}", "limits.user.plans.godl", "did you mean 'gold'?"),
    (KEY, "key: [usr]", "limits.user.key.0", "did you mean 'user'?"),
    (KEY, "key: ['claim:']", "limits.user.key.0", "not something to count by"),
    (KEY, "key: ['claim:tenat']", "limits.user.key.0", "did you mean 'tenant'?"),
    (KEY, "key: []", "limits.user.key", "at least one item"),
    (RATE, f"{RATE}, cost: 0", "limits.user.cost", "at least 1"),
    (RATE, f"{RATE}, cost: {{header: x-rows}}", "limits.user.cost.max", "missing"),
    (RATE, f"{RATE}, cost: {{max: 5}}", "limits.user.cost", "write either header or cel"),
    (RATE, f"{RATE}, cost: {{cel: '1', header: x, max: 5}}", "limits.user.cost", "write either header or cel"),
    (RATE, f"{RATE}, cost: {{cel: 'true', max: 5}}", "limits.user.cost.cel", "must be a whole number, and is bool"),
    (
        RATE,
        f"{RATE}, cost: {{cel: 'identity.claims.x', max: 5}}",
        "limits.user.cost.cel",
        "no issuer keeps the claim 'x'",
    ),
    (*more("flood: {rate: 5/month}"), "flood", "write a rate per second, minute, hour, day"),
    (*more("client_address: {trusted_hops: -1}"), "client_address.trusted_hops", "at least 0"),
    # what clients are told
    (*more("resource: {url: 'https://models.example/v2'}"), "resource.url", "without a path"),
    (*more("resource: {url: models.example}"), "resource.url", "such as https://models.example.com"),
    (*more("resource: {url: 'https://models.example:99999'}"), "resource.url", "a port (1 to 65535)"),
    (*more("cors: {origins: ['https://app.example:0']}"), "cors.origins.0", "a port of 1 to 65535"),
    (*more("resource: {name: x}"), "resource.url", "missing"),
    (*more("cors: {origins: []}"), "cors.origins", "at least one item"),
    (*more("cors: {origins: ['null']}"), "cors.origins.0", "such as https://app.example.com, or *"),
    (*more("cors: {origins: ['https://App.example']}"), "cors.origins.0", "in lower case"),
    (*more("cors: {origins: ['https://*.example']}"), "cors.origins.0", "such as https://app.example.com, or *"),
    (*more("cors: {origins: ['*'], credentials: true}"), "cors", "name the origins"),
    (*more("cors: {origins: ['*'], headers: ['*']}"), "cors.headers.0", "the name of a header"),
    (*more("cors: {origins: ['*'], max_age: 2d}"), "cors.max_age", "write at most 1d"),
    # own tokens
    (*more("tokens: {audiences: [a]}"), "tokens", "set resource.url, or issuer"),
    (*more("tokens: {audiences: []}"), "tokens.audiences", "at least one item"),
    (*more("tokens: {audiences: [a], issuer: 'https://m.example/api'}"), "tokens", "which ends with /tollgate"),
    (
        *more("tokens: {audiences: [a], issuer: 'https://m.example', max_lifetime: 2000d}"),
        "tokens.max_lifetime",
        "365d",
    ),
    (*more("tokens: {audiences: [a], jwks_url: 'http://m.example'}"), "tokens", "use https"),
    # models
    (CANCER, "cancer: {roles: []}", "models.cancer.roles", "at least one item"),
    (CANCER, "cancer: {roles: [a], call: {role: b}}", "models.cancer", "roles is short for call"),
    (CANCER, "cancer: {visibility: public, see: {role: b}}", "models.cancer", "every verified caller may see"),
    (CANCER, "cancer: {call: {rule: b}}", "models.cancer.call.rule", "did you mean 'role'?"),
    (CANCER, "cancer: {call: {role: b, group: c}}", "models.cancer.call", "write exactly one of any, all"),
    (CANCER, "cancer: {call: {any: []}}", "models.cancer.call.any", "at least one item"),
    (CANCER, "cancer: {call: {not: {rol: b}}}", "models.cancer.call.not.rol", "did you mean 'role'?"),
    (CANCER, "cancer: {versions: {'01': {call: {role: b}}}}", "models.cancer.versions.01", "without leading zero"),
    (CANCER, "cancer: {versions: {1: {}}}", "models.cancer.versions.1", "at least one of call, see and administer"),
    (CANCER, "'a/b': {roles: [infer]}", "models.'a/b'", "does not have the right form"),
    (CANCER, "'..': {roles: [infer]}", "models.'..'", "no call can name a model .."),
    (CANCER, "'a*': {roles: [x]}\n  '*a': {roles: [y]}", "models.'*a'", "can match one model"),
    (CANCER, "'a**b': {roles: [x]}\n  'a*b': {roles: [y]}", "models.'a*b'", "the other is at"),
    # routes
    ("limits: [user]", "limits: [usr]", "routes.0.limits.0", "did you mean 'user'?"),
    ("limits: [user]", "limits: [user, user]", "routes.0", "a limit is listed twice"),
    ("methods: [POST]", "methods: [FETCH]", "routes.0.methods.0", "not one of GET"),
    (", methods: [POST]", "", "routes.0", "methods go with path, and path needs methods"),
    ("methods: [POST]", "methods: [POST], grpc: a.B/C", "routes.0", "exactly one of path, grpc and operation"),
    (f'path: "{TEMPLATE}", methods: [POST]', "operation: infr", "routes.0.operation", "did you mean 'infer'?"),
    (f'path: "{TEMPLATE}", methods: [POST]', "grpc: a.B/C/D", "routes.0.grpc", "package.Service/Method"),
    (TEMPLATE, "/v2//{model}", "routes.0.path", "'' is not a segment of a path"),
    (TEMPLATE, "v2/{model}", "routes.0.path", "a path begins with /"),
    (TEMPLATE, "/v2/models/*", "routes.0.path", "write {name} for any one segment, or {rest=**} at the end"),
    (TEMPLATE, "/models/:model/infer", "routes.0.path", "write {model} for any one segment"),
    (TEMPLATE, "/.tollgate/quota", "routes.0.path", "answered by Tollgate itself"),
    (TEMPLATE, "/.tollgate", "routes.0.path", "answered by Tollgate itself"),
    (TEMPLATE, "/tollgate", "routes.0.path", "answered by Tollgate itself"),
    (TEMPLATE, "/tollgate/{rest=**}", "routes.0.path", "answered by Tollgate itself"),
    (TEMPLATE, "/tollgate.tokens.v1.TokenService/Create", "routes.0.path", "answered by Tollgate itself"),
    (*route("grpc: tollgate.revocation.v1.RevocationService/*"), "routes.1.grpc", "is Tollgate's own"),
    (TEMPLATE, "/a/../b", "routes.0.path", "'..' is not a segment of a path"),
    (TEMPLATE, "/{rest=**}/b", "routes.0.path", "is not a segment of a path"),
    (TEMPLATE, "/{a}/{a}", "routes.0.path", "different names"),
    (TEMPLATE, "/m/{model=**}", "routes.0.path", "write {model}"),
    (ROUTE, "methods: [POST], model: one", "routes.0.model", "unknown key"),
    (ROUTE, "methods: [POST], roles: [a], permission: {role: b}", "routes.0", "roles is short for permission"),
    (ROUTE, "methods: [POST], public: true, roles: [a]", "routes.0", "a public route has no caller"),
    (ROUTE, "methods: [POST], public: true", "routes.0.public", "must not reach a model"),
    (*route("operation: infer, public: true"), "routes.1.public", "not reach a model"),
    (*route("path: /x, methods: [GET], public: true, when: identity.subject == ''"), "routes.1.when", "no caller"),
    (*route("path: /v2/models/a/infer, methods: [POST], public: true"), "routes.1.public", "not reach a model"),
    (
        *route("grpc: inference.GRPCInferenceService/ModelInfer, public: true"),
        "routes.1.public",
        "must not reach a model",
    ),
    (*route("operation: stream, when: model.name != 'cancer'"), "routes.1.when", "the condition reads one"),
    (*route("grpc: inference.GRPCInferenceService/*, when: model.version == '1'"), "routes.1.when", "reads one"),
    (ROUTE, "methods: [POST], when: '1 + 1'", "routes.0.when", "must be true or false"),
    (ROUTE, "methods: [POST], when: identity.claims.tenat == 'a'", "routes.0.when", "did you mean 'tenant'?"),
    (ROUTE, "methods: [POST], hosts: ['Models.example']", "routes.0.hosts.0", "in lower case"),
    (ROUTE, "methods: [POST], hosts: [a, a]", "routes.0", "a host is listed twice"),
    (ROUTE, "methods: [POST], headers: [X-A]", "routes.0.headers.0", "in lower case"),
    (ROUTE, "methods: [POST], failure: {redis: open}", "routes.0.failure.redis", "not one of deny, local, allow"),
    (*route("path: '/v2/models/{name}/infer', methods: [POST]"), "routes.1", "'infer' and 'other' both match POST"),
    # experiments
    (*more("experiments: {e: {model: cancr, weights: {a: 100}}}"), "experiments.e.model", "did you mean 'cancer'?"),
    (
        *more("experiments: {e: {model: cancer, weights: {a: 99}}}"),
        "experiments.e",
        "the weights are 99 in all: they must be 100",
    ),
    (*more("experiments: {e: {model: 'c*', weights: {a: 100}}}"), "experiments.e", "one model, not a pattern"),
    (
        *more("experiments: {e: &e {model: cancer, weights: {a: 100}}}"),
        "experiments.e",
        "anchors are not supported",
    ),
    (
        *more("experiments:\n  e: {model: cancer, weights: {a: 100}}\n  f: {model: cancer, weights: {a: 100}}"),
        "experiments.f.model",
        "already in the experiment 'e'",
    ),
    (
        *more(
            "experiments: {e: {model: cancer, weights: {a: 100}, "
            "override: {header: x, values: {v: b}, permission: {role: t}}}}"
        ),
        "experiments.e",
        "selects 'b', which has no weight",
    ),
    # the rest
    (*more("failure: {local_share: 0}"), "failure.local_share", "more than 0"),
    (*more("responses: {problem_base: nothing}"), "responses.problem_base", "the beginning of a URI"),
    (*more("explain: {keep: forever}"), "explain.keep", "for example 30s"),
]


@pytest.mark.parametrize(("old", "new", "path", "words"), FAULTS)
def test_a_fault_has_its_place_and_a_hint(tmp_path: Path, old: str, new: str, path: str, words: str) -> None:
    assert old in GOOD
    faults = examine(write(tmp_path, GOOD.replace(old, new, 1)), {}).faults
    assert [(fault.path, True) for fault in faults if words in f"{fault.what}; {fault.hint}"] == [(path, True)], faults
    assert len(faults) <= 2
    assert all(fault.line > 1 for fault in faults)


@pytest.mark.parametrize(
    "limit",
    ["key: [user, model], rate: 10/minute", "key: [user], rate: 10/minute, cost: {cel: 'size(model.name)', max: 9}"],
)
@pytest.mark.parametrize("stream", ["operation: stream", "grpc: inference.GRPCInferenceService/*"])
def test_nothing_goes_by_the_model_of_a_stream(tmp_path: Path, limit: str, stream: str) -> None:
    """It names one per message, and is asked about once."""
    text = GOOD.replace(f"{KEY}, {RATE}", limit, 1).replace(*route(f"{stream}, limits: [user]"), 1)
    assert limit in text
    (fault,) = examine(write(tmp_path, text), {}).faults
    assert (fault.path, fault.code) == ("routes.1.limits.0", "stream_by_model")
    assert "operation: stream" in fault.hint
    fine = text.replace(stream, "grpc: inference.GRPCInferenceService/ModelInfer")
    assert examine(write(tmp_path, fine), {}).faults == ()
