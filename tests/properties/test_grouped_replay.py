"""A replay that decides once about equal calls reports what one reports that decides about each."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from ext_authz.errors import ConfigError
from ext_authz.ledger import parquet
from tests.parquet import exported
from tests.properties.test_replay import FAULTY, Event, diff, event
from tests.unit.policytool.command_line import DEMO, run

HOSTILE = ("'; DROP TABLE groups; --", '"', "$since", "{0}", "a\x00b"[:1], "\u2028\u202e", "%s", "\\N", "*?[a]", "é")
INFER = "operation: infer,"
CHANGES: dict[str, tuple[tuple[str, str], ...]] = {
    "none": (),
    "a right": (("sentiment: {roles: [infer]}", "sentiment: {roles: [tester]}"),),
    "a limit": (("3/minute", "2/minute"),),
    "a limit by token": (("key: [user], rate: 3", "key: [token], rate: 2"),),
    "a limit by path and client": (("key: [user], rate: 3", "key: [path, client], rate: 4"),),
    "a limit that slides": (("rate: 3/minute", "rate: 2/minute, algorithm: sliding_window"),),
    "a dry run": (("rate: 3/minute", "rate: 1/minute, dry_run: true"),),
    "another audience": (("audiences: [g]", "audiences: [h]"),),
    "another leeway": (("audiences: [g]", "audiences: [g], leeway: 9s"),),
    "a shorter life of tokens": (("audiences: [g]", "audiences: [g], max_token_age: 60s"),),
    "the time of day": ((INFER, f"{INFER} when: time.epoch % 2 == 0,"),),
    "a cost by the time": (("rate: 3/minute", "rate: 3/minute, cost: {cel: time.epoch % 3, max: 3}"),),
    "a claim": ((INFER, f"{INFER} when: identity.claims.tenant == 'a',"),),
    "what was not recorded": ((INFER, f"{INFER} when: \"request.query == ''\","),),
}


def calls(seed: int) -> list[Event]:
    """Of few callers and tokens, so that many are equal; some before a token was issued, some after it expired."""
    chance = random.Random(seed)
    return [_call(chance, number) for number in range(150)]


def _call(chance: random.Random, number: int) -> Event:
    second = chance.choice((*range(0, 130, 3), 0.25, 61))
    if chance.random() < 0.6:
        issued_at = 1_800_000_000 + chance.choice((0, 10))
        said = {"decision_id": f"01970000-0000-7000-8000-{number:012x}", "token_id": chance.choice(("t1", "t2", "t3"))}
        return event(second, "alice", {"issued_at": issued_at, "expires_at": issued_at + 40}, said)
    subject = chance.choice(("alice", "bob", chance.choice(HOSTILE)))
    token = chance.choice(("t1", "t2", "t3", "trltrt:x", "a token id", ""))
    issued_at = 1_800_000_000 + chance.choice((0, 0, 10, 70))
    facts: Event = {"issued_at": issued_at, "expires_at": issued_at + chance.choice((40, 40, 60.5, 300))}
    facts |= {"session": chance.choice(("", "s1", "s2", "\x7f")), "claims": {"tenant": chance.choice("ab")}}
    facts |= {"roles": chance.choice((["infer"], ["tester"])), "source": chance.choice(("10.0.0.1", "10.0.0.2"))}
    facts |= {"api_token": chance.random() < 0.1}
    said = {"decision_id": f"01970000-0000-7000-8000-{number:012x}", "token_id": token}
    said |= {"client": chance.choice(("web", chance.choice(HOSTILE)))}
    said |= {"reason": chance.choice(("allowed", "allowed", "over_limit", "revoked", "unavailable"))}
    if chance.random() < 0.2:
        said |= {"path": f"/v2/models/{chance.choice(HOSTILE)}/infer", "model": chance.choice(HOSTILE), "route": ""}
    return event(second, subject, facts, said)


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_the_calls(change: str, tmp_path: Path) -> None:
    result = diff(tmp_path, calls(len(change)), *CHANGES[change])
    assert result.exit_code != FAULTY
    assert "150 recorded decisions from " in result.output


def test_what_reads_the_time_is_decided_call_by_call(tmp_path: Path) -> None:
    result = diff(tmp_path, [event(second) for second in range(3)], *CHANGES["the time of day"])
    assert "3 replayed, 1 would change" in result.output


def test_a_directory_that_looks_like_a_pattern(tmp_path: Path) -> None:
    place = tmp_path / "a=1" / "*[x]?.'; --"
    place.mkdir(parents=True)
    (tmp_path / "link").symlink_to(exported([event()], place))
    for directory in (place, tmp_path / "link"):
        result = run("diff", DEMO / "policy.yaml", DEMO / "policy.yaml", "--replay", directory)
        assert "1 recorded decisions from 2027-01-15T08:00:00Z" in result.output


def test_no_decisions(tmp_path: Path) -> None:
    result = run("diff", DEMO / "policy.yaml", DEMO / "policy.yaml", "--replay", exported([], tmp_path / "ledger"))
    assert result.output.splitlines() == ["no difference", "0 recorded decisions: 0 replayed, 0 would change"]


def test_a_part_of_the_period(tmp_path: Path) -> None:
    ledger = exported([event(second) for second in range(10)], tmp_path / "ledger")
    period = ("--since", "2027-01-15T08:00:02Z", "--until", "2027-01-15T08:00:05Z")
    result = run("diff", DEMO / "policy.yaml", DEMO / "policy.yaml", "--replay", ledger, *period)
    assert "3 recorded decisions from 2027-01-15T08:00:02Z to 2027-01-15T08:00:04Z" in result.output


def _damaged(directory: Path) -> None:
    """As the manifest says, and yet what is between its ends is not Parquet."""
    (path,) = directory.glob("*.parquet")
    content = bytearray(path.read_bytes())
    content[4:60] = bytes(56)
    path.write_bytes(content)
    manifest = parquet._manifest(directory / parquet.MANIFEST)
    (directory / parquet.MANIFEST).unlink()
    files = [parquet.described(path, manifest.rows)]
    parquet.write_manifest(directory, parquet.Manifest(manifest.format, manifest.since, manifest.until, 1, files))


def _times(number: int) -> Event:
    return event(facts={"issued_at": number})


@pytest.mark.parametrize("spoil", [_damaged, None])
def test_what_cannot_be_replayed_is_one_sentence(spoil: Callable[[Path], None] | None, tmp_path: Path) -> None:
    ledger = exported([event() if spoil else _times(1 << 62)], tmp_path / "ledger")
    if spoil:
        spoil(ledger)
    with pytest.raises(ConfigError, match="--replay: the Parquet files cannot be replayed: ") as refused:
        run("diff", DEMO / "policy.yaml", DEMO / "policy.yaml", "--replay", ledger)
    assert "\n" not in json.dumps(str(refused.value))
