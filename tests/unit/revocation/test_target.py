"""From what an operator has to what is revoked: without a store, every way and every refusal."""

from __future__ import annotations

from datetime import UTC, datetime

import jwt
import pytest
from msgspec.structs import replace

from ext_authz.errors import ConfigError, escaped
from ext_authz.ledger.queries import User
from ext_authz.revocation.entry import Kind, Target
from ext_authz.revocation.target import Issuers, Named, Wanted, read_token, target_of

URL = "https://idp.example/realms/ml"
POLICY = Issuers({"keycloak": URL, "partner": "https://partner.example"}, "the policy")
TOKEN = Named(what="the token", iss=URL, token="jti", session="sid", user="sub", client="azp")
NOW = datetime(2026, 11, 28, tzinfo=UTC)
ALICE = User("keycloak", "sub-1", "alice", NOW)


def refusal(wanted: Wanted, issuers: Issuers = POLICY, **found: object) -> str:
    with pytest.raises(ConfigError) as refused:
        target_of(wanted, issuers, **found)  # type: ignore[arg-type]
    return str(refused.value)


@pytest.mark.parametrize("kind", [Kind.TOKEN, Kind.SESSION, Kind.USER, Kind.CLIENT])
def test_the_value_itself_is_taken_as_it_is(kind: Kind) -> None:
    wanted = Wanted(kind=kind, value="a:b c", issuer="keycloak")
    assert target_of(wanted, POLICY) == Target(kind, "keycloak", "a:b c")


def test_the_only_issuer_need_not_be_given() -> None:
    only = Issuers({"keycloak": URL}, "the policy")
    assert target_of(Wanted(kind=Kind.USER, value="sub"), only).issuer == "keycloak"
    assert refusal(Wanted(kind=Kind.USER, value="sub")) == "--issuer: give the name of the issuer in the policy"


def test_an_issuer_is_named_by_its_name() -> None:
    assert target_of(Wanted(kind=Kind.ISSUER, value="partner"), POLICY) == Target(Kind.ISSUER, "partner", "")


@pytest.mark.parametrize(
    ("kind", "value"),
    [(Kind.TOKEN, "jti"), (Kind.SESSION, "sid"), (Kind.USER, "sub"), (Kind.CLIENT, "azp"), (Kind.ISSUER, "")],
)
def test_a_token_determines_its_claims(kind: Kind, value: str) -> None:
    assert target_of(Wanted(kind=kind), POLICY, named=TOKEN) == Target(kind, "keycloak", value)


def test_what_the_policy_calls_the_issuer_now_goes_before_what_was_recorded() -> None:
    recorded = replace(TOKEN, what="the decision", issuer="old-name")
    assert target_of(Wanted(kind=Kind.USER), POLICY, named=recorded).issuer == "keycloak"
    seen = Issuers({"old-name": "another URL"})
    assert target_of(Wanted(kind=Kind.USER), seen, named=recorded).issuer == "old-name"


@pytest.mark.parametrize("kind", [Kind.SESSION, Kind.CLIENT])
def test_what_a_token_does_not_say_cannot_be_revoked_by_it(kind: Kind) -> None:
    account = replace(TOKEN, session="", client="")
    message = refusal(Wanted(kind=kind), named=account)
    assert message == f"the token has no {'sid' if kind is Kind.SESSION else 'azp'}: revoke its token or user instead"
    nobody = refusal(Wanted(kind=kind), named=Named(what="the token", iss=URL))
    assert nobody == f"the token has no {'sid' if kind is Kind.SESSION else 'azp'}"


def test_a_token_of_an_unknown_issuer_needs_its_name() -> None:
    foreign = replace(TOKEN, iss="https://elsewhere\n")
    message = refusal(Wanted(kind=Kind.USER), named=foreign)
    assert (
        message == "the token is of an issuer that the policy does not know, 'https://elsewhere\\n': add --issuer NAME"
    )
    assert (
        refusal(Wanted(kind=Kind.USER), named=replace(TOKEN, iss="")) == "the token names no issuer: add --issuer NAME"
    )
    assert target_of(Wanted(kind=Kind.USER, issuer="partner"), POLICY, named=foreign).issuer == "partner"


def test_an_issuer_that_contradicts_the_token_is_refused() -> None:
    wanted = Wanted(kind=Kind.USER, issuer="partner")
    assert refusal(wanted, named=TOKEN) == "--issuer: the token is of keycloak, not of partner"
    assert target_of(replace(wanted, force=True), POLICY, named=TOKEN).issuer == "partner"


def test_a_username_leads_to_its_subject() -> None:
    wanted = Wanted(kind=Kind.USER, username="alice")
    assert target_of(wanted, POLICY, users=[ALICE]) == Target(Kind.USER, "keycloak", "sub-1")


def test_a_username_that_several_go_by_lists_them() -> None:
    others = [ALICE, replace(ALICE, subject="sub-2"), replace(ALICE, issuer="partner")]
    assert refusal(Wanted(kind=Kind.USER, username="alice"), users=others) == (
        "--username: 3 users have the name 'alice', choose one:"
        "\n  tollgate revoke user sub-1 --issuer keycloak"
        "\n  tollgate revoke user sub-2 --issuer keycloak"
        "\n  tollgate revoke user sub-1 --issuer partner"
    )
    of_partner = Wanted(kind=Kind.USER, username="alice", issuer="partner")
    assert target_of(of_partner, POLICY, users=others).issuer == "partner"


def test_an_unknown_username_is_refused() -> None:
    nobody = refusal(Wanted(kind=Kind.USER, username="bob"), users=[])
    assert nobody == (
        "--username: no user with the name 'bob' was seen in the last 7 days: give the sub "
        "(names are known if the policy has explain: {usernames: true})"
    )
    assert "no user of partner" in refusal(Wanted(kind=Kind.USER, username="a", issuer="partner"), users=[ALICE])


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("keycloack", "did you mean keycloak?"),
        ("zzz", "it has keycloak, partner;"),
    ],
)
def test_an_unknown_issuer_is_refused_with_a_similar_one(name: str, hint: str) -> None:
    for wanted in (Wanted(kind=Kind.USER, value="sub", issuer=name), Wanted(kind=Kind.ISSUER, value=name)):
        message = refusal(wanted)
        assert message == f"--issuer: the policy has no issuer '{name}': {hint} (--force revokes it all the same)"
        assert target_of(replace(wanted, force=True), POLICY).issuer == name


def test_without_a_policy_and_a_ledger_no_issuer_is_known() -> None:
    assert refusal(Wanted(kind=Kind.USER, value="sub", issuer="kc"), Issuers()) == (
        "--issuer: it is not known whether there is an issuer 'kc': set TOLLGATE_POLICY, or add --force"
    )


@pytest.mark.parametrize("name", ["Demo", "a" * 33, "a b", "kc\n", URL])
def test_what_can_be_no_name_of_an_issuer_is_refused_by_force_too(name: str) -> None:
    message = refusal(Wanted(kind=Kind.USER, value="sub", issuer=name, force=True))
    assert message.startswith("--issuer: the name of an issuer is 1 to 32 of a-z, 0-9 and -")


@pytest.mark.parametrize("value", ["", "a\nb", "a\tb", "\x1b[2J", "\x7f", "\u2028", "\ud800", "x" * 256])
@pytest.mark.parametrize(("kind", "claim"), [(Kind.TOKEN, "jti"), (Kind.SESSION, "sid"), (Kind.USER, "sub")])
def test_what_no_token_can_carry_is_refused(kind: Kind, claim: str, value: str) -> None:
    message = refusal(Wanted(kind=kind, value=value, issuer="keycloak", force=True))
    assert message == f"no token can carry this {claim}: it must be 1 to 255 printable characters"


def test_a_target_in_words_moves_no_cursor() -> None:
    assert str(Target(Kind.USER, "kc", "a\x1b[2J")) == "user a\\x1b[2J of kc"
    assert str(Target(Kind.ISSUER, "kc", "")) == "issuer kc"
    assert escaped("höflich 名") == "höflich 名"


KEY = "x" * 32
TOKEN_CLAIMS = {"iss": "https://idp", "jti": "1", "sid": "2", "sub": "3", "azp": "4"}
ALL_NAMED = Named(what="the token", iss="https://idp", token="1", session="2", user="3", client="4")


@pytest.mark.parametrize("around", ["  {}\n", "Bearer {}", "\tBearer  {} \n"])
def test_the_claims_of_a_token_are_read_unverified_and_expired_too(around: str) -> None:
    token = jwt.encode({**TOKEN_CLAIMS, "exp": 0}, KEY, algorithm="HS256")
    assert read_token(around.format(token)) == ALL_NAMED


@pytest.mark.parametrize(
    ("claims", "client", "user"),
    [
        ({"client_id": "app"}, "app", "app"),
        ({"client_id": "app", "azp": "web"}, "web", "web"),
        ({"sub": "alice", "azp": "web"}, "web", "alice"),
        ({"azp": 7, "sub": "alice"}, "", "alice"),
        ({"azp": None, "sub": ["alice"]}, "", ""),
    ],
)
def test_its_owner_is_found_as_a_check_finds_it(claims: dict[str, object], client: str, user: str) -> None:
    named = read_token(jwt.encode(claims, KEY, algorithm="HS256"))
    assert (named.client, named.user) == (client, user)


@pytest.mark.parametrize("text", ["", "secret", "secret.secret.secret", "a.b.c.d.e", "\ud800", "Bearer "])
def test_what_is_no_token_is_not_repeated(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_token(text)
    assert str(refused.value) == "--jwt: standard input holds no JWT"
