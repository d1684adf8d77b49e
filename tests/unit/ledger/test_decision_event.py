"""An event of a decision: what it says of itself, and that the published schema is that of what is sent."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator, ValidationError
from msgspec.structs import replace

from ext_authz.ledger.billable import OUTCOMES
from ext_authz.ledger.decision_event import TYPE, Decision, message, schema, text
from ext_authz.ledger.publish_commands import ledger

PUBLISHED = Path(__file__).parents[3] / f"docs/{TYPE}.schema.json"
AT = datetime(2026, 11, 30, 10, 0, 0, 123456, UTC)
DECISION = Decision(
    decision_id=UUID("0198a1b2-0000-7000-8000-000000000001"),
    revision=2,
    occurred_at=AT,
    issuer="https://id.example/realms/ml",
    subject="5f8a",
    client="shop",
    route="infer",
    model="sentiment",
    model_version="2",
    reason="allowed",
    code="",
    degraded="",
    policy="9a",
    outcome="served",
    billed=True,
    requests=1,
    units=42,
    bytes_in=10,
    bytes_out=20,
    seconds=0.012345,
)


def validate(value: object) -> None:
    Draft202012Validator(json.loads(PUBLISHED.read_text())).validate(value)


def test_an_event_is_what_the_published_schema_says() -> None:
    sent = message(DECISION, "/tollgate")
    value = json.loads(sent.value)
    validate(value)
    assert (sent.key, value["seconds"], value["occurred_at"]) == (b"shop", 0.012345, "2026-11-30T10:00:00.123456Z")
    assert dict(sent.headers) == {
        "ce_specversion": b"1.0",
        "ce_id": b"0198a1b2-0000-7000-8000-000000000001.2",
        "ce_source": b"/tollgate",
        "ce_type": b"tollgate.decision.v1",
        "ce_time": b"2026-11-30T10:00:00.123456+00:00",
        "ce_sequence": b"2",
        "content-type": b"application/json",
    }


@pytest.mark.parametrize(
    "wrong",
    [{"outcome": "done"}, {"units": -1}, {"revision": 0}, {"requests": 2}, {"decision_id": None}, {"billed": "yes"}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_the_schema_refuses(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        validate(json.loads(message(DECISION, "/").value) | wrong)


def test_the_schema_wants_all_fields_and_bears_new_ones() -> None:
    value = json.loads(message(DECISION, "/").value)
    validate(value | {"new": 1})
    assert schema()["required"] == list(value)
    for name in OUTCOMES:
        validate(value | {"outcome": name})


def test_a_call_without_a_client_has_no_key() -> None:
    assert message(replace(DECISION, client=""), "/").key is None


def test_the_command_prints_what_is_published() -> None:
    assert CliRunner().invoke(ledger, ["schema"]).output == PUBLISHED.read_text() == text()
