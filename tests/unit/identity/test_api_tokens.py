"""The outer form of our own API tokens: what is no whole token is told apart, and the message repeats nothing of it."""

from __future__ import annotations

import re

import pytest

from ext_authz.identity.api_tokens import PATTERN, unwrap, wrap

JWS = "eyJhbGciOiJFUzI1NiJ9.eyJqdGkiOiIxIn0.c2lnbmF0dXJl"


def test_a_token_is_its_jws_with_prefix_and_checksum() -> None:
    token = wrap(JWS)
    assert re.fullmatch(PATTERN, token)
    assert token.startswith("tgl_")
    assert token.endswith(f"~{JWS}")
    assert unwrap(token) == JWS


@pytest.mark.parametrize(
    "token",
    [
        JWS,
        f"tgl_{JWS}",
        f"tgl_~{JWS}",
        f"{wrap(JWS)}\n",
        wrap(JWS).replace("tgl_", "TGL_"),
        wrap(JWS).replace("~", "."),
        "tgl_000000~a.b",
        "tgl_000000~a.b.c.d",
    ],
)
def test_what_has_another_form_is_refused(token: str) -> None:
    with pytest.raises(ValueError, match="an API token is tgl_"):
        unwrap(token)


def test_every_changed_character_is_noticed() -> None:
    token = wrap(JWS)
    for index in range(11, len(token)):
        if token[index] != ".":
            changed = token[:index] + ("A" if token[index] != "A" else "B") + token[index + 1 :]
            with pytest.raises(ValueError, match="not copied whole") as refused:
                unwrap(changed)
            assert JWS[:10] not in str(refused.value)


def test_checksums_have_leading_zeros() -> None:
    assert any(wrap(f"a.b.{number}")[4] == "0" for number in range(100))
