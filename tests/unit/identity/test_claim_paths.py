"""Where the policy says that a token holds roles, scopes, groups and what it keeps; and bound tokens."""

from __future__ import annotations

from typing import Any

import pytest

from ext_authz.identity.identity import Identity
from ext_authz.policy.issuers import ClaimPath, Claims
from tests.tokens import ABSENT
from tests.unit.identity.world import ensure_refused, identify, minted


def keeping(**paths: ClaimPath) -> Claims:
    return Claims(keep=paths)


def identified(claims: dict[str, Any], where: Claims) -> Identity:
    return identify(minted(claims), claims=where)


def test_several_paths_are_united() -> None:
    where = Claims(
        roles=(("realm_access", "roles"), ("a", "b", "c"), ("top",)), groups=(("groups",), ("org", "groups"))
    )
    claims = {
        "realm_access": {"roles": ["one"]},
        "a": {"b": {"c": ["two", "one"]}},
        "top": ["three"],
        "groups": ["/x"],
        "org": {"groups": ["/y"]},
    }
    identity = identified(claims, where)
    assert identity.roles == {"one", "two", "three"}
    assert identity.principal.roles == ("one", "three", "two")
    assert identity.groups == {"/x", "/y"}


def test_what_no_path_leads_to_does_not_count() -> None:
    claims = {"realm_access": {"roles": ["admin"]}, "groups": ["g"], "scope": "s"}
    identity = identified(claims, Claims(roles=(("none",),), scopes=(("scp",),), groups=()))
    assert (identity.roles, identity.scopes, identity.groups) == (frozenset(), frozenset(), frozenset())


@pytest.mark.parametrize("value", ["openid  models", ["openid", "models"]])
def test_scopes_are_a_text_or_an_array(value: object) -> None:
    assert identified({"scp": value}, Claims(scopes=(("scp",),))).scopes == {"openid", "models"}


@pytest.mark.parametrize("value", [1, ["x"], "text"])
def test_what_a_path_to_a_kept_claim_goes_through_is_an_object(value: object) -> None:
    ensure_refused(minted({"top": value}), "claim_invalid", claims=keeping(k=("top", "below")))


def test_claims_are_kept_as_they_are() -> None:
    where = keeping(
        **{"tenant": ("tenant",), "n": ("n",), "f": ("f",), "on": ("on",), "all": ("all",), "a.b": ("a", "b")}
    )
    claims = {
        "tenant": "acme",
        "n": -3,
        "f": 0.5,
        "on": True,
        "all": ["x", "y"],
        "a": {"b": "deep"},
        "other": "not kept",
    }
    identity = identified(claims, where)
    assert identity.claims == {"tenant": "acme", "n": -3, "f": 0.5, "on": True, "all": ("x", "y"), "a.b": "deep"}
    assert {name: identity.texts(name) for name in identity.claims} == {
        "tenant": ("acme",),
        "n": ("-3",),
        "f": ("0.5",),
        "on": ("true",),
        "all": ("x", "y"),
        "a.b": ("deep",),
    }


def test_a_claim_that_is_not_there_is_not_kept() -> None:
    for claims in ({"a": {}, "tenant": ABSENT}, {"a": {"b": None}, "tenant": None}, {"a": None}):
        identity = identified(claims, keeping(tenant=("tenant",), deep=("a", "b", "c")))
        assert identity.claims == {}
    assert identity.texts("tenant") == ()


@pytest.mark.parametrize(
    "value", [{"a": 1}, [1], ["x", None], "", "x\ny", "x" * 256, ["\ud800"], 2**63, -(2**63), 1e300]
)
def test_a_claim_that_cannot_be_kept_refuses_the_token(value: object) -> None:
    assert "tenant" in ensure_refused(minted({"tenant": value}), "claim_invalid", claims=keeping(tenant=("tenant",)))


def test_the_largest_number() -> None:
    assert identified({"n": 2**63 - 1}, keeping(n=("n",))).claims == {"n": 2**63 - 1}


def test_a_claim_with_dots_in_its_name() -> None:
    claims = {"https://id.example/plan": "gold"}
    identity = identified(claims, Claims(keep={r"https://id\.example/plan": ("https://id.example/plan",)}))
    assert identity.texts(r"https://id\.example/plan") == ("gold",)


@pytest.mark.parametrize("proof", [{"jkt": "x"}, {}])
def test_a_bound_token_is_accepted_only_if_the_policy_allows_it(proof: object) -> None:
    ensure_refused(minted({"cnf": proof}), "token_bound")
    assert identify(minted({"cnf": proof}), cnf="ignore").principal.client == "web-app"
