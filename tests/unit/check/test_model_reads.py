"""GET /.tollgate/models: what the caller may do with each model, and that others are not told from none."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from ext_authz.decision import Answer, Decision, Deny, Request
from ext_authz.identity.identity import Identity
from ext_authz.phases.quota_reads import AT_ONCE
from ext_authz.policytool.simulator import Simulator
from ext_authz.revocation.entry import Kind
from tests.unit.check.test_api_tokens import owner, token
from tests.unit.check.test_model_index import POLICY
from tests.unit.policy.writing import loaded
from tests.unit.policytool.test_api_tokens import Given

READ = "/.tollgate/models"
SENTIMENT = {"name": "sentiment", "call": True, "see": True}
OPEN = {"name": "open", "call": True, "see": True}
BOTH = {"call": True, "see": True}
STAGED = {"name": "staged", "call": False, "see": False, "versions": {"1": BOTH, "*": BOTH}}


class World:
    """Of one caller."""

    def __init__(self, place: Path, identity: Identity) -> None:
        self.simulator = Simulator(loaded(place, POLICY), 1_790_000_000, Given(identity))

    async def get(self, query: str = "", path: str = READ) -> Decision:
        return await self.simulator.decide(Request("GET", "h", path, query, authorization=("Bearer t",)))

    async def models(self) -> list[dict[str, object]]:
        decision = await self.get()
        assert isinstance(decision, Answer)
        found: dict[str, list[dict[str, object]]] = msgspec.json.decode(msgspec.json.encode(decision.document))
        return found["models"]


INFER = owner("infer")


@pytest.mark.parametrize(
    ("identity", "models"),
    [
        (owner(), [{"name": "open", "call": False, "see": True}]),
        (INFER, [SENTIMENT, OPEN, STAGED]),
        (owner("infer", "tester"), [SENTIMENT, OPEN, {"name": "staged", **BOTH}]),
        (owner("team"), [{"name": "open", "call": False, "see": True}, {"name": "team-*", **BOTH}]),
        (token(INFER, "infer", models=("sentiment", "team-a")), [SENTIMENT]),
        (token(owner("team", "infer"), "team", models=("team-a", "team-b*", "unknown")), ["team-a", "team-b*"]),
        (token(INFER, "infer", models=("s*",)), [SENTIMENT, STAGED]),
        (token(INFER, "infer", models=()), []),
    ],
)
async def test_what_the_caller_may_do(tmp_path: Path, identity: Identity, models: list[object]) -> None:
    expected = [{"name": each, **BOTH} if isinstance(each, str) else each for each in models]
    assert await World(tmp_path, identity).models() == expected


async def test_nothing_is_counted_and_a_query_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path, INFER)
    await world.models()
    assert world.simulator.counters.ledger == []
    refused = await world.get("model=sentiment")
    assert isinstance(refused, Deny)
    assert (refused.code, refused.detail) == ("query_not_understood", "write no query: all models are listed")


async def test_revoked_callers_get_no_list(tmp_path: Path) -> None:
    world = World(tmp_path, INFER)
    world.simulator.counters.revoked.add(Kind.USER)
    refused = await world.get()
    assert isinstance(refused, Deny)
    assert refused.code == "revoked"


async def test_quotas_and_models_are_read_from_one_budget(tmp_path: Path) -> None:
    world = World(tmp_path, INFER)
    for number in range(AT_ONCE):
        assert isinstance(await world.get(path=READ if number % 2 else "/.tollgate/quota"), Answer)
    for path in (READ, "/.tollgate/quota"):
        refused = await world.get(path=path)
        assert isinstance(refused, Deny)
        assert refused.code == "quota_reads"
