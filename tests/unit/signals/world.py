"""What signed messages ask for, with the fake clock and the issuer of the tests of identity."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ext_authz.errors import Denied
from ext_authz.identity.jwks import KeySet
from ext_authz.identity.messages import SignedMessages
from ext_authz.signals import messages
from ext_authz.signals.messages import Signal
from tests.fakes import FakeClock
from tests.signals import AUDIENCE, CONSOLE
from tests.tokens import ISSUER, RSA, jwks
from tests.unit.identity.world import an_issuer

NOW = FakeClock().now()
CLIENTS = frozenset({CONSOLE, "web-app"})


def reader() -> SignedMessages:
    async def fetch(_: str) -> bytes:
        return jwks(RSA)

    return SignedMessages({ISSUER: KeySet(an_issuer(), fetch=fetch, clock=FakeClock())})


async def logout(text: str, now: float = NOW) -> Signal:
    message = await reader().read(text, messages.LOGOUT_TYPES)
    return messages.logout(message, CLIENTS, now)


async def action(text: str, wanted: str = messages.LOGOUT, now: float = NOW) -> Signal:
    message = await reader().read(text, messages.ACTION_TYPES, ISSUER)
    return messages.admin_action(message, wanted, CLIENTS, CONSOLE, now)


async def event(text: str, now: float = NOW) -> Signal:
    message = await reader().read(text, messages.EVENT_TYPES)
    return messages.security_event(message, {AUDIENCE}, now)


async def ensure_refused(read: Callable[..., object], text: str, code: str) -> str:
    """What the sender is told."""
    with pytest.raises(Denied) as refused:
        await read(text)  # type: ignore[misc]
    assert refused.value.code == code, refused.value.detail
    return refused.value.detail
