"""What a signed message asks for: logout tokens, actions of Keycloak's admin console, security events.

logout(message, ...)           OpenID Connect Back-Channel Logout 1.0, sections 2.4 and 2.6
admin_action(message, ...)     k_logout and k_push_not_before of Keycloak
security_event(message, ...)   RFC 8417 with the events of CAEP 1.0, RISC 1.0 and SSF 1.0

The signature is verified before (`identity/messages.py`). Presence first, then type, then value, as for access tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from msgspec import Struct

from ext_authz.identity.claim_values import if_time
from ext_authz.identity.identity import invalid, is_text
from ext_authz.identity.messages import Message
from ext_authz.revocation.entry import Kind, Target
from ext_authz.signals.metrics import UNKNOWN

LOGOUT_TYPES = frozenset({"logout+jwt", "application/logout+jwt", "jwt"})
"""Keycloak before 24 wrote `JWT`; then the claim `typ` tells it from an access token."""
ACTION_TYPES = frozenset({"jwt"})
EVENT_TYPES = frozenset({"secevent+jwt", "application/secevent+jwt"})
LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"
LOGOUT, PUSH_NOT_BEFORE = "LOGOUT", "PUSH_NOT_BEFORE"
"""Actions."""

FRESH = 120
"""Seconds that a logout token or an action is good for, and the leeway of its issuer."""
OLDEST = 30 * 86_400
"""Seconds: a security event may have waited for us, but not longer than the tokens that it is about can live."""
_ACTION_LIFE = 30
"""Seconds that Keycloak gives an action: it names no time of issue."""
_CLOCKS = 600
"""Seconds for which an id is remembered after it is no longer accepted: Postgres forgets it, by a clock of its own."""
_MOST_SESSIONS = 1000
_FARTHEST = 366 * 86_400

_CAEP = "https://schemas.openid.net/secevent/caep/event-type/"
_RISC = "https://schemas.openid.net/secevent/risc/event-type/"
_SSF = "https://schemas.openid.net/secevent/ssf/event-type/"
SESSION_REVOKED, CREDENTIAL_CHANGE = f"{_CAEP}session-revoked", f"{_CAEP}credential-change"
ACCOUNT_DISABLED, ACCOUNT_PURGED = f"{_RISC}account-disabled", f"{_RISC}account-purged"
CREDENTIAL_COMPROMISE = f"{_RISC}credential-compromise"
VERIFICATION, STREAM_UPDATED = f"{_SSF}verification", f"{_SSF}stream-updated"
REQUESTED = (SESSION_REVOKED, CREDENTIAL_CHANGE, ACCOUNT_DISABLED, ACCOUNT_PURGED, CREDENTIAL_COMPROMISE)
"""What a stream is asked to deliver."""
_OF_USER = (ACCOUNT_DISABLED, ACCOUNT_PURGED, CREDENTIAL_COMPROMISE)
_OF_STREAM = (VERIFICATION, STREAM_UPDATED)

Claims = Mapping[str, Any]


class Signal(Struct, frozen=True, kw_only=True):
    """What one message asks for. Obeying it twice does not revoke more: its times are its own."""

    kind: str
    """One of `metrics.KINDS`."""
    issuer: str
    """Its name in the policy."""
    id: str
    at: float
    """When it was issued, seconds since the epoch."""
    forget_at: float
    """When its id need not be remembered any more."""
    targets: tuple[Target, ...] = ()
    """What is to be revoked, each once; empty: nothing."""
    not_before: float = 0
    """Of users, clients and issuers: their tokens that were issued up to then."""
    subject: str = ""


def logout(message: Message, clients: Collection[str], now: float) -> Signal:
    """A logout token for one of these clients.

    Raises:
        Denied: with the first rule of section 2.6 that it breaks.
    """
    claims, issuer = message.claims, message.issuer
    if claims.get("typ", "Logout" if message.type != "jwt" else "") != "Logout":
        raise invalid("token_type", "this is not a logout token: its claim typ must be Logout")
    if "nonce" in claims:
        raise invalid("claim_invalid", "a logout token must not have a nonce: this may be an ID token")
    if not isinstance(_object(claims, "events").get(LOGOUT_EVENT), dict):
        raise invalid("claim_invalid", f"the claim events must hold {LOGOUT_EVENT} with an object")
    issued_at = _issued(claims, issuer.leeway, now, FRESH)
    if now >= _time(claims, "exp") + issuer.leeway:
        raise invalid("token_expired", "the logout token has expired")
    _ensure_for(claims, clients)
    sid, sub = (_text(claims, name) if name in claims else "" for name in ("sid", "sub"))
    if not (sid or sub):
        raise invalid("claim_missing", "the logout token has neither sid nor sub")
    target = Target(Kind.SESSION, issuer.name, sid) if sid else Target(Kind.USER, issuer.name, sub)
    return Signal(
        kind="logout",
        issuer=issuer.name,
        id=_text(claims, "jti"),
        at=issued_at,
        forget_at=issued_at + FRESH + issuer.leeway + _CLOCKS,
        targets=(target,),
        not_before=issued_at,
        subject=sub,
    )


def admin_action(message: Message, wanted: str, clients: Collection[str], console: str, now: float) -> Signal:
    """An action about one of these clients. What is about the client `console` is about the whole realm: Keycloak tells
    every client with an admin URL of a realm's not-before, and does not say that it is the realm's.

    Raises:
        Denied: with the first thing that is wrong.
    """
    claims, issuer = message.claims, message.issuer
    if claims.get("action") != wanted or "typ" in claims:
        raise invalid("token_type", f"this is not an admin action {wanted}")
    expires_at = _time(claims, "expiration")
    if not now - issuer.leeway < expires_at <= now + FRESH + issuer.leeway:
        raise invalid("token_expired", f"the action has expired, or its expiration is more than {FRESH} s away")
    client = _text(claims, "resource")
    if client not in clients:
        raise invalid("audience_mismatch", "resource is none of the clients whose signals are accepted here")
    sessions = _sessions(claims) if wanted == LOGOUT else []
    not_before = _not_before(claims, expires_at - _ACTION_LIFE if wanted == LOGOUT else 0, now)
    wide = Target(Kind.ISSUER, issuer.name) if client == console else Target(Kind.CLIENT, issuer.name, client)
    return Signal(
        kind="k_logout" if wanted == LOGOUT else "k_push_not_before",
        issuer=issuer.name,
        id=_text(claims, "id"),
        at=expires_at - _ACTION_LIFE,
        forget_at=expires_at + issuer.leeway + _CLOCKS,
        targets=tuple(Target(Kind.SESSION, issuer.name, each) for each in sessions) or ((wide,) if not_before else ()),
        not_before=not_before,
    )


def security_event(message: Message, audiences: Collection[str], now: float) -> Signal:
    """A security event for one of these audiences. Events that nothing follows from have no targets.

    Raises:
        Denied: with the first thing that is wrong.
    """
    claims, issuer = message.claims, message.issuer
    for name in ("sub", "exp"):
        if name in claims:
            raise invalid("claim_invalid", f"a security event must not have the claim {name}: this may be a token")
    events = _object(claims, "events")
    if not events or not all(isinstance(event, dict) for event in events.values()):
        raise invalid("claim_invalid", "the claim events must hold an event with an object")
    issued_at = _issued(claims, issuer.leeway, now, OLDEST)
    _ensure_for(claims, audiences)
    # Several should be names of the same event (RFC 8417 section 2.2); what any of them asks for is done.
    known = [uri for uri in (*REQUESTED, *_OF_STREAM) if uri in events]
    asked = [_asked(uri, events[uri], claims, issuer.name, issuer.issuer) for uri in known]
    return Signal(
        kind=asked[0][0] if asked else UNKNOWN,
        issuer=issuer.name,
        id=_text(claims, "jti"),
        at=issued_at,
        forget_at=issued_at + OLDEST + issuer.leeway + _CLOCKS,
        targets=tuple(dict.fromkeys(target for _, target in asked if target)),
        not_before=issued_at,
    )


def _asked(uri: str, event: Claims, claims: Claims, issuer: str, iss: str) -> tuple[str, Target | None]:
    """The kind of signal, and what it revokes."""
    kind = uri.rpartition("/")[2].replace("-", "_")
    if uri in _OF_STREAM:
        return kind, None
    subject = _object(claims, "sub_id")
    if uri == SESSION_REVOKED:
        return kind, _session(subject, issuer) or _user(subject, issuer, iss)
    if uri in _OF_USER or _takes_access(event):
        return kind, _user(subject, issuer, iss)
    return kind, None


def _takes_access(event: Claims) -> bool:
    """Whoever knows the old password, or has the lost key, may be signed in. Keycloak says `update` of a second factor
    that was added, which makes nobody's sign-in doubtful."""
    change = _text(event, "change_type")
    return change in ("revoke", "delete") or (change == "update" and event.get("credential_type") == "password")


def _session(subject: Claims, issuer: str) -> Target | None:
    """None where it is every session of the user: Keycloak's `ALL`, or a subject without one (CAEP 1.0 section 3.1)."""
    if subject.get("format") != "complex" or "session" not in subject:
        return None
    session = _object(subject, "session")
    if session.get("format") != "opaque":
        raise invalid("claim_invalid", "the session of sub_id must have the format opaque")
    sid = _text(session, "id")
    return None if sid == "ALL" else Target(Kind.SESSION, issuer, sid)


def _user(subject: Claims, issuer: str, iss: str) -> Target:
    user = _object(subject, "user") if subject.get("format") == "complex" else subject
    if user.get("format") != "iss_sub":
        raise invalid("claim_invalid", "the user of sub_id must have the format iss_sub: set it for the stream")
    if user.get("iss") != iss:
        raise invalid("issuer_unknown", "the user of sub_id belongs to another issuer than the one that says so")
    return Target(Kind.USER, issuer, _text(user, "sub"))


def _sessions(claims: Claims) -> list[str]:
    """Each once. Those of adapters are unknown here: an action that names only those cannot be obeyed."""
    names = claims.get("keycloakSessionIds") or []
    if not isinstance(names, list) or not all(isinstance(name, str) and is_text(name) for name in names):
        raise invalid("claim_invalid", "keycloakSessionIds must be an array of texts")
    if len(names) > _MOST_SESSIONS or (claims.get("adapterSessionIds") and not names):
        raise invalid("claim_invalid", f"keycloakSessionIds must name the sessions, at most {_MOST_SESSIONS}")
    return sorted(set(names))


def _not_before(claims: Claims, default: float, now: float) -> float:
    """0 lifts nothing: somebody cleared it in Keycloak, and what was revoked stays revoked."""
    time = _time(claims, "notBefore") if "notBefore" in claims else 0
    if time > now + _FARTHEST:
        raise invalid("claim_invalid", "notBefore is more than a year away")
    return time or default


def _issued(claims: Claims, leeway: int, now: float, oldest: int) -> float:
    issued_at = _time(claims, "iat")
    if issued_at > now + leeway:
        raise invalid("token_not_yet_valid", "the message was issued in the future: compare the clocks")
    if issued_at < now - oldest - leeway:
        raise invalid("token_expired", f"the message was issued more than {oldest} s ago")
    return issued_at


def _ensure_for(claims: Claims, accepted: Collection[str]) -> None:
    """A string or an array of strings (RFC 7519 section 4.1.3)."""
    audience = _required(claims, "aud")
    names = audience if isinstance(audience, list) else [audience]
    if not names or not all(isinstance(name, str) for name in names):
        raise invalid("claim_invalid", "the claim aud must be a string or an array of strings")
    if not any(name in accepted for name in names):
        raise invalid("audience_mismatch", "aud names none of the clients whose signals are accepted here")


def _required(claims: Claims, name: str) -> object:
    if claims.get(name) is None:
        raise invalid("claim_missing", f"the message has no {name}")
    return claims[name]


def _object(claims: Claims, name: str) -> dict[str, Any]:
    value = _required(claims, name)
    if not isinstance(value, dict):
        raise invalid("claim_invalid", f"{name} must be an object")
    return value


def _text(claims: Claims, name: str) -> str:
    value = _required(claims, name)
    if not isinstance(value, str) or not is_text(value):
        raise invalid("claim_invalid", f"{name} must be 1 to 255 printable characters")
    return value


def _time(claims: Claims, name: str) -> float:
    time = if_time(_required(claims, name))
    if time is None:
        raise invalid("claim_invalid", f"{name} is not a time in seconds")
    return time
