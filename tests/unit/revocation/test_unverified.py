from __future__ import annotations

import jwt
import pytest

from ext_authz.errors import ConfigError
from ext_authz.revocation.unverified import Named, read

KEY = "x" * 32


def test_a_token_names_itself_whoever_signed_it_and_however_old_it_is() -> None:
    token = jwt.encode({"iss": "https://idp", "jti": "1", "exp": 0}, KEY, algorithm="HS256")
    assert read(f"  {token}\n") == Named("https://idp", "1")


@pytest.mark.parametrize("claims", [{}, {"iss": "i"}, {"jti": "j"}, {"iss": "", "jti": "j"}, {"iss": "i", "jti": ""}])
def test_a_token_without_a_name_cannot_be_revoked_by_it(claims: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="no iss or no jti"):
        read(jwt.encode(claims, KEY, algorithm="HS256"))


@pytest.mark.parametrize("text", ["", "secret", "secret.secret.secret", "a.b.c.d.e", "\ud800"])
def test_what_is_no_token_is_not_repeated(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(text)
    assert str(refused.value) == "--jwt: standard input holds no JWT"
