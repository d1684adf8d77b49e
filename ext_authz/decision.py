"""What a check receives and what it returns, and the id of every decision.

Frozen msgspec structs: as strict as dataclasses, several times cheaper to make.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct

from ext_authz.clock import Clock

ID_PLACEHOLDER = "00000000-0000-7000-8000-0000000d1c1d"
"""Stands in prepared bytes where a decision id will be put; as long as every id."""

_COUNTER_BITS = 48


class Reason(StrEnum):
    """Why. The only table from reason to HTTP and gRPC status is in `edge/refusals.py`."""

    ALLOWED = "allowed"
    BAD_REQUEST = "bad_request"
    """Malformed, ambiguous or non-canonical request."""
    NO_ROUTE = "no_route"
    """Nothing in the policy matches: start at deny."""
    METHOD_NOT_ALLOWED = "method_not_allowed"
    """The path is known, this method is not."""
    NO_CREDENTIAL = "no_credential"
    INVALID_REQUEST = "invalid_request"
    """The credential is presented in a way that RFC 6750 section 3.1 calls invalid_request."""
    INVALID_CREDENTIAL = "invalid_credential"
    REVOKED = "revoked"
    FORBIDDEN = "forbidden"
    OVER_LIMIT = "over_limit"
    UNAVAILABLE = "unavailable"
    """No verdict: a dependency did not answer."""
    INTERNAL = "internal"
    """A bug; logged with the decision id."""


class Request(Struct, frozen=True):
    """One HTTP or gRPC call, as Envoy reports it (AttributeContext.HttpRequest). Nothing is repaired."""

    method: str
    host: str
    path: str
    """`:path` up to the first `?`, exactly as Envoy forwards it."""
    query: str = ""
    """What follows the first `?`, without it."""
    authorization: tuple[str, ...] = ()
    """Every Authorization value, so that two are seen as two."""
    content_type: str = ""
    source: str = ""
    """Address of the TCP peer, not of X-Forwarded-For."""
    scheme: str = ""
    """`https` or `http`, as the caller used it to Envoy."""
    certificate: str = ""
    """With which the TCP peer authenticated to Envoy: URL-encoded PEM. Empty without, and where no token needs it."""
    models: tuple[str, ...] = ()
    """What a gRPC message names for certain, as Envoy read it; empty where it names nothing, or was not read."""
    versions: tuple[str, ...] = ()
    """Likewise."""
    headers: Mapping[str, str] = {}
    """By lower-case name, the values of a repeated one joined with commas. Holds credentials: never log it."""

    @property
    def is_grpc(self) -> bool:
        """Envoy's own test for a gRPC caller (`Grpc::Common::isGrpcRequestHeaders`)."""
        return self.content_type == "application/grpc" or self.content_type.startswith("application/grpc+")


class Quota(Struct, frozen=True):
    """One limit as the caller sees it after this check (draft-ietf-httpapi-ratelimit-headers)."""

    name: str
    limit: int
    """Requests per window."""
    window: int
    """Seconds."""
    remaining: int
    reset: int
    """Whole seconds until the quota is restored, rounded up."""


class Principal(Struct, frozen=True):
    """Who was recognised, as written to headers, logs and the ledger. Empty strings on public routes."""

    issuer: str = ""
    subject: str = ""
    client: str = ""
    roles: tuple[str, ...] = ()
    token_id: str = ""


ANONYMOUS = Principal()


class Allow(Struct, frozen=True):
    """Let it through, with identity headers that overwrite the caller's."""

    decision_id: str
    principal: Principal
    route: str
    model: str = ""
    quotas: tuple[Quota, ...] = ()
    degraded: str = ""
    """The dependency without which this was decided, as the failure policy allows; for operators only."""
    variant: str = ""
    """Which variant of the model this caller gets; empty where there is no experiment."""
    version: str = ""
    """Empty with a model: every version of it."""
    served: str = ""
    """The version of the model that answers, where that is known."""
    every_model: bool = False
    """The call may reach any model in any version: a stream names one per message."""
    upstream: str = ""
    """The application that serves it, in place of the model server: that of the policy, or `tollgate`, the console."""
    keeps_token: bool = False
    """The application gets the caller's token."""
    lasts: int = 600_000
    """Milliseconds after which it ends, whether it is over or not: it is decided on only once."""


class Answer(Struct, frozen=True):
    """Answered by Tollgate itself: an allowed request that no model gets."""

    decision_id: str
    principal: Principal
    route: str
    document: object
    """Becomes JSON."""
    quotas: tuple[Quota, ...] = ()
    degraded: str = ""
    """As in `Allow`."""
    model: str = ""


class Deny(Struct, frozen=True):
    """Refuse, with a reason that the caller may read."""

    decision_id: str
    reason: Reason
    code: str
    detail: str
    scope: str = ""
    principal: Principal = ANONYMOUS
    route: str = ""
    model: str = ""
    quotas: tuple[Quota, ...] = ()
    retry_after: int = 0
    """Seconds; 0 means no hint: OVER_LIMIT without one will be refused however long the caller waits."""
    degraded: str = ""
    """As in `Allow`."""
    revoked_by: str = ""
    """REVOKED only: token, session, user, client or issuer; for operators only."""
    nonce: str = ""
    """For the caller's next DPoP proof."""


Decision = Allow | Answer | Deny


def milliseconds(decision_id: str) -> int:
    """When it was minted, in milliseconds since the epoch: the time that the decision goes by."""
    return int(decision_id[:8] + decision_id[9:13], 16)


class DecisionIds:
    """Mints decision ids: UUIDs of version 7 (RFC 9562 section 5.7): the ledger's primary key grows at its right edge.

    One per process: time, 26 random bits of the process, and a counter with a random start. Never taken from the
    caller: `x-request-id` survives Envoy as the client sent it, and a forged one would merge two bills.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._middle = f"7{secrets.randbits(12):03x}-{0x8000 | secrets.randbits(14):04x}"
        self._counter = secrets.randbits(_COUNTER_BITS)

    def mint(self) -> str:
        """A new id in its 36 character form."""
        self._counter = (self._counter + 1) & ((1 << _COUNTER_BITS) - 1)
        time = f"{int(self._clock.now() * 1000):012x}"
        return f"{time[:8]}-{time[8:]}-{self._middle}-{self._counter:012x}"
