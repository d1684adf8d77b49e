"""One line of the ledger: who called which model, and what was decided. One per answered decision."""

from __future__ import annotations

import msgspec
from msgspec import Raw, Struct

NO_FACTS = Raw()


class UsageEvent(Struct, frozen=True, omit_defaults=True):
    """Time comes from Redis (the stream id); the script may turn "allowed" into "revoked" or "over_limit"."""

    decision_id: str
    """UUID (version 7) in its 36 character form, minted by the authorizer; the idempotency key of the ledger."""
    reason: str = "allowed"
    """`decision.Reason` value."""
    code: str = ""
    """Machine name of the cause of a refusal."""
    issuer: str = ""
    subject: str = ""
    client: str = ""
    token_id: str = ""
    route: str = ""
    model: str = ""
    model_version: str = ""
    method: str = ""
    path: str = ""
    """Without the query string, at most 512 characters."""
    policy: str = ""
    """Hash of the policy that decided."""
    degraded: str = ""
    """The dependency without which this was decided, as the failure policy allows."""
    revoked_by: str = ""
    """What revoked it, where Redis was not asked about that: token, session, user, client or issuer."""
    limited_by: str = ""
    """The counter that refused it, where Redis was not asked."""
    facts: Raw = NO_FACTS
    """`facts.Facts` in JSON, or nothing. The usage worker hands them on without reading them."""


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(UsageEvent).decode
