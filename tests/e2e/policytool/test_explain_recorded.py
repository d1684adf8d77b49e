"""Decisions that were really written down: explained by their id, and tried on another policy."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from uuid import uuid4

import click
import pytest
from click.testing import CliRunner, Result

from ext_authz.decision import Decision, Request
from ext_authz.errors import TollgateError, Unavailable
from ext_authz.identity.claim_values import Claims
from ext_authz.policy.load import load_policy
from ext_authz.policytool.callers import IdentityDocument, given_claims
from ext_authz.policytool.commands import policy as policy_commands
from ext_authz.policytool.explain_commands import explain_recorded as explain
from ext_authz.policytool.simulator import Simulator
from ext_authz.revocation.entry import Kind
from ext_authz.settlement.model import Outcome
from tests.e2e.ledger.world import World
from tests.services import free_port
from tests.unit.policytool.command_line import written
from tests.waiting import running, until

POLICY = """version: 1
issuers: [{name: kc, issuer: "https://id.example", audiences: [g]}]
limits: {user: {key: [user], rate: 2/minute}}
models: {sentiment: {roles: [infer]}}
routes:
  - {name: infer, operation: infer, limits: [user]}
"""


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return written(tmp_path, POLICY)


def alice(policy: Path) -> tuple[Simulator, Claims]:
    """A simulator of now, and the claims of a caller who may infer."""
    simulator = Simulator(load_policy(policy, {}), time.time())
    identity = IdentityDocument(user="alice", roles=("infer",))
    return simulator, given_claims(identity, simulator.policy.issuers, simulator.clock.now())


async def decided(world: World, policy: Path, path: str, times: int = 1) -> Decision:
    """The last of some decisions on alice's calls, all written into the stream as the settlement does."""
    simulator, claims = alice(policy)
    request = Request("POST", "h.example", path, authorization=(simulator.callers.present(claims),), source="10.0.0.9")
    decisions = [await simulator.decide(request) for _ in range(times)]
    refused = {"l": "user\x1fkc:alice"}  # as settle.lua says it
    ledger = [(event, int(outcome)) for event, outcome in simulator.counters.ledger]
    await world.record_raw(
        *({"e": event, "o": code} | (refused if code == Outcome.LIMITED else {}) for event, code in ledger)
    )
    return decisions[-1]


async def result(world: World, command: click.Command, *arguments: object, redis_url: str = "") -> Result:
    """The command beside this ledger; it runs an event loop of its own."""
    environ = {"TOLLGATE_DATABASE_URL": world.database_url, "TOLLGATE_REDIS_URL": redis_url or world.redis_url}
    return await asyncio.to_thread(
        CliRunner().invoke, command, list(map(str, arguments)), env=environ, catch_exceptions=False
    )


async def test_a_decision_is_explained_from_the_stream_and_from_the_ledger(world: World, policy: Path) -> None:
    decision = await decided(world, policy, "/v2/models/cat/infer")
    waiting = await result(world, explain, decision.decision_id, policy)
    for line in (
        f"decision {decision.decision_id} at ",
        "  outcome   refused: forbidden, model_forbidden",
        "  caller    alice of https://id.example, client some-client",
        "  from      10.0.0.9 to h.example",
        "; the present one\n",
        "decided again\n",
        "  no  may call the model cat  (the policy does not know it)",
    ):
        assert line in waiting.stdout
    async with running(world.worker()):
        await until(world.drained)
    moved = await result(world, explain, decision.decision_id, policy)
    assert moved.stdout.splitlines()[1:] == waiting.stdout.splitlines()[1:]


async def test_another_policy_is_reported(world: World, policy: Path, tmp_path: Path) -> None:
    decision = await decided(world, policy, "/v2/models/sentiment/infer", times=3)
    other = written(tmp_path, POLICY.replace("[infer]", "[tester]"), "other.yaml")
    then = await result(world, explain, decision.decision_id, policy)
    assert "  limit     user for kc:alice" in then.stdout
    assert "refused: over_limit: the limit 'user' of 2 per 60 s is used up: retry in " in then.stdout
    assert "\n4 no  limits  (the limit 'user' of 2 per 60 s is used up" in then.stdout
    assert "  no  limit user: 2 per 60 s  (counted by user kc:alice; costs 1; 0 left" in then.stdout
    assert (
        "(the limit user is used up below as it was then, to the last of it; other counters start at zero)"
        in then.stdout
    )
    assert "allow" not in then.stdout
    now = await result(world, explain, decision.decision_id, other)
    assert "decided again by the present policy, which is another than then" in now.stdout
    assert "      no  role tester" in now.stdout
    output = json.loads((await result(world, explain, decision.decision_id, other, "--format", "json")).stdout)
    assert (output["decision"]["reason"], output["explanation"]["code"]) == ("over_limit", "model_forbidden")
    needs = written(tmp_path, POLICY.replace("limits: [user]", "headers: [x]"), "needs.yaml")
    assert "this was not recorded: headers" in (await result(world, explain, decision.decision_id, needs)).stdout


@pytest.mark.parametrize(
    "rate",
    [
        "rate: 5/day",
        "rate: 5/minute, algorithm: sliding_window",
        "rate: 5/minute, algorithm: calendar",
        "rate: 5/minute, algorithm: gcra, burst: 3",
    ],
)
async def test_a_call_over_its_limit_is_refused_by_that_limit_again(world: World, tmp_path: Path, rate: str) -> None:
    limits = f"limits: {{user: {{key: [user], {rate}}}, all: {{key: [route], rate: 100/hour}}}}"
    policy = written(
        tmp_path,
        POLICY.replace("limits: {user: {key: [user], rate: 2/minute}}", limits).replace(
            "limits: [user]}", "limits: [all, user]}"
        ),
    )
    decision = await decided(world, policy, "/v2/models/sentiment/infer", times=6)
    output = (await result(world, explain, decision.decision_id, policy)).stdout
    assert "refused: over_limit: the limit 'user' of 5 per" in output
    assert "  yes limit all: 100 per 3600 s" in output
    assert "  no  limit user: 5 per" in output


async def test_what_cannot_be_explained_is_one_sentence(world: World, policy: Path, tmp_path: Path) -> None:
    unknown = uuid4()
    with pytest.raises(TollgateError, match=f"there is no decision {unknown}"):
        await result(world, explain, unknown, policy)
    with pytest.raises(Unavailable, match="redis"):
        await result(world, explain, unknown, policy, redis_url=f"redis://127.0.0.1:{free_port()}/0")
    silent = written(tmp_path, POLICY + "explain: {keep: 0s}\n", "silent.yaml")
    decision = await decided(world, policy, "/v2/models/sentiment/infer")
    old = (await result(world, explain, decision.decision_id, silent)).stdout
    assert "  outcome   allowed\n" in old
    assert "  token     issued 20" in old
    assert old.endswith("\nnot decided again by the present policy: it is older than explain.keep of the policy\n")
    forgotten = await decided(world, silent, "/v2/models/sentiment/infer")
    output = (await result(world, explain, forgotten.decision_id, policy)).stdout
    assert "  caller    alice of https://id.example, client some-client\n" in output
    assert output.endswith(": this was not recorded: anything but the outcome\n")


async def test_the_ledger_in_postgres_is_replayed(world: World, policy: Path, tmp_path: Path) -> None:
    await decided(world, policy, "/v2/models/sentiment/infer", times=3)
    async with running(world.worker()):
        await until(world.drained)
    other = written(tmp_path, POLICY.replace("2/minute", "1/minute"), "other.yaml")
    diff = await result(world, policy_commands, "diff", policy, other, "--replay", "postgresql")
    assert diff.exit_code == 1
    assert ": 3 replayed, 1 would change" in diff.stdout
    assert "1  allowed -> over_limit" in diff.stdout
    none = await result(
        world, policy_commands, "diff", policy, other, "--replay", "postgresql", "--until", "2026-01-01T00:00:00Z"
    )
    assert (none.exit_code, "0 recorded decisions: 0 replayed, 0 would change" in none.stdout) == (0, True)


@pytest.mark.parametrize("kind", Kind)
async def test_a_revoked_call_shows_the_revocation_with_time_actor_and_reason(
    world: World, policy: Path, kind: Kind
) -> None:
    simulator, claims = alice(policy)
    bearer = simulator.callers.present({**claims, "sid": "sid-1", "azp": "shop", "jti": "jti-1"})
    request = Request("POST", "h.example", "/v2/models/sentiment/infer", authorization=(bearer,))
    simulator.counters.revoked = {kind}
    decision = await simulator.decide(request)
    ((event, outcome),) = simulator.counters.ledger
    await world.record_raw({"e": event, "o": int(outcome), "r": list(Kind).index(kind)})
    values = {"token": "jti-1", "session": "sid-1", "user": "alice", "client": "shop", "issuer": ""}
    for actor, reason in (("ops", "stolen"), ("bob", "again")):
        await world.sql(
            """INSERT INTO revocations (kind, issuer, value, actor, reason) VALUES (%s, 'kc', %s, %s, %s)
            ON CONFLICT (id) DO UPDATE SET actor = excluded.actor, reason = excluded.reason RETURNING 1""",
            kind.label,
            values[kind.label],
            actor,
            reason,
        )
    output = (await result(world, explain, decision.decision_id, policy)).stdout
    target = " ".join(filter(None, [kind.label, values[kind.label], values[kind.label] and "of", "kc"]))
    lines = [line for line in output.splitlines() if line.startswith("  revoked ")]
    assert [target in line for line in lines] == [True, True], output
    assert lines[0].endswith("by ops (as postgres in postgres): stolen")
    assert lines[1].endswith("by bob (as postgres in postgres): again")
    assert f"not revoked  (the {kind.label} is revoked)" in output
    assert "-   limits  (not evaluated)" in output
    assert "allow" not in output
