"""One event of a published decision: CloudEvents 1.0 over Kafka, in binary mode (the attributes are headers).

The same state of a decision is always the same event, with the same id. What changes later is another event with a
greater `revision`; of the events of a decision, the one with the greatest counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

from ext_authz.ledger.billable import OUTCOMES

TYPE = "tollgate.decision.v1"
"""Fields may be added to it. One that changes its meaning makes a new type."""
_JSON = b"application/json"
_encode = msgspec.json.Encoder().encode


class Decision(Struct, frozen=True):
    """A decision of the ledger, with what became of the call and what it counts for on a bill."""

    decision_id: Annotated[UUID, Meta(description="UUID of version 7, minted by the authorizer")]
    revision: Annotated[
        int,
        Meta(ge=1, le=4, description="of the states that a decision was sent in; the greatest counts"),
    ]
    occurred_at: Annotated[datetime, Meta(tz=True, description="when the ledger took it")]
    issuer: Annotated[str, Meta(description="iss")]
    subject: Annotated[str, Meta(description="sub")]
    client: Annotated[
        str, Meta(description="azp, client_id or the name of an API token; empty: no credential was read")
    ]
    route: Annotated[str, Meta(description="name in the policy; empty: none matched")]
    model: str
    model_version: str
    reason: Annotated[str, Meta(description="allowed, or why not")]
    code: Annotated[str, Meta(description="machine name of the cause of a refusal")]
    degraded: Annotated[str, Meta(description="the dependency without which it was decided")]
    policy: Annotated[str, Meta(description="hash of the policy that decided")]
    outcome: Annotated[str, Meta(extra_json_schema={"enum": list(OUTCOMES)}, description="what became of the call")]
    billed: bool
    requests: Annotated[int, Meta(ge=0, le=1, description="1 where it is billed")]
    units: Annotated[int, Meta(ge=0, description="as the model says, else 1; 0 where it is not billed")]
    bytes_in: Annotated[int, Meta(ge=0, description="of the body of the request")]
    bytes_out: Annotated[int, Meta(ge=0, description="of the body of the answer")]
    seconds: Annotated[float, Meta(ge=0, description="of the upstream, in whole microseconds")]


class Message(Struct, frozen=True):
    """As Kafka takes it."""

    key: bytes | None
    """The client; None, which spreads messages over all partitions, where there is none."""
    value: bytes
    headers: list[tuple[str, bytes]]


def message(decision: Decision, source: str) -> Message:
    """`source`: of all events of this deployment; with the id it is unique.

    https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md#32-binary-content-mode
    """
    attributes = {
        "specversion": "1.0",
        "id": f"{decision.decision_id}.{decision.revision}",
        "source": source,
        "type": TYPE,
        "time": decision.occurred_at.isoformat(),
        "sequence": f"{decision.revision}",
    }
    headers = [(f"ce_{name}", value.encode()) for name, value in attributes.items()]
    key = decision.client.encode() or None
    return Message(key, _encode(decision), [*headers, ("content-type", _JSON)])


def schema() -> Mapping[str, Any]:
    """JSON Schema (2020-12) of the value. Readers must bear fields that they do not know."""
    reference = msgspec.json.schema(Decision)
    described: dict[str, Any] = reference["$defs"][Decision.__name__]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"urn:{TYPE}", **described}


def text() -> str:
    """The schema as it is published."""
    return json.dumps(schema(), indent=2) + "\n"
