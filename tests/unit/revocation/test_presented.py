from __future__ import annotations

import jwt
import pytest

from ext_authz.errors import ConfigError
from ext_authz.revocation.target import Named, read_token

KEY = "x" * 32
CLAIMS = {"iss": "https://idp", "jti": "1", "sid": "2", "sub": "3", "azp": "4"}
ALL = Named(what="the token", iss="https://idp", token="1", session="2", user="3", client="4")


@pytest.mark.parametrize("around", ["  {}\n", "Bearer {}", "\tBearer  {} \n"])
def test_a_token_names_itself_whoever_signed_it_and_however_old_it_is(around: str) -> None:
    token = jwt.encode({**CLAIMS, "exp": 0}, KEY, algorithm="HS256")
    assert read_token(around.format(token)) == ALL


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
def test_its_owner_is_found_as_the_door_finds_it(claims: dict[str, object], client: str, user: str) -> None:
    named = read_token(jwt.encode(claims, KEY, algorithm="HS256"))
    assert (named.client, named.user) == (client, user)


@pytest.mark.parametrize("text", ["", "secret", "secret.secret.secret", "a.b.c.d.e", "\ud800", "Bearer "])
def test_what_is_no_token_is_not_repeated(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_token(text)
    assert str(refused.value) == "--jwt: standard input holds no JWT"
