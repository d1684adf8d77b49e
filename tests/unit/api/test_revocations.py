"""How long a revocation stays in force whose lifetime nobody says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from ext_authz.revocation.entry import Entry, Kind, Origin, Target
from ext_authz.revocation.operations import Operations, Receipt
from ext_authz.tokens.model import Actor
from ext_authz.tokens.revocations import Revocations
from tests.unit.signals.test_parts import ML, a_policy

DAY = 86_400


class Stores:
    async def write(self, entry: Entry, *, origin: Origin) -> Receipt:
        return Receipt(postgres=True, redis=True, sentence="", entry=entry)


@pytest.mark.parametrize(("own", "days"), [(0, 30), (7 * DAY, 30), (90 * DAY, 90), (365 * DAY, 365)])
async def test_as_long_as_api_tokens_live(own: int, days: int) -> None:
    """Else a revoked user gets back the API tokens that outlive the revocation."""
    revocations = Revocations(cast(Operations, Stores()), a_policy(ML, own=own))
    actor = Actor(via="rest", name="admin", administrator=True)
    begun = datetime.now(UTC)
    entry, _ = await revocations.revoke(actor, Target(Kind.USER, ML.name, "alice"), reason="")
    assert timedelta(days=days) <= entry.expires_at - begun <= timedelta(days=days, minutes=5)
    entry, _ = await revocations.revoke(
        actor, Target(Kind.USER, ML.name, "alice"), reason="", lifetime=timedelta(hours=1)
    )
    assert entry.expires_at - begun < timedelta(hours=2)
