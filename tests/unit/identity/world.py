"""What the tests of identity share: an issuer, one verification, and the refusal that it must end in."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
from msgspec.structs import replace
from prometheus_client import REGISTRY

from ext_authz.decision import Reason
from ext_authz.errors import Denied
from ext_authz.identity.authenticator import TokenAuthenticator
from ext_authz.identity.identity import Identity
from ext_authz.identity.keys import parse_keys
from ext_authz.identity.tokens import read, verify
from ext_authz.policy.issuers import Claims, Issuer
from tests.fakes import FakeClock
from tests.tokens import AUDIENCE, ISSUER, RSA, TestKey, jwks, mint

NOW = FakeClock().now()
EVERY_ALGORITHM = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)  # fmt: skip

# RFC 6750 section 3: what an error_description may hold, so that no answer needs escaping.
_DESCRIPTION = re.compile(r"[\x20-\x21\x23-\x5b\x5d-\x7e]{10,160}")


_ISSUER = Issuer(
    name="ml",
    issuer=ISSUER,
    jwks_url="https://kc.example/certs",
    audiences=frozenset({AUDIENCE}),
    claims=Claims(roles=(("realm_access", "roles"), ("resource_access", AUDIENCE, "roles"))),
)


def an_issuer(**changes: object) -> Issuer:
    """One that takes `minted()` tokens."""
    return replace(_ISSUER, **changes)


def minted(
    overrides: Mapping[str, object] | None = None,
    *,
    key: TestKey = RSA,
    headers: Mapping[str, object] | None = None,
) -> str:
    """A token issued at the fake clock's first moment."""
    return mint(overrides, key=key, headers=headers, now=NOW)


def identify(token: str, *, key: TestKey = RSA, now: float = NOW, **changes: object) -> Identity:
    """The pure path: take apart, verify with this key, now; `changes` to the issuer."""
    issuer = an_issuer(**changes)
    return verify(read(token), issuer, parse_keys(jwks(key), issuer.algorithms)[key.name], now)


def ensure_refused(token: str, code: str, *, key: TestKey = RSA, now: float = NOW, **changes: object) -> str:
    """The token is refused for this cause; returns what the caller is told."""
    with pytest.raises(Denied) as refused:
        identify(token, key=key, now=now, **changes)
    return checked(refused.value, code)


async def refusal(authenticator: TokenAuthenticator, *authorization: str) -> Denied:
    with pytest.raises(Denied) as refused:
        await authenticator.authenticate(authorization)
    return refused.value


def checked(refused: Denied, code: str) -> str:
    assert (refused.code, refused.reason) == (code, Reason.INVALID_CREDENTIAL)
    assert _DESCRIPTION.fullmatch(refused.detail), refused.detail
    return refused.detail


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0
