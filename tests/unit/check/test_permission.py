"""Who may: permissions, conditions, and the rights on models with patterns, visibility and versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from ext_authz.decision import Principal, Reason, Request
from ext_authz.errors import Denied
from ext_authz.identity.identity import Identity
from ext_authz.phases.access import has, may, may_all
from ext_authz.phases.context import CheckContext, Trace
from ext_authz.phases.permission import ensure_permitted, ensure_public
from ext_authz.policy.cel.expressions import Condition
from ext_authz.policy.compile_models import permission
from ext_authz.policy.documents.models import PermissionDocument
from ext_authz.policy.kserve import Kind, ModelScope, Right
from ext_authz.policy.model import Match, Policy, Route
from ext_authz.policy.rights import EVERYONE, NOBODY, Has, Trait
from tests.unit.policy.writing import GOOD, loaded

NOW = 1_800_000_000


def caller(*roles: str, client: str = "web", groups: str = "", scopes: str = "") -> Identity:
    return Identity(
        principal=Principal("https://id.example", "alice", client, roles, "t"),
        issuer_name="demo",
        session="",
        issued_at=0,
        expires_at=0.0,
        audiences=("gateway",),
        scopes=frozenset(scopes.split()),
        roles=frozenset(roles),
        groups=frozenset(groups.split()),
        claims={"tenant": "acme", "teams": ("a", "b")},
    )


ALICE = caller("infer", "gold", groups="/research", scopes="models openid")

TREES: list[tuple[dict[str, object], bool]] = [
    ({"role": "infer"}, True),
    ({"role": "Infer"}, False),
    ({"scope": "models"}, True),
    ({"scope": "infer"}, False),
    ({"group": "/research"}, True),
    ({"group": "research"}, False),
    ({"principal": "alice"}, True),
    ({"principal": "bob"}, False),
    ({"client": "web"}, True),
    ({"client": "batch"}, False),
    ({"any": [{"role": "x"}, {"role": "infer"}]}, True),
    ({"any": [{"role": "x"}, {"group": "infer"}]}, False),
    ({"all": [{"role": "gold"}, {"scope": "models"}]}, True),
    ({"all": [{"role": "gold"}, {"scope": "x"}]}, False),
    ({"not": {"client": "web"}}, False),
    ({"not": {"client": "batch"}}, True),
    (
        {"all": [{"any": [{"role": "x"}, {"client": "web"}]}, {"not": {"all": [{"role": "infer"}, {"role": "x"}]}}]},
        True,
    ),
]


@pytest.mark.parametrize(("tree", "holds"), TREES, ids=lambda value: str(value))
def test_a_permission(tree: dict[str, object], *, holds: bool) -> None:
    assert has(ALICE, permission(PermissionDocument.model_validate(tree))) is holds


def test_any_of_one_trait_is_one_set() -> None:
    tree = {"any": [{"role": "a"}, {"any": [{"role": "b"}, {"role": "c"}]}]}
    assert permission(PermissionDocument.model_validate(tree)) == Has(Trait.ROLE, frozenset({"a", "b", "c"}))


def test_everyone_and_nobody() -> None:
    assert (has(caller(), EVERYONE), has(ALICE, NOBODY)) == (True, False)


MODELS = """models:
  sentiment: {roles: [infer], administer: {role: admin}}
  open: {visibility: public, call: {any: [{role: infer}, {group: /research}]}}
  shown: {see: {role: gold}}
  closed: {}
  staged: {roles: [infer], versions: {2: {call: {role: tester}}, 3: {see: {role: tester}, administer: {role: tester}}}}
  'team-*': {roles: [team]}
  'team-a-*': {roles: [team-a]}
  '*-preview': {roles: [tester]}
  'team-a-x': {roles: [x]}
routes:
"""


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    text = GOOD.replace("models:\n  cancer: {roles: [infer]}\nroutes:\n", MODELS)
    return loaded(tmp_path_factory.mktemp("policy"), text)


RIGHTS = [
    ("infer", "sentiment", "call see"),
    ("other", "sentiment", ""),
    ("admin", "sentiment", "administer"),
    ("infer", "open", "call see"),
    ("other", "open", "see"),
    ("gold", "shown", "see"),
    ("infer", "shown", ""),
    ("infer gold admin", "closed", ""),
    ("infer gold admin", "unknown", ""),
    ("team", "team-b", "call see"),
    ("team", "team-a-b", ""),
    ("team-a", "team-a-b", "call see"),
    ("team team-a", "team-a-x", ""),
    ("x", "team-a-x", "call see"),
    ("tester", "new-preview", "call see"),
    ("team", "team-", "call see"),
    ("team", "team", ""),
    ("infer", "Sentiment", ""),
    ("infer", "sentiment\n", ""),
]


@pytest.mark.parametrize(("roles", "model", "rights"), RIGHTS)
def test_a_right_on_a_model(policy: Policy, roles: str, model: str, rights: str) -> None:
    granted = [right for right in Right if may(caller(*roles.split()), right, model, "", policy)]
    assert set(granted) == {Right(right) for right in rights.split()}


@pytest.mark.parametrize(
    ("roles", "version", "rights"),
    [
        ("infer", "1", "call see"),
        ("infer", "2", "see"),
        ("infer tester", "2", "call see"),
        ("tester", "2", ""),
        ("infer", "3", "call"),
        ("infer tester", "3", "call see"),
        # Triton chooses, so it may choose the second and the third
        ("infer", "", ""),
        ("infer tester", "", "call see"),
    ],
)
def test_a_version_takes_what_its_model_takes_and_more(policy: Policy, roles: str, version: str, rights: str) -> None:
    granted = [right for right in Right if may(caller(*roles.split()), right, "staged", version, policy)]
    assert set(granted) == {Right(right) for right in rights.split()}


@pytest.mark.parametrize(
    ("roles", "seen"),
    [("infer", "sentiment open"), ("infer tester team", "sentiment open team-b staged"), ("", "open")],
)
def test_what_may_be_seen(policy: Policy, roles: str, seen: str) -> None:
    names = ["sentiment", "open", "closed", "team-b", "unknown", "staged"]
    who = caller(*roles.split())
    assert [name for name in names if may(who, Right.SEE, name, "", policy)] == seen.split()


def test_all_models_take_the_right_on_each(tmp_path: Path) -> None:
    text = GOOD.replace("cancer: {roles: [infer]}", "a: {roles: [infer]}\n  'b*': {roles: [gold]}")
    policy = loaded(tmp_path, text)
    assert may_all(caller("infer", "gold"), Right.CALL, policy)
    assert not may_all(caller("infer"), Right.CALL, policy)
    assert not may_all(caller("infer", "gold"), Right.ADMINISTER, policy)


def test_without_models_the_right_on_all_is_never_granted(tmp_path: Path) -> None:
    policy = loaded(tmp_path, GOOD.replace("models:\n  cancer: {roles: [infer]}\n", ""))
    assert not any(may_all(ALICE, right, policy) for right in Right)


# the phase


def match_of(when: str = "", **fields: object) -> Match:
    condition = Condition.compile(when) if when else None
    return Match(Route("r", "/x", when=condition), model="sentiment", scope=ModelScope.ONE, **fields)  # type: ignore[arg-type]


def at(model: str = "", version: str = "", trace: Trace | None = None) -> CheckContext:
    return CheckContext(at_ms=NOW * 1000, model=model, version=version, trace=trace)


def refused(match: Match, policy: Policy, identity: Identity = ALICE, request: Request | None = None) -> Denied:
    request = request or Request("POST", "models.example", "/x")
    with pytest.raises(Denied) as denied:
        ensure_permitted(identity, match, at(match.model, match.version), request, policy)
    assert denied.value.reason is Reason.FORBIDDEN
    return denied.value


def test_a_role_that_is_missing_is_named(policy: Policy) -> None:
    route = Route("r", "/x", permission=Has(Trait.ROLE, frozenset({"b", "a"})))
    assert (refused(Match(route), policy).code, refused(Match(route), policy).scope) == ("role_missing", "a b")


@pytest.mark.parametrize("tree", [{"group": "/secret"}, {"principal": "bob"}, {"not": {"role": "infer"}}])
def test_what_else_is_missing_is_not_named(policy: Policy, tree: dict[str, object]) -> None:
    route = Route("r", "/x", permission=permission(PermissionDocument.model_validate(tree)))
    denied = refused(Match(route), policy)
    assert (denied.code, denied.scope) == ("permission_missing", "")
    assert denied.detail == "this token does not have the permission that this route needs"


@pytest.mark.parametrize(
    ("tree", "names", "scope"),
    [
        ({"scope": "tune"}, "scopes in it: tune", "tune"),
        ({"any": [{"scope": "b"}, {"scope": "a"}]}, "scopes in it: a, b", "a b"),
        ({"all": [{"role": "boss"}, {"role": "chief"}]}, "roles in it: boss, chief", ""),
        ({"any": [{"all": [{"scope": "s"}, {"role": "r"}]}, {"group": "g"}]}, "scopes in it: s; roles in it: r", "s"),
    ],
)
def test_scopes_and_roles_of_a_permission_are_named(
    policy: Policy, tree: dict[str, object], names: str, scope: str
) -> None:
    route = Route("r", "/x", permission=permission(PermissionDocument.model_validate(tree)))
    denied = refused(Match(route), policy)
    assert (denied.code, denied.scope) == ("permission_missing", scope)
    assert denied.detail.partition("; ")[2] == names


CONDITIONS = [
    ("identity.claims.tenant == request.headers['x-tenant']", True),
    ("identity.claims.tenant == request.headers['x-other']", False),
    ("'a' in identity.claims.teams", True),
    ("has(identity.claims.plan)", False),
    ("identity.subject == 'alice' && identity.client == 'web' && identity.issuer == 'demo'", True),
    ("'infer' in identity.roles && 'openid' in identity.scopes && '/research' in identity.groups", True),
    ("'gateway' in identity.audiences", True),
    ("request.method == 'POST' && request.host == 'models.example' && request.path == '/x'", True),
    ("request.query == 'a=1' && request.source == '10.0.0.1' && !request.is_grpc", True),
    ("model.name == 'sentiment' && model.version == '2' && model.operation == 'infer' && model.right == 'call'", True),
    ("time.epoch == 1800000000 && time.weekday == 5", True),
    ("time.hour < 8", False),
    ("has(request.headers.authorization) || has(request.headers.cookie)", False),
    ("size(request.headers) == 1", True),
]


@pytest.mark.parametrize(("when", "holds"), CONDITIONS)
def test_a_condition_reads_the_call(policy: Policy, when: str, *, holds: bool) -> None:
    headers = {"x-tenant": "acme", "authorization": "Bearer t", "cookie": "c"}
    request = Request("POST", "models.example", "/x", "a=1", source="10.0.0.1", headers=headers)
    match = match_of(when, version="2", operation=Kind.INFER)
    if holds:
        ensure_permitted(ALICE, match, at("sentiment", "2"), request, policy)
    else:
        assert refused(match, policy, request=request).code == "condition_false"


def test_a_condition_without_an_answer_is_explained_and_refuses(policy: Policy) -> None:
    match = match_of("identity.claims.plan == 'gold'")
    context = at("sentiment", trace=Trace())
    with pytest.raises(Denied, match="condition_false"):
        ensure_permitted(ALICE, match, context, Request("POST", "h", "/x"), policy)
    assert context.trace
    (phase,) = context.trace.parts
    assert [(part.what, part.holds) for part in phase.parts] == [
        ("permission of the route r: every verified caller", True),
        ("may call the model sentiment", True),
        ("condition: identity.claims.plan == 'gold'", False),
    ]
    assert "is missing" in phase.parts[2].note
    assert "gold" not in refused(match, policy).detail


def test_the_condition_comes_after_the_permission_and_the_model(policy: Policy) -> None:
    false = Condition.compile("false")
    both = Match(Route("r", "/x", when=false, permission=NOBODY), "none", scope=ModelScope.ONE)
    assert refused(both, policy).code == "permission_missing"
    assert refused(Match(Route("r", "/x", when=false), "none", scope=ModelScope.ONE), policy).code == "model_forbidden"
    mine = Match(Route("r", "/x", when=false), "sentiment", scope=ModelScope.ONE)
    assert refused(mine, policy).code == "condition_false"


def test_unknown_and_forbidden_models_answer_alike(policy: Policy) -> None:
    unknown, closed = (
        refused(Match(Route("r", "/x"), model, scope=ModelScope.ONE), policy).detail.replace(model, "")
        for model in ("unknown", "closed")
    )
    assert unknown == closed


def test_a_public_route_reaches_no_model_and_keeps_its_condition() -> None:
    request = Request("GET", "h", "/x", headers={"x-probe": "1"})
    route = Route("r", "/x", public=True, when=Condition.compile("'x-probe' in request.headers"))
    ensure_public(Match(route), at(), request)
    with pytest.raises(Denied, match="condition_false"):
        ensure_public(Match(route), at(), Request("GET", "h", "/x"))
    for scope in (ModelScope.ONE, ModelScope.ALL):
        with pytest.raises(Denied, match="model_forbidden"):
            ensure_public(Match(route, "m", scope=scope), at(), request)
