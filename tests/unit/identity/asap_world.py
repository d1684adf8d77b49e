"""A service that signs its own tokens, and the authenticator of a replica that accepts them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from msgspec.structs import replace

from ext_authz.errors import Denied
from ext_authz.identity.authenticator import TokenAuthenticator
from ext_authz.identity.identity import Identity
from ext_authz.policy.issuers import Asap, Issuer
from tests.fakes import FakeClock, FakeJwks, FakeReplays, FakeRepository
from tests.tokens import AUDIENCE, RSA, TestKey, sign, to_json, without_absent
from tests.unit.identity.world import NOW

RULES = Asap(repositories=("https://keys.example/",), roles=frozenset({"infer"}))
SERVICE = Issuer(
    name="web",
    issuer="web",
    jwks_url="",
    audiences=frozenset({AUDIENCE}),
    algorithms=frozenset({"RS256", "PS256", "ES256", "ES384", "ES512"}),
    asap=RULES,
    max_token_age=3600,
)


def a_service(rules: Mapping[str, object] | None = None, **changes: object) -> Issuer:
    return replace(SERVICE, asap=replace(RULES, **(rules or {})), **changes)


def signed(
    claims: Mapping[str, object] | None = None,
    *,
    key: TestKey = RSA,
    kid: object = "web/one",
    headers: Mapping[str, object] | None = None,
    now: float = NOW,
) -> str:
    """As the published signer makes it: a minute long, for the service itself."""
    usual = {"iss": "web", "sub": "web", "aud": AUDIENCE, "iat": int(now), "nbf": int(now), "exp": int(now) + 60}
    header = without_absent({"alg": key.algorithm, "typ": "JWT", "kid": kid, **(headers or {})})
    payload = without_absent({**usual, "jti": "1795179600:12345", **(claims or {})})
    return sign(to_json(header), to_json(payload), key)


class World:
    """Replicas that share a clock, a key repository and a store of uses."""

    def __init__(self, *issuers: Issuer, clock: FakeClock | None = None) -> None:
        self.clock = clock or FakeClock()
        self.repository = FakeRepository(one=RSA)
        self.replays = FakeReplays(self.clock)
        self._issuers = issuers or (SERVICE,)
        self.authenticator = self.replica()

    def replica(self, replays: FakeReplays | None = None, whose: str = "") -> TokenAuthenticator:
        return TokenAuthenticator(
            self._issuers,
            fetch=FakeJwks(),
            fetch_key=self.repository,
            clock=self.clock,
            cache_size=100,
            replays=None if whose else replays or self.replays,
            whose=whose,
        )

    async def call(self, token: str, authenticator: TokenAuthenticator | None = None) -> Identity:
        return await (authenticator or self.authenticator).authenticate((f"Bearer {token}",))

    async def refusal(self, token: str) -> Denied:
        with pytest.raises(Denied) as refused:
            await self.call(token)
        return refused.value
