"""Signals for tests, as Keycloak 26.7 writes them: logout tokens, admin actions, security events; and hostile ones.

Each takes changes to its claims, as `mint` of tests/tokens.py does; `ABSENT` leaves one out.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from ext_authz.signals.messages import LOGOUT_EVENT, SESSION_REVOKED
from tests.tokens import ALICE, ISSUER, RSA, TestKey, sign, to_json, without_absent

SID = "hvUQIQE-pNQUah7HEDxO7JDA"
CONSOLE = "tollgate-console"
STREAM = "f95098cb-eada-4f31-8316-7c9abcee10ed"
AUDIENCE = f"{CONSOLE}/{STREAM}"
USER = {"format": "iss_sub", "iss": ISSUER, "sub": ALICE}

Changes = Mapping[str, Any]


def signed(claims: Changes, typ: Any, *, key: TestKey = RSA, headers: Changes | None = None) -> str:  # noqa: ANN401
    """`typ`: of the header."""
    header = without_absent({"alg": key.algorithm, "typ": typ, "kid": key.key_id, **(headers or {})})
    return sign(to_json(header), to_json(without_absent(dict(claims))), key)


def logout_claims(now: float | None = None) -> dict[str, Any]:
    issued_at = int(time.time() if now is None else now)
    return {
        "exp": issued_at + 120,
        "iat": issued_at,
        "jti": str(uuid4()),
        "iss": ISSUER,
        "aud": CONSOLE,
        "sub": ALICE,
        "typ": "Logout",
        "sid": SID,
        "events": {LOGOUT_EVENT: {}},
    }


def logout_token(changes: Changes | None = None, *, now: float | None = None, **how: Any) -> str:  # noqa: ANN401
    return signed({**logout_claims(now), **(changes or {})}, how.pop("typ", "logout+jwt"), **how)


def action(name: str, changes: Changes | None = None, *, now: float | None = None, **how: Any) -> str:  # noqa: ANN401
    """LOGOUT or PUSH_NOT_BEFORE."""
    present = int(time.time() if now is None else now)
    claims = {
        "id": f"{uuid4()}-{present}000",
        "expiration": present + 30,
        "resource": "web-app",
        "action": name,
        "notBefore": present,
    }
    return signed({**claims, **(changes or {})}, how.pop("typ", "JWT"), **how)


def session_subject(sid: str = SID, user: Changes = USER) -> dict[str, Any]:
    return {"format": "complex", "user": user, "session": {"format": "opaque", "id": sid}}


def event_claims(uri: str = SESSION_REVOKED, now: float | None = None, **event: Any) -> dict[str, Any]:  # noqa: ANN401
    issued_at = int(time.time() if now is None else now)
    content = {
        "event_timestamp": issued_at,
        "initiating_entity": "user",
        "reason_admin": {"en": "User logout"},
        **event,
    }
    return {
        "jti": str(uuid4()),
        "iss": ISSUER,
        "iat": issued_at,
        "aud": AUDIENCE,
        "events": {uri: content},
        "sub_id": session_subject() if uri == SESSION_REVOKED else USER,
        "txn": str(uuid4()),
    }


def event(
    changes: Changes | None = None,
    uri: str = SESSION_REVOKED,
    *,
    now: float | None = None,
    content: Changes | None = None,
    **how: Any,  # noqa: ANN401
) -> str:
    """`content`: members of the event itself."""
    claims = {**event_claims(uri, now, **(content or {})), **(changes or {})}
    return signed(claims, how.pop("typ", "secevent+jwt"), **how)
