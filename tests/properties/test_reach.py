"""No grant is wider than its owner, nor than who makes it, whatever is asked for."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from ext_authz.decision import Principal
from ext_authz.identity.identity import Identity
from ext_authz.phases.access import may
from ext_authz.policy.kserve import Right
from ext_authz.policy.model import Policy
from ext_authz.policy.rights import EVERYONE, NOBODY, AllOf, AnyOf, Has, ModelRule, ModelRules, Not, Permission, Trait
from ext_authz.tokens.model import NewGrant, NotDone, Owner, Why
from ext_authz.tokens.reach import Entitled, callable_models, ensure_valid, may_call, narrowed, reach

DAY = timedelta(days=1)
WORDS = ("a", "b", "c", "d")
MODELS = ("ab", "abc", "b", "bc", "cab", "x")
PATTERNS = ("*", "a*", "ab*", "*b", "b*c", "**", "a*b*")

words = st.just(frozenset(WORDS)) | st.frozensets(st.sampled_from(WORDS))
leaves = st.builds(
    Has, st.sampled_from([Trait.ROLE, Trait.SCOPE, Trait.GROUP]), st.frozensets(st.sampled_from(WORDS), min_size=1)
)
permissions: st.SearchStrategy[Permission] = st.recursive(
    leaves,
    lambda part: st.one_of(
        st.builds(AnyOf, st.lists(part, max_size=3).map(tuple)),
        st.builds(AllOf, st.lists(part, max_size=3).map(tuple)),
        st.builds(Not, part),
    ),
    max_leaves=5,
)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    names = draw(st.sets(st.sampled_from((*MODELS, "*", "a*", "ab*", "*cab*")), max_size=5))
    rules = [
        ModelRule(
            name,
            {Right.CALL: draw(st.just(EVERYONE) | permissions), Right.SEE: NOBODY, Right.ADMINISTER: NOBODY},
            {"2": {Right.CALL: draw(permissions)}} if draw(st.booleans()) else {},
        )
        for name in sorted(names)
    ]
    return Policy("hash", (), (), ModelRules(rules))


entitlements = st.builds(
    lambda roles, groups, scopes: Entitled(
        owner=Owner(issuer="kc", subject="alice"), roles=roles, groups=groups, scopes=scopes
    ),
    *(words, words, words),
)
identities = st.builds(
    lambda roles, groups, scopes, grant: Identity(
        Principal("iss", "alice", "c"), "kc", "", 0, 0.0, (), scopes, roles, groups, grant=grant
    ),
    *(words, words, words, st.sampled_from(["", "the id of a grant"])),
)
some = st.just(()) | st.lists(st.sampled_from(WORDS), max_size=2).map(tuple)
asked_models = st.none() | st.lists(st.sampled_from((*MODELS, *PATTERNS)), min_size=1, max_size=4).map(tuple)
asked = st.builds(
    lambda scopes, models, roles: NewGrant(name="n", lifetime=DAY, scopes=scopes, models=models, roles=roles),
    *(some, asked_models, st.none() | some),
)


def covered(models: tuple[str, ...], model: str) -> bool:
    return ModelRules(ModelRule(name, {}) for name in models).rule(model) is not None


@settings(max_examples=300)
@given(policies(), entitlements, st.none() | identities, asked_models, asked)
def test_whatever_is_asked_for_a_grant_is_no_wider(
    policy: Policy, entitled: Entitled, actor: Identity | None, bound: tuple[str, ...] | None, wanted: NewGrant
) -> None:
    try:
        within = reach(entitled, "iss", actor, bound, frozenset())
        made = narrowed(ensure_valid(wanted, DAY), within, policy)
    except NotDone as refused:
        assert refused.why is Why.TOO_WIDE  # noqa: PT017 - and nothing was made
        return
    held: list[Entitled | Identity] = [entitled] if actor is None else [entitled, actor]
    for holder in held:
        assert holder.scopes.issuperset(made.scopes)
        assert holder.roles.issuperset(entitled.roles if made.roles is None else made.roles)
        assert holder is entitled or holder.groups >= entitled.groups
    assert bound is None or made.models is not None
    for model in MODELS:
        if made.models is not None and covered(made.models, model):
            assert bound is None or covered(bound, model)
            assert wanted.models is None or covered(wanted.models, model)
    for named in set(made.models or ()) & set(MODELS) if wanted.models is not None else ():
        callers = [within.identity] if actor is None else [within.identity, actor]
        versions = ("", "2", "9")
        assert any(all(may(each, Right.CALL, named, version, policy) for each in callers) for version in versions)


@given(policies(), entitlements, st.none() | identities)
def test_what_is_offered_can_be_asked_for(policy: Policy, entitled: Entitled, actor: Identity | None) -> None:
    try:
        within = reach(entitled, "iss", actor, None, frozenset())
    except NotDone:
        return
    offered = callable_models(within, policy)
    assert all(may_call(within, model, policy) for model in offered)
    everything = NewGrant(
        name="n",
        lifetime=DAY,
        scopes=tuple(sorted(within.identity.scopes)),
        models=offered or None,
        roles=tuple(sorted(within.identity.roles)),
    )
    assert narrowed(ensure_valid(everything, DAY), within, policy) == everything
