"""The Authorization header: one value, one scheme, one space, one token."""

from __future__ import annotations

import pytest

from ext_authz.decision import Reason
from ext_authz.errors import Denied
from ext_authz.identity.tokens import BEARER, DPOP, MAX_TOKEN, credential, single


def recognised(*authorization: str) -> str:
    scheme, token = credential(single(authorization))
    assert scheme == BEARER
    return token


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
def test_the_scheme_has_no_case(scheme: str) -> None:
    assert recognised(f"{scheme} a.b.c") == "a.b.c"


def test_the_longest_token_passes() -> None:
    assert len(recognised("Bearer " + "a" * MAX_TOKEN)) == MAX_TOKEN


@pytest.mark.parametrize("scheme", ["DPoP", "dpop", "DPOP"])
def test_dpop_is_a_scheme_where_proofs_are_verified(scheme: str) -> None:
    assert credential(f"{scheme} a.b.c", dpop=True) == (DPOP, "a.b.c")
    assert credential("Bearer a.b.c", dpop=True) == (BEARER, "a.b.c")


@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        ("DPoP a.b.c,DPoP d.e.f", "credential_repeated"),
        ("Basic eDp5,dpop a.b.c", "credential_repeated"),
        ("DPoP", "credential_malformed"),
        ("DPoP  a.b.c", "credential_malformed"),
        ("Basic eDp5", "scheme_unsupported"),
        ("DPoPx a.b.c", "scheme_unsupported"),
    ],
)
def test_refused_where_proofs_are_verified(authorization: str, code: str) -> None:
    with pytest.raises(Denied) as refused:
        credential(authorization, dpop=True)
    assert refused.value.code == code
    assert "DPoP" in refused.value.detail or code != "scheme_unsupported"


REFUSED = {
    "no header": ((), Reason.NO_CREDENTIAL, "credential_missing"),
    "empty header": (("",), Reason.NO_CREDENTIAL, "credential_missing"),
    "two headers": (("Bearer a.b.c", "Bearer d.e.f"), Reason.INVALID_REQUEST, "credential_repeated"),
    "the same twice": (("Bearer a.b.c", "Bearer a.b.c"), Reason.INVALID_REQUEST, "credential_repeated"),
    "one of two empty": (("", "Bearer a.b.c"), Reason.INVALID_REQUEST, "credential_repeated"),
    "two joined": (("Bearer a.b.c,Bearer d.e.f",), Reason.INVALID_REQUEST, "credential_repeated"),
    "two joined with a space": (("Bearer a.b.c, Bearer d.e.f",), Reason.INVALID_REQUEST, "credential_repeated"),
    "joined behind basic": (("Basic eDp5,bearer a.b.c",), Reason.INVALID_REQUEST, "credential_repeated"),
    "a trailing comma": (("Bearer a.b.c,",), Reason.INVALID_REQUEST, "credential_repeated"),
    "basic": (("Basic eDp5",), Reason.NO_CREDENTIAL, "scheme_unsupported"),
    "dpop": (("DPoP a.b.c",), Reason.NO_CREDENTIAL, "scheme_unsupported"),
    "digest": (('Digest username="x", realm="y"',), Reason.NO_CREDENTIAL, "scheme_unsupported"),
    "no scheme": (("a.b.c",), Reason.NO_CREDENTIAL, "scheme_unsupported"),
    "a scheme that begins like it": (("Bearertoken a.b.c",), Reason.NO_CREDENTIAL, "scheme_unsupported"),
    "a leading space": ((" Bearer a.b.c",), Reason.NO_CREDENTIAL, "scheme_unsupported"),
    "a tab": (("Bearer\ta.b.c",), Reason.NO_CREDENTIAL, "scheme_unsupported"),
    "a fullwidth scheme": (("\uff22earer a.b.c",), Reason.NO_CREDENTIAL, "scheme_unsupported"),
    "only the scheme": (("Bearer",), Reason.INVALID_REQUEST, "credential_malformed"),
    "no token": (("Bearer ",), Reason.INVALID_REQUEST, "credential_malformed"),
    "two spaces": (("Bearer  a.b.c",), Reason.INVALID_REQUEST, "credential_malformed"),
    "too long": (("Bearer " + "a" * (MAX_TOKEN + 1),), Reason.INVALID_CREDENTIAL, "token_too_large"),
    "two megabytes": (("x" * 2_000_000,), Reason.INVALID_CREDENTIAL, "token_too_large"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    authorization, reason, code = REFUSED[case]
    with pytest.raises(Denied) as refused:
        recognised(*authorization)
    assert (refused.value.reason, refused.value.code) == (reason, code)
