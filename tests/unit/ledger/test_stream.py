from __future__ import annotations

import re
from pathlib import Path
from uuid import UUID

import msgspec
import pytest
from msgspec import Raw

from ext_authz.ledger import stream
from ext_authz.ledger.event import COLUMNS, NO_RECORD, DecisionRecord, Event, EventFields, encode
from ext_authz.ledger.queries import stored_event
from ext_authz.ledger.stream import OUTCOMES, REVOKED, Reject, Row, StreamEntry, is_superseded, parse
from ext_authz.revocation.entry import Kind
from ext_authz.settlement.model import Outcome

ID = "0190a5b2-7c3d-7e4f-8a5b-6c7d8e9f0a1b"
EVENT = Event(
    decision_id=ID,
    issuer="iss",
    subject="sub",
    client="azp",
    token_id="jti",
    route="route",
    model="model",
    model_version="1",
    method="POST",
    path="/path",
    policy="hash",
    degraded="redis",
    record=Raw(b'{"host":"a"}'),
)
TIME = 1_790_000_000_123


def entry(raw: bytes, outcome: bytes = b"0") -> StreamEntry:
    return StreamEntry(f"{TIME}-7", {b"e": raw, b"o": outcome})


def row(raw: bytes, outcome: bytes = b"0") -> dict[str, object]:
    line = parse(entry(raw, outcome))
    assert isinstance(line, Row)
    return dict(zip(COLUMNS, line.cells, strict=True))


def test_every_field_finds_its_column_and_the_time_is_redis_own() -> None:
    fields = {name: value for name, value in msgspec.structs.asdict(EVENT).items() if name != "decision_id"}
    fields["facts"] = '{"host":"a"}'
    del fields["record"], fields["revoked_by"], fields["limited_by"]
    assert row(encode(EVENT)) == {"decision_id": UUID(ID), "occurred_at": TIME / 1000, **fields}


def test_an_event_of_an_older_version_has_neither_record_nor_mark() -> None:
    got = row(b'{"decision_id":"%s"}' % ID.encode())
    assert (got["degraded"], got["facts"]) == ("", None)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (b"user\x1fkc:alice", '{"host":"a","limited_by":"user\\u001fkc:alice"}'),
        (b"", '{"host":"a"}'),
        (b"\xff\0", '{"host":"a","limited_by":"\ufffd"}'),
    ],
)
def test_the_limit_that_refused_stands_in_the_record(said: bytes, kept: str) -> None:
    line = parse(StreamEntry("1-0", {b"e": encode(EVENT), b"o": b"2", b"l": said}))
    assert isinstance(line, Row)
    assert line.cells[COLUMNS.index("facts")] == kept
    without_redis = parse(entry(encode(msgspec.structs.replace(EVENT, limited_by=said.decode(errors="replace"))), b"2"))
    assert isinstance(without_redis, Row)
    assert without_redis.cells[COLUMNS.index("facts")] == kept


@pytest.mark.parametrize(("place", "kind"), list(enumerate(Kind)))
def test_what_was_revoked_stands_in_the_record(place: int, kind: Kind) -> None:
    by_redis = parse(StreamEntry("1-0", {b"e": encode(EVENT), b"o": b"1", b"r": b"%d" % place}))
    without_redis = parse(entry(encode(msgspec.structs.replace(EVENT, revoked_by=kind.label)), b"1"))
    for line in (by_redis, without_redis):
        assert isinstance(line, Row)
        assert line.cells[COLUMNS.index("facts")] == f'{{"host":"a","revoked_by":"{kind.label}"}}'


@pytest.mark.parametrize("raw", [NO_RECORD, Raw(b"{}")])
def test_an_empty_record_stays_json(raw: Raw) -> None:
    event = encode(msgspec.structs.replace(EVENT, record=raw))
    line = parse(StreamEntry("1-0", {b"e": event, b"o": b"1", b"r": b"2"}))
    assert isinstance(line, Row)
    assert line.cells[COLUMNS.index("facts")] == ('{"revoked_by":"user"}' if bytes(raw) else None)


@pytest.mark.parametrize(
    ("outcome", "reason", "code"),
    [
        (Outcome.OK, "allowed", ""),
        (Outcome.REVOKED, "revoked", "revoked"),
        (Outcome.LIMITED, "over_limit", "over_limit"),
        (Outcome.DRY_RUN_OVER, "allowed", "dry_run_over_limit"),
    ],
)
def test_what_the_settlement_found_overrides_an_allowed_event(outcome: Outcome, reason: str, code: str) -> None:
    got = row(encode(EVENT), str(int(outcome)).encode())
    assert (got["reason"], got["code"]) == (reason, code)


def test_a_refusal_keeps_its_reason() -> None:
    refusal = msgspec.structs.replace(EVENT, reason="forbidden", code="missing_role")
    assert (row(encode(refusal))["reason"], row(encode(refusal))["code"]) == ("forbidden", "missing_role")


@pytest.mark.parametrize(
    "broken",
    [
        entry(b""),
        entry(b"{"),
        entry(b"[]"),
        entry(b'{"reason":"allowed"}'),
        entry(b'{"decision_id":7}'),
        entry(b'{"decision_id":"not-a-uuid"}'),
        entry(b'{"decision_id":"\xff"}'),
        entry(encode(EVENT), b"3"),
        entry(encode(EVENT), b"x"),
        StreamEntry("1-0", {b"o": b"0"}),
        StreamEntry("1-0", {b"e": encode(EVENT)}),
    ],
)
def test_what_is_no_event_is_kept_as_it_came(broken: StreamEntry) -> None:
    reject = parse(broken)
    assert isinstance(reject, Reject)
    assert msgspec.msgpack.decode(reject.entry.raw) == broken.fields


def test_the_same_event_taken_twice_has_one_payload_and_another_event_has_not() -> None:
    first, later = parse(entry(encode(EVENT))), parse(StreamEntry("1-0", {b"e": encode(EVENT), b"o": b"0"}))
    other = parse(entry(encode(EVENT), b"2"))
    assert isinstance(first, Row)
    assert isinstance(later, Row)
    assert isinstance(other, Row)
    assert first.payload == later.payload != other.payload


@pytest.mark.parametrize(
    ("changes", "superseded"),
    [
        ({"reason": "unavailable", "code": "redis_unavailable"}, True),
        ({"reason": "internal", "code": "internal"}, True),
        ({"degraded": "redis", "reason": "over_limit", "code": "over_limit"}, True),
        ({"degraded": "redis"}, True),
        ({"degraded": "jwks"}, False),
        ({"reason": "over_limit", "code": "over_limit"}, False),
        ({}, False),
        *(({"reason": "unavailable", name: "another"}, False) for name in ("client", "path", "policy")),
    ],
)
def test_only_a_decision_that_was_not_answered_as_settled_supersedes(changes: dict[str, str], superseded: bool) -> None:  # noqa: FBT001 - a table
    with_redis = msgspec.structs.replace(EVENT, degraded="")
    settled = parse(entry(encode(with_redis)))
    later = parse(entry(encode(msgspec.structs.replace(with_redis, **changes))))
    assert isinstance(settled, Row)
    assert isinstance(later, Row)
    assert is_superseded(settled.payload, by=later.payload) is superseded
    assert not is_superseded(later.payload, by=settled.payload)
    assert not is_superseded(later.payload, by=later.payload)


def test_the_columns_are_those_of_the_table() -> None:
    made, *added = (
        (Path(__file__).parents[3] / f"ext_authz/db/migrations/{name}.sql").read_text().partition(";")[0]
        for name in ("0002_usage", "0003_facts", "0007_usernames")
    )
    columns = re.findall(r"^ {4}(\w+) ", made, re.MULTILINE) + re.findall(r"ADD COLUMN (\w+)", "".join(added))
    assert set(columns) == {*COLUMNS, "received_at"}


def test_a_budget_that_refused_has_its_own_code() -> None:
    for said, code in ((b"budget\x1fkc:shop", "over_budget"), (b"budgets\x1fkc:shop", "over_limit")):
        line = parse(StreamEntry("1-0", {b"e": encode(EVENT), b"o": b"2", b"l": said}))
        assert isinstance(line, Row)
        assert line.cells[1:3] == ("over_limit", code)


def test_the_trigger_that_notes_tokens_reads_fields_of_the_record() -> None:
    migration = (Path(__file__).parents[3] / "ext_authz/db/migrations/0007_usernames.sql").read_text()
    of_older_versions = {"username"}
    read = set(re.findall(r"facts->>'(\w+)'", migration))
    assert read == {"issuer_name", "session"} | of_older_versions
    assert read - of_older_versions <= set(DecisionRecord.__struct_fields__)


def test_the_fields_of_an_entry_are_those_that_the_script_writes() -> None:
    script = (Path(__file__).parents[3] / "ext_authz/settlement/settle.lua").read_text()
    added = re.findall(r'"XADD".*', script)
    fields = {field.encode() for entry in added for field in re.findall(r'"(\w)"', entry)}
    assert fields == {stream.EVENT, stream.OUTCOME, stream.LIMITED_BY, stream.REVOKED_BY}


def test_every_outcome_that_is_recorded_has_a_reason() -> None:
    recorded = set(Outcome) - {Outcome.INCOMPLETE, Outcome.LEDGER_FULL}
    assert {b"%d" % outcome for outcome in recorded} == set(OUTCOMES)
    assert {b"%d" % place: kind.label for place, kind in enumerate(Kind)} == REVOKED


def test_what_an_event_is_written_with_is_read_back() -> None:
    """Every field of the event reaches `StoredEvent`, which is all that readers of the ledger know."""
    line = parse(entry(encode(EVENT)))
    assert isinstance(line, Row)
    stored, written = stored_event(line.cells), msgspec.structs.asdict(EVENT)
    assert stored.record == DecisionRecord(host="a")
    assert all(getattr(stored, name) == written[name] for name in EventFields.__struct_fields__)
