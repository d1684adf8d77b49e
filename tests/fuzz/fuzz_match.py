"""Any request against any shipped policy: one route and a yes, or Denied; nothing else, and at once."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from random import Random

from ext_authz.decision import Principal, Request
from ext_authz.errors import Denied
from ext_authz.identity.identity import Identity
from ext_authz.phases.access import may
from ext_authz.phases.context import CheckContext
from ext_authz.phases.permission import ensure_permitted, ensure_public
from ext_authz.policy.kserve import ModelScope, surface
from ext_authz.policy.model import Match, Policy
from ext_authz.policy.rights import AllOf, AnyOf, Has, Not, Permission, Trait
from ext_authz.policy.routes import RouteTable
from tests.fuzz.bounded import within
from tests.fuzz.choices import Choices
from tests.fuzz.policies import policies

SECONDS = 1.0
NOW = 1_795_179_600
_SEGMENTS = (
    *("v2", "models", "sentiment", "cancer", "infer", "generate", "versions", "1", "2", "3", "03", "ready", "config"),
    *("stats", "health", "live", "repository", "index", "load", "unload", "logging", "trace", "setting", "files", "hr"),
    *("acme", "tenants", "latest", "", ".", "..", "%2e", "a;b", "a\\b", "é", "*", "{model}", "{rest=**}", "a?b", "a#b"),
    *("v1", "sentiment:predict", "churn:predict", "%20", "a%3Ab", "%C3%A9", "%c3", "churn%3Apredict", "a@b", "a%40b"),
)
_PATHS = (
    *(
        "/files/a/b",
        "/files/hr/x",
        "/files/a/latest",
        "/docs/a",
        "/",
        "/tenants/acme/files/a/b",
        "/tenants/globex/files/a",
    ),
    *("/registry/registry-ocr/upload", "/v2/health/live", "/v2/health/ready", "/v2", "/features.v1.FeatureStore/Get"),
)
_METHODS = ("POST", "GET", "HEAD", "PUT", "DELETE", "OPTIONS", "CONNECT", "get", "", "PATCH", "TRACE")
_HOSTS = ("models.example", "ops.example", "ops.example:443", "partner.models.example", "models.clinic.internal")
_HEADERS = ("x-tenant", "x-batch-rows", "x-max-tokens", "x-experiment", "x-forwarded-for", "authorization", "cookie")
_VALUES = ("", "acme", "globex", "1", "-1", "99999999999999999999", "1e9", "203.0.113.9, 10.1.1.1", ",", "new")
_CALLS = tuple(surface())


def target(data: bytes) -> None:
    """Raises where matching or permission does what it must not."""
    choices = Choices(data)
    policy, table = choices.of(_worlds())
    request, identity = a_request(choices), an_identity(choices, policy)
    with within(SECONDS):
        try:
            match = table.match(request.method, request.path, request.host, request.headers)
            _ensure_matched(match, request)
            _verify(match, request, identity, policy, choices)
        except Denied:
            return


def _ensure_matched(match: Match, request: Request) -> None:
    route = match.route
    methods = {*route.methods, *(["HEAD"] if "GET" in route.methods else [])}
    assert request.method in methods or match.operation is not None
    assert all(name in request.headers for name in route.headers)
    named = bool(match.model) or match.model_from_message
    assert named if match.scope is ModelScope.ONE else not match.model_from_message
    assert not (named and match.scope is ModelScope.NONE), "a call that names a model takes a right on it"


def _verify(match: Match, request: Request, identity: Identity, policy: Policy, choices: Choices) -> None:
    model = match.model or (a_model(choices) if match.model_from_message else "")
    if match.route.public:
        ensure_public(match, CheckContext(at_ms=NOW * 1000), request)
        assert match.scope is ModelScope.NONE
        return
    context = CheckContext(at_ms=NOW * 1000, model=model, version=match.version)
    ensure_permitted(identity, match, context, request, policy)
    if match.scope is ModelScope.ONE:
        assert policy.models.rule(model) is not None, "without an entry for the model, nothing is permitted"
        assert may(identity, match.right, model, match.version, policy)


@cache
def _worlds() -> tuple[tuple[Policy, RouteTable], ...]:
    return tuple((policy, RouteTable(policy.routes)) for policy in policies())


def a_request(choices: Choices) -> Request:
    """Some call of the surface, some path of segments, or anything."""
    method, path = choices.of(_CALLS)
    path = path.format(model=a_model(choices), version=choices.of(("1", "2", "3", "01", "")), region="r")
    if choices.one_in(2):
        method, path = "GET", choices.of(_PATHS)
    if choices.one_in(4):
        method, path = choices.of(_METHODS), "/" + "/".join(choices.of(_SEGMENTS) for _ in range(choices.below(9)))
    if choices.one_in(12):
        path = choices.text(64) * (1 + choices.below(40))
    if choices.one_in(20):
        path += choices.of(("/", "//", "/..", "%00", "?x", "\n", ":predict", "%20", "%3Apredict"))
    content_type = "application/grpc" if path.count("/") == 2 and "." in path else "application/json"
    return Request(
        method=method,
        host=choices.text(16) if choices.one_in(12) else choices.of(_HOSTS),
        path=path,
        query=choices.text(16) if choices.one_in(12) else "",
        content_type=choices.text(16) if choices.one_in(20) else content_type,
        source=choices.of(("192.0.2.1", "", "::1", "not an address")),
        headers={_header(choices): _header_value(choices) for _ in range(choices.below(4))},
    )


def a_model(choices: Choices) -> str:
    names = ("sentiment", "cancer", "llm-large", "acme-x", "speech-shared", "nobody-knows", "", ".", "a" * 129)
    return choices.text(12) if choices.one_in(10) else choices.of(names)


def _header(choices: Choices) -> str:
    return choices.text(8) if choices.one_in(12) else choices.of(_HEADERS)


def _header_value(choices: Choices) -> str:
    return choices.text(24) * (1 + 400 * choices.below(3)) if choices.one_in(8) else choices.of(_VALUES)


def an_identity(choices: Choices, policy: Policy) -> Identity:
    """Somebody with some of the traits that the policy asks for."""
    known = traits(policy)
    chosen = {trait: [value for value in known[trait] if choices.below(2)] for trait in Trait}
    issuer = choices.of(policy.issuers)
    return Identity(
        principal=Principal(
            issuer.issuer,
            chosen[Trait.PRINCIPAL][0] if chosen[Trait.PRINCIPAL] else choices.text(6) or "somebody",
            chosen[Trait.CLIENT][0] if chosen[Trait.CLIENT] else choices.text(6),
            tuple(chosen[Trait.ROLE]),
            "token",
        ),
        issuer_name=issuer.name,
        session="session" if choices.below(2) else "",
        issued_at=NOW - 10,
        expires_at=NOW + 290.0,
        audiences=tuple(issuer.audiences),
        scopes=frozenset(chosen[Trait.SCOPE]),
        roles=frozenset(chosen[Trait.ROLE]),
        groups=frozenset(chosen[Trait.GROUP]) | {f"g{n}" for n in range(400 * choices.one_in(10))},
        claims={name: _claim(choices) for name in issuer.claims.keep if choices.below(3)},
    )


def _claim(choices: Choices) -> str | int | float | bool | tuple[str, ...]:
    values: tuple[str | int | float | bool | tuple[str, ...], ...] = (
        *("acme", "silver", "research", "", 0, -1, 2**62, 1.5, True, ("acme", "globex"), ()),
        choices.text(8),
    )
    return choices.of(values)


@cache
def traits(policy: Policy) -> dict[Trait, list[str]]:
    """Every value that the policy asks for, by trait."""
    asked = [route.permission for route in policy.routes]
    for rule in policy.models.all:
        asked += [*rule.rights.values(), *(tree for narrowed in rule.versions.values() for tree in narrowed.values())]
    found: dict[Trait, set[str]] = {trait: set() for trait in Trait}
    for leaf in (leaf for tree in asked for leaf in _leaves(tree)):
        found[leaf.trait] |= leaf.values
    return {trait: sorted(values) for trait, values in found.items()}


def _leaves(tree: Permission) -> Iterator[Has]:
    match tree:
        case Has():
            yield tree
        case AnyOf(parts=parts) | AllOf(parts=parts):
            for part in parts:
                yield from _leaves(part)
        case Not(part=part):
            yield from _leaves(part)


def seeds() -> Iterator[bytes]:
    """Bytes that say nothing in particular, for each policy."""
    random = Random(20261120)  # the same corpus every time
    for index in range(len(policies())):
        for _ in range(5):
            yield bytes([index]) + random.randbytes(80)


def words() -> Iterator[str]:
    """What a mutation may put in."""
    yield from (segment for segment in _SEGMENTS if segment)
