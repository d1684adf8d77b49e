"""Every claim: what is taken, what is refused, and under which name."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import to_builtins
from msgspec.structs import replace

from ext_authz.policy.issuers import Claims
from tests.tokens import ABSENT, ALICE, AUDIENCE, ISSUER
from tests.unit.identity.world import NOW, ensure_refused, identify, minted

LEEWAY = 30


def test_a_keycloak_token() -> None:
    identity = identify(minted())
    assert identity.principal.issuer == ISSUER
    assert identity.principal.subject == ALICE
    assert identity.principal.client == "web-app"
    assert identity.principal.token_id == "onrtac:1f65761e-1c69-40a2-82da-2d8aa5e39a8a"
    assert identity.principal.roles == ("default-roles-ml", "infer", "offline_access")
    assert identity.roles == {"default-roles-ml", "infer", "offline_access"}
    assert identity.scopes == {"openid", "profile", "email"}
    assert identity.audiences == (AUDIENCE, "account")
    assert identity.issuer_name == "ml"
    assert identity.session == "f2b1e1a4-56b0-4f83-8d0b-6f5f0f0c9a11"
    assert (identity.issued_at, identity.expires_at) == (int(NOW), NOW + 300)


def test_a_service_account() -> None:
    claims = {"sid": ABSENT, "jti": "trrtcc:7", "azp": "batch", "preferred_username": "service-account-batch"}
    identity = identify(minted(claims))
    assert (identity.session, identity.principal.client) == ("", "batch")
    assert identify(minted({"sid": ""})).session == ""


@pytest.mark.parametrize("absent", [ABSENT, None])
@pytest.mark.parametrize("claim", ["exp", "iat", "iss", "jti", "aud", "typ"])
def test_missing(claim: str, absent: object) -> None:
    assert claim in ensure_refused(minted({claim: absent}), "claim_missing")


OPTIONAL = ("nbf", "azp", "client_id", "sid", "scope", "realm_access", "resource_access", "groups", "cnf", "tenant")


@pytest.mark.parametrize("claim", OPTIONAL)
def test_null_is_absent(claim: str) -> None:
    where = replace(Claims(), keep={"tenant": ("tenant",)}, decisive=frozenset({"roles", "scopes", "groups"}))
    null, absent = (identify(minted({claim: value}), claims=where) for value in (None, ABSENT))
    assert to_builtins(null) == to_builtins(absent)


def test_a_subject_that_is_null_does_not_become_the_client() -> None:
    assert "sub" in ensure_refused(minted({"sub": None}), "claim_invalid")


NO_TIME: dict[str, Any] = {
    "a string": str(int(NOW) + 60),
    "true": True,
    "an array": [],
    "an object": {},
    "negative": -1,
    "far away": 10**20,
    "1e300": 1e300,
}


@pytest.mark.parametrize("claim", ["exp", "iat", "nbf"])
@pytest.mark.parametrize("case", NO_TIME)
def test_not_a_time(claim: str, case: str) -> None:
    assert claim in ensure_refused(minted({claim: NO_TIME[case]}), "claim_invalid")


def test_the_first_and_the_last_second() -> None:
    ensure_refused(minted({"exp": 0}), "token_expired")
    ensure_refused(minted({"iat": 253_402_300_799}), "token_not_yet_valid")
    ensure_refused(minted({"iat": 253_402_300_800}), "claim_invalid")


def test_expiry_to_the_second() -> None:
    token = minted()
    assert identify(token, now=NOW + 300 + LEEWAY - 0.001).expires_at == NOW + 300
    ensure_refused(token, "token_expired", now=NOW + 300 + LEEWAY)
    ensure_refused(token, "token_expired", now=NOW + 300, leeway=0)


def test_expiry_with_a_fraction() -> None:
    assert identify(minted({"exp": NOW + 0.5}), now=NOW + 0.4, leeway=0).expires_at == NOW + 0.5
    ensure_refused(minted({"exp": NOW + 0.5}), "token_expired", now=NOW + 0.5, leeway=0)


def test_issued_at_is_rounded_down() -> None:
    """A fraction later than the not-before of a revocation must not save a token of the same second."""
    assert identify(minted({"iat": NOW + 0.9})).issued_at == int(NOW)


@pytest.mark.parametrize("claim", ["iat", "nbf"])
def test_from_the_future(claim: str) -> None:
    identify(minted({claim: NOW + LEEWAY}))
    ensure_refused(minted({claim: NOW + LEEWAY + 1}), "token_not_yet_valid")
    ensure_refused(minted({claim: NOW + 1}), "token_not_yet_valid", leeway=0)


def test_the_longest_life() -> None:
    identify(minted({"exp": NOW + 86_400}))
    ensure_refused(minted({"exp": NOW + 86_401}), "claim_invalid")


AUDIENCES: dict[str, tuple[Any, str]] = {
    "another": ("account", "audience_mismatch"),
    "others": (["account", "realm-management"], "audience_mismatch"),
    "nobody": ([], "audience_mismatch"),
    "a prefix": ("triton", "audience_mismatch"),
    "longer": ("triton-gateway-2", "audience_mismatch"),
    "other case": ("Triton-Gateway", "audience_mismatch"),
    "a number": (1, "claim_invalid"),
    "an object": ({AUDIENCE: 1}, "claim_invalid"),
    "a nested array": ([[AUDIENCE]], "claim_invalid"),
    "a number beside it": ([AUDIENCE, 1], "claim_invalid"),
    "null beside it": ([AUDIENCE, None], "claim_invalid"),
    "half a surrogate pair": ([AUDIENCE, "\ud800"], "claim_invalid"),
    "empty": ("", "audience_mismatch"),
}


@pytest.mark.parametrize("case", AUDIENCES)
def test_audience_refused(case: str) -> None:
    audience, code = AUDIENCES[case]
    ensure_refused(minted({"aud": audience}), code)


def test_audience_as_string_or_array() -> None:
    assert AUDIENCE in identify(minted({"aud": [AUDIENCE, "x" * 300, ""]})).audiences, "others are not ours to judge"
    assert identify(minted({"aud": AUDIENCE})).audiences == (AUDIENCE,)
    assert identify(minted({"aud": ["x", AUDIENCE]})).audiences == ("x", AUDIENCE)


@pytest.mark.parametrize(
    "issuer", [ISSUER + "/", ISSUER[:-1], ISSUER.upper(), "https://evil.example", "", " " + ISSUER]
)
def test_issuer_is_compared_byte_by_byte(issuer: str) -> None:
    ensure_refused(minted({"iss": issuer}), "issuer_unknown")


@pytest.mark.parametrize(
    "kind",
    ["ID", "Refresh", "Offline", "Logout", "DPoP", "Serialized-ID", "bearer", "Bearer ", "", 1, ["Bearer"]],
)
def test_only_access_tokens(kind: object) -> None:
    ensure_refused(minted({"typ": kind}), "token_type")


def test_a_caller_with_the_wrong_kind_of_token_is_told_so() -> None:
    assert "ID token" in ensure_refused(minted({"typ": "ID"}), "token_type")
    assert "refresh token" in ensure_refused(minted({"typ": "Refresh"}), "token_type")


def test_keycloaks_own_orders_are_no_access_tokens() -> None:
    """`k_logout` and `k_push_not_before` bodies are signed with the realm key; they know no `iss` and no `exp`."""
    order = {"id": "7", "expiration": int(NOW) + 30, "resource": "triton-gateway", "action": "LOGOUT"}
    absent = dict.fromkeys(("iss", "exp", "iat", "jti", "aud", "typ", "sub", "azp"), ABSENT)
    ensure_refused(minted({**absent, **order}), "claim_missing")
    ensure_refused(minted({**absent, **order, "iss": ISSUER}), "claim_missing")


@pytest.mark.parametrize("proof", [{"jkt": "x"}, {"x5t#S256": "x"}, {}, "x", False])
def test_bound_tokens(proof: object) -> None:
    ensure_refused(minted({"cnf": proof}), "token_bound")


@pytest.mark.parametrize("token_id", ["onltac:1f65", "trltcc:1f65", "ofltrt:7"])
def test_lightweight_tokens(token_id: str) -> None:
    assert "lightweight" in ensure_refused(minted({"jti": token_id}), "token_lightweight")


@pytest.mark.parametrize("token_id", ["1f65761e-1c69-40a2-82da-2d8aa5e39a8a", "onrtac:x", "built:7", "abltcd", "7"])
def test_other_token_ids_are_opaque(token_id: str) -> None:
    assert identify(minted({"jti": token_id})).principal.token_id == token_id


def test_allowed_clients() -> None:
    clients = frozenset({"web-app", "batch"})
    assert identify(minted(), clients=clients).principal.client == "web-app"
    ensure_refused(minted({"azp": "web"}), "client_refused", clients=clients)
    ensure_refused(minted({"azp": ABSENT}), "client_refused", clients=clients)


def test_client_id_stands_in_for_azp() -> None:
    assert identify(minted({"azp": ABSENT, "client_id": "batch"})).principal.client == "batch"
    assert identify(minted({"client_id": "batch"})).principal.client == "web-app"


def test_without_sub_the_client_is_the_subject() -> None:
    assert identify(minted({"sub": ABSENT})).principal.subject == "web-app"
    ensure_refused(minted({"sub": ABSENT, "azp": ABSENT}), "claim_missing")
    assert identify(minted({"azp": ABSENT})).principal.client == ""


UNSAFE: dict[str, Any] = {
    "a number": 1,
    "an array": ["alice"],
    "a line break": "alice\r\nx-user-roles: admin",
    "NUL": "alice\0",
    "a C1 control": "alice\x85",
    "DEL": "alice\x7f",
    "a line separator": "alice\u2028",
    "a lone surrogate": "alice\ud800",
    "256 characters": "a" * 256,
}


@pytest.mark.parametrize("claim", ["sub", "azp", "jti", "sid"])
@pytest.mark.parametrize("case", UNSAFE)
def test_text_that_must_not_travel_on(claim: str, case: str) -> None:
    assert claim in ensure_refused(minted({claim: UNSAFE[case]}), "claim_invalid")


@pytest.mark.parametrize("claim", ["sub", "azp", "jti"])
def test_empty_text_is_no_subject(claim: str) -> None:
    ensure_refused(minted({claim: ""}), "claim_invalid")


@pytest.mark.parametrize("odd", ["a\r\nb", "a\0b", "a\x85b", "a\u2028b", "a" * 256, "a" * 3000, ""])
@pytest.mark.parametrize("decisive", [frozenset(), frozenset({"roles", "scopes", "groups"})])
def test_an_odd_name_refuses_no_token_and_is_not_passed_on(odd: str, decisive: frozenset[str]) -> None:
    """Whoever compares with the names of a caller sees it: a policy may say who must not have a name."""
    claims = {"realm_access": {"roles": ["infer", odd]}, "groups": [odd, "/ml"], "scope": [odd]}
    identity = identify(minted(claims), claims=Claims(decisive=decisive))
    assert [*map(set, (identity.roles, identity.groups, identity.scopes))] == [{"infer", odd}, {odd, "/ml"}, {odd}]
    assert identity.principal.roles == ("infer",)


def test_a_name_of_255_characters_travels_on() -> None:
    assert identify(minted({"realm_access": {"roles": ["r" * 255]}}), claims=Claims()).principal.roles == ("r" * 255,)


def test_text_is_compared_byte_by_byte() -> None:
    """Not normalised: the two spellings of one name are two users."""
    composed, decomposed = identify(minted({"sub": "caf\u00e9"})), identify(minted({"sub": "cafe\u0301"}))
    assert composed.principal.subject != decomposed.principal.subject
    assert identify(minted({"sub": "\u00e9" * 255})).principal.subject == "\u00e9" * 255


MISSHAPEN: dict[str, dict[str, Any]] = {
    "realm_access a text": {"realm_access": "admin"},
    "realm_access an array": {"realm_access": ["admin"]},
    "realm_access a number": {"realm_access": 1},
    "roles an object": {"realm_access": {"roles": {"admin": True}}},
    "roles true": {"realm_access": {"roles": True}},
    "roles with a number": {"realm_access": {"roles": ["some", 1]}},
    "roles with an array": {"realm_access": {"roles": [["admin"]]}},
    "roles with half a surrogate pair": {"realm_access": {"roles": ["\ud800"]}},
    "resource_access an array": {"resource_access": [AUDIENCE]},
    "the client's entry an array": {"resource_access": {AUDIENCE: ["infer"]}},
    "groups an object": {"groups": {"/ml": {}}},
    "groups a number": {"groups": 7},
    "scope a number": {"scope": 1},
    "scope an array of numbers": {"scope": [1]},
}


@pytest.mark.parametrize("case", MISSHAPEN)
def test_what_cannot_be_read_is_not_there(case: str) -> None:
    """And nobody is let in by it: see the next test."""
    identity = identify(minted(MISSHAPEN[case]))
    assert not {"admin", "/ml", "1", ""} & (identity.roles | identity.groups | identity.scopes)


@pytest.mark.parametrize("case", MISSHAPEN)
def test_what_cannot_be_read_refuses_where_not_having_it_could_grant(case: str) -> None:
    part = {"groups": "groups", "scope": "scopes"}.get(case.split()[0], "roles")
    where = Claims(roles=(("realm_access", "roles"), ("resource_access", AUDIENCE, "roles")))
    assert part in ensure_refused(
        minted(MISSHAPEN[case]), "claim_invalid", claims=replace(where, decisive=frozenset({part}))
    )
    others = frozenset({"roles", "groups", "scopes"}) - {part}
    assert identify(minted(MISSHAPEN[case]), claims=replace(where, decisive=others)).principal.subject == ALICE


def test_a_text_is_a_list_of_one() -> None:
    claims = {"realm_access": {"roles": "admin infer"}, "groups": "/ml", "scope": "openid  email"}
    identity = identify(minted(claims), claims=Claims(decisive=frozenset({"roles", "groups", "scopes"})))
    assert [*map(set, (identity.roles, identity.groups, identity.scopes))] == [
        {"admin infer"},
        {"/ml"},
        {"openid", "email"},
    ]


def test_a_null_among_names_is_none() -> None:
    identity = identify(minted({"groups": ["/ml", None]}), claims=Claims(decisive=frozenset({"groups"})))
    assert identity.groups == {"/ml"}


def test_a_scope_with_a_tab_is_one_scope() -> None:
    assert identify(minted({"scope": "openid\tadmin"})).scopes == {"openid\tadmin"}


def test_rights_that_are_not_there() -> None:
    identity = identify(minted({"realm_access": ABSENT, "resource_access": ABSENT, "scope": ABSENT}))
    assert (identity.roles, identity.scopes, identity.principal.roles) == (frozenset(), frozenset(), ())
    assert identify(minted({"realm_access": {}, "resource_access": {}, "scope": " openid  email "})).scopes == {
        "openid",
        "email",
    }


def test_roles_of_other_clients_do_not_count() -> None:
    access = {"account": {"roles": ["admin"]}, "other": ["not looked at"]}
    assert "admin" not in identify(minted({"resource_access": access})).roles
    assert identify(minted(), claims=Claims()).roles == {"offline_access", "default-roles-ml"}
