"""One issuer, its key endpoint and a clock; the authenticator has fetched the keys and nothing else is running."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ext_authz.identity.authenticator import TokenAuthenticator
from tests.fakes import FakeClock, FakeJwks
from tests.tokens import RSA
from tests.unit.identity.world import an_issuer


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def endpoint() -> FakeJwks:
    return FakeJwks(RSA)


@pytest.fixture
async def authenticator(clock: FakeClock, endpoint: FakeJwks) -> AsyncIterator[TokenAuthenticator]:
    authenticator = TokenAuthenticator([an_issuer()], fetch=endpoint, clock=clock, cache_size=100)
    await authenticator.start()
    yield authenticator
    await authenticator.stop()
