"""A trace records every node that the phases evaluate, and changes no answer."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given

from ext_authz.decision import Request
from ext_authz.errors import Denied
from ext_authz.identity.identity import Identity
from ext_authz.phases.access import has, may, may_all
from ext_authz.phases.context import CheckContext, Trace
from ext_authz.phases.experiments import Experiments
from ext_authz.phases.permission import ensure_permitted, ensure_public
from ext_authz.policy.cel.expressions import Condition
from ext_authz.policy.compile_models import permission
from ext_authz.policy.documents.models import PermissionDocument
from ext_authz.policy.kserve import ModelScope, Right
from ext_authz.policy.model import Experiment, Match, Override, Policy, Route
from ext_authz.policy.rights import NOBODY, Has, Trait
from tests.unit.check.scenarios import POLICY
from tests.unit.check.test_permission import ALICE, caller
from tests.unit.policy import random_policies as some
from tests.unit.policy.writing import GOOD, loaded

STAGED = Match(Route("r", "/x"), "staged", scope=ModelScope.ONE)
TESTERS = Override("x-try", {"yes": "canary"}, Has(Trait.ROLE, frozenset({"tester"})))
_TRY = Experiment("try", "m", {"stable": 100, "canary": 0}, "salt", TESTERS, {"stable": "1", "canary": "2"})
CANARY = Experiments({"m": _TRY})


HEADER = "the header x-try chooses a variant"


def flat(trace: Trace, depth: int = 0) -> list[tuple[int, str, bool | None]]:
    return [(depth, trace.what, trace.holds), *(line for part in trace.parts for line in flat(part, depth + 1))]


@given(tree=some.permissions, identity=some.identities)
def test_a_permission_has_the_same_answer_with_and_without_a_trace(tree: dict[str, object], identity: Identity) -> None:
    compiled, trace = permission(PermissionDocument.model_validate(tree)), Trace()
    assert has(identity, compiled, trace) is has(identity, compiled) is trace.holds


def test_every_node_is_recorded_also_after_the_one_that_decides() -> None:
    tree = {"any": [{"role": "infer"}, {"all": [{"group": "/x"}, {"not": {"client": "web"}}]}]}
    trace = Trace()
    has(ALICE, permission(PermissionDocument.model_validate(tree)), trace)
    assert flat(trace) == [
        (0, "any of", True),
        (1, "role infer", True),
        (1, "all of", False),
        (2, "group /x", False),
        (2, "not", False),
        (3, "client web", True),
    ]
    nobody = Trace("title: ")
    assert not has(ALICE, NOBODY, nobody)
    assert (nobody.what, nobody.holds) == ("title: nobody", False)


def test_a_right_shows_its_rule_and_its_versions() -> None:
    trace = Trace()
    assert not may(caller("infer"), Right.CALL, "staged", "2", POLICY, trace)
    assert not may(ALICE, Right.CALL, "unknown", "", POLICY, trace)
    assert flat(trace)[1:] == [
        (1, "may call the model staged in version 2", False),
        (2, "role infer", True),
        (2, "version 2: role tester", False),
        (1, "may call the model unknown", False),
    ]
    assert [part.note for part in trace.parts] == ["by the rule staged", "the policy does not know it"]


def test_a_right_on_every_model_shows_each(tmp_path: Path) -> None:
    policy = loaded(tmp_path, GOOD.replace("cancer: {roles: [infer]}", "a: {roles: [infer]}\n  b: {roles: [gold]}"))
    trace = Trace()
    assert not may_all(caller("infer"), Right.CALL, policy, trace)
    assert flat(trace)[1:] == [
        (1, "may call every model", False),
        (2, "model a", True),
        (3, "role infer", True),
        (2, "model b", False),
        (3, "role gold", False),
    ]


def context(model: str = "") -> CheckContext:
    return CheckContext(model=model, trace=Trace())


def phase(found: CheckContext) -> tuple[bool | None, list[str]]:
    assert found.trace
    (permission,) = found.trace.parts
    return permission.holds, [part.what for part in permission.parts]


def test_the_phase_records_how_far_it_came() -> None:
    request, permitted, refused = Request("POST", "h", "/x"), context("staged"), context("cancer")
    policy: Policy = POLICY
    ensure_permitted(caller("infer", "tester"), STAGED, permitted, request, policy)
    route = "permission of the route r: every verified caller"
    assert phase(permitted) == (True, [route, "may call the model staged"])
    with pytest.raises(Denied, match="model_forbidden"):
        ensure_permitted(ALICE, STAGED, refused, request, policy)
    assert phase(refused) == (False, [route, "may call the model cancer"])


def test_of_a_public_route_there_is_the_condition_only() -> None:
    request, probe = Request("GET", "h", "/x"), Condition.compile("request.method == 'GET'")
    public = context()
    ensure_public(Match(Route("r", "/x", public=True, when=probe)), public, request)
    assert phase(public) == (True, ["condition: request.method == 'GET'"])


@pytest.mark.parametrize(
    ("roles", "value", "variant", "parts"),
    [
        ((), None, "stable", [(HEADER, False)]),
        ((), "yes", "stable", [(HEADER, True), ("may choose: role tester", False)]),
        (
            ("tester",),
            "yes",
            "canary",
            [(HEADER, True), ("may choose: role tester", True)],
        ),
    ],
)
def test_an_experiment_records_bucket_weights_and_choice(
    roles: tuple[str, ...], value: str | None, variant: str, parts: list[tuple[str, bool]]
) -> None:
    trace, headers = Trace(), {} if value is None else {"x-try": value}
    assert CANARY.variant("m", caller(*roles), headers, trace) == variant
    assert CANARY.variant("m", caller(*roles), headers) == variant
    assert CANARY.variant("other", caller(*roles), headers, trace) == ""
    (experiment,) = trace.parts
    assert experiment.what == "experiment try"
    assert experiment.note.startswith(f"{variant}: bucket ")
    assert experiment.note.endswith(" of 10,000; stable 100 %, canary 0 %")
    assert [(part.what, part.holds) for part in experiment.parts] == parts


@pytest.mark.parametrize(
    ("version", "roles", "parts"),
    [
        ("1", (), [("the call names version 1, which stable serves", True)]),
        ("2", (), [("the call names version 2, which canary serves", True), ("may choose: role tester", False)]),
        ("3", (), []),
    ],
)
def test_an_experiment_records_what_a_named_version_leads_to(
    version: str, roles: tuple[str, ...], parts: list[tuple[str, bool]]
) -> None:
    trace = Trace()
    CANARY.variant("m", caller(*roles), {}, trace, version)
    assert [(part.what, part.holds) for part in trace.parts[0].parts[1:]] == parts
