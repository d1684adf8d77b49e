"""What operators select decisions by, and count them by. `--help` imports this: no store's library in here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import LiteralString
from uuid import UUID

from msgspec import Struct, structs

_CLOCKS_DIFFER = timedelta(hours=1)
_ANSWERED: LiteralString = "(SELECT answered FROM call_outcomes AS one WHERE one.decision_id = call.decision_id)"
_CONDITIONS: Mapping[str, LiteralString] = {
    "issuer": "issuer = %(issuer)s",
    "subject": "subject = %(subject)s",
    "client": "client = %(client)s",
    "model": "model = %(model)s",
    "route": "route = %(route)s",
    "code": "code = %(code)s",
    "reason": "CASE %(reason)s::text WHEN 'refused' THEN reason <> 'allowed' ELSE reason = %(reason)s END",
    "answered": f"""reason = 'allowed' AND CASE %(answered)s::text
        WHEN 'unknown' THEN {_ANSWERED} IS NULL
        WHEN 'ok' THEN {_ANSWERED} ~ '^([123]..|grpc 0)$'
        WHEN 'failed' THEN {_ANSWERED} !~ '^([123]..|grpc 0)$'
        ELSE {_ANSWERED} LIKE replace(%(answered)s, 'x', '_') END""",
}

GROUPS: Mapping[str, Mapping[str, LiteralString]] = {
    "user": {"issuer": "issuer", "subject": "subject"},
    "client": {"client": "client"},
    "model": {"model": "model"},
    "route": {"route": "route"},
    "answered": {"answered": f"coalesce({_ANSWERED}, '')"},
    "day": {"day": "to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD')"},
}
"""By what usage is counted: columns of the result."""
CODES = (
    *("algorithm_refused", "ambiguous_headers", "audience_mismatch", "body_compressed", "body_missing"),
    *(
        "certificate_mismatch",
        "certificate_missing",
        "claim_invalid",
        "claim_missing",
        "client_refused",
        "condition_false",
    ),
    *("credential_in_query", "credential_malformed", "credential_missing", "credential_repeated"),
    *("dry_run_over_limit", "header_missing", "header_refused", "host_not_canonical", "internal"),
    *("introspection_unavailable", "issuer_unknown", "jwks_unavailable", "key_not_owned", "key_unknown"),
    "ledger_unavailable",
    *("malformed_check", "method_not_allowed", "method_refused", "model_forbidden", "model_missing"),
    *("model_not_canonical", "not_http", "operation_unknown", "options"),
    *("over_budget", "over_limit", "overloaded", "owner_unknown"),
    *("path_not_canonical", "path_too_long", "permission_missing", "postgres_unavailable", "proof_algorithm"),
    *("proof_expired", "proof_key", "proof_malformed", "proof_mismatch", "proof_missing", "proof_nonce"),
    *("proof_repeated", "proof_replayed", "proof_signature", "protocol_mismatch", "query_not_understood"),
    *("redis_unavailable", "revoked", "role_missing", "route_unknown", "scheme_unsupported", "signature_invalid"),
    "subject_refused",
    *("token_bound", "token_expired", "token_inactive", "token_lightweight", "token_malformed"),
    *("token_not_yet_valid", "token_replayed", "token_too_large", "token_type", "token_unbound", "user_disabled"),
    "version_not_canonical",
)
"""Every code that a row can have, as in docs/errors.md; an allowed call has none, or `dry_run_over_limit`."""
ANSWERED = re.compile(r"ok|failed|unknown|none|[1-5](xx|[0-9]{2})|grpc [0-9]{1,2}", re.ASCII)
"""What became of a call: a group, or a status of HTTP or gRPC. "failed" is any but 1xx, 2xx, 3xx and gRPC's 0;
"unknown": no access log came."""
NOT_RECORDED = ("flood", "quota_reads")
"""Codes of refusals that are not in the ledger: whoever can cause any number of them must not be able to fill it."""


class Selection(Struct, frozen=True):
    """Which decisions: of a period, and those that agree in all that is not empty."""

    since: datetime
    until: datetime
    user: str = ""
    """The subject, or the name in any case."""
    client: str = ""
    model: str = ""
    route: str = ""
    reason: str = ""
    """`decision.Reason` value, or "refused" for all but "allowed"."""
    answered: str = ""
    """Of allowed calls: `ANSWERED`."""
    code: str = ""
    issuer: str = ""
    """`iss`."""
    subject: str = ""
    """`sub`, and nobody who has it as a name."""

    def values(self) -> dict[str, object]:
        """For the statements here."""
        ends = (self.since - _CLOCKS_DIFFER, self.until + _CLOCKS_DIFFER)
        first, last = (UUID(int=max(0, int(at.timestamp() * 1000)) << 80) for at in ends)
        return {**structs.asdict(self), "first_id": first, "last_id": last}

    def rows(self, period: LiteralString) -> LiteralString:
        """The statement for the rows; its index has the name in lower case."""
        given: list[LiteralString] = [condition for name, condition in _CONDITIONS.items() if getattr(self, name)]
        conditions: LiteralString = " AND ".join([period, *given])
        rows: LiteralString = f"SELECT * FROM usage_events AS call WHERE {conditions}"  # noqa: S608 - constants
        if not self.user:
            return rows
        named: LiteralString = "subject <> %(user)s AND username <> '' AND lower(username) = lower(%(user)s)"
        return f"{rows} AND subject <> '' AND subject = %(user)s UNION ALL {rows} AND {named}"
