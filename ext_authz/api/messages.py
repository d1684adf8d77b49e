"""Grants and revocations as messages of `tollgate.tokens.v1` and `tollgate.revocation.v1`, and back."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from msgspec import json

from ext_authz.gen.tollgate.revocation.v1 import revocation_pb2
from ext_authz.gen.tollgate.tokens.v1 import tokens_pb2
from ext_authz.revocation.entry import Entry, Kind, Target
from ext_authz.tokens.audit import AuditEntry
from ext_authz.tokens.model import Grant, NewGrant, NotDone, Owner, State, Why

_LONGEST_NAME = 255
_MOST_NAMES = 100
_LONGEST_TEXT = 1000
_OWNER_KINDS = {"user": tokens_pb2.OWNER_KIND_USER, "service": tokens_pb2.OWNER_KIND_SERVICE}
_STATES = {
    State.ACTIVE: tokens_pb2.GRANT_STATE_ACTIVE,
    State.EXPIRED: tokens_pb2.GRANT_STATE_EXPIRED,
    State.REVOKED: tokens_pb2.GRANT_STATE_REVOKED,
}
_KINDS = {kind: revocation_pb2.Kind.Value(f"KIND_{kind.name}") for kind in Kind}


def owner_message(owner: Owner) -> tokens_pb2.Owner:
    return tokens_pb2.Owner(
        issuer=owner.issuer,
        subject=owner.subject,
        kind=_OWNER_KINDS[owner.kind],
        group=owner.group,
        username=owner.username,
    )


def grant_message(grant: Grant) -> tokens_pb2.Grant:
    return tokens_pb2.Grant(
        id=str(grant.id),
        owner=owner_message(grant.owner),
        name=grant.name,
        scopes=grant.scopes,
        models=_names(grant.models),
        roles=_names(grant.roles),
        lifetime=duration(grant.lifetime),
        version=grant.version,
        created_at=timestamp(grant.created_at),
        expires_at=timestamp(grant.expires_at),
        revoked_at=timestamp(grant.revoked_at),
        last_used_at=timestamp(grant.last_used_at),
        last_used_from=grant.last_used_from,
        state=_STATES[grant.state],
        tokens=[
            tokens_pb2.Token(
                jti=token.jti,
                issued_at=timestamp(token.issued_at),
                expires_at=timestamp(token.expires_at),
                ends_at=timestamp(token.ends_at),
            )
            for token in grant.tokens
        ],
    )


def new_grant(request: tokens_pb2.CreateGrantRequest) -> NewGrant:
    if not request.HasField("lifetime"):
        raise NotDone(Why.INVALID, "lifetime: say how long the token is to live", "lifetime")
    return NewGrant(
        name=request.name,
        lifetime=lasting("lifetime", request.lifetime),
        scopes=bounded("scopes", request.scopes),
        models=bounded("models", request.models.names) if request.HasField("models") else None,
        roles=bounded("roles", request.roles.names) if request.HasField("roles") else None,
        service=request.service,
    )


def lasting(field: str, duration: Duration) -> timedelta:
    try:
        return duration.ToTimedelta()
    except (ValueError, OverflowError):
        raise NotDone(Why.INVALID, f"{field}: is no duration", field) from None


def ensure_plain(message: Message) -> None:
    """Every text in it, at any depth: bounded, and without control characters, which no store takes."""
    for field, value in message.ListFields():
        for each in value if field.is_repeated else (value,):
            if isinstance(each, Message):
                ensure_plain(each)
            elif isinstance(each, str) and (len(each) > _LONGEST_TEXT or not (each == "" or each.isprintable())):
                detail = f"{field.name}: at most {_LONGEST_TEXT} characters, all of them printable"
                raise NotDone(Why.INVALID, detail, field.name)


def bounded(field: str, names: Iterable[str]) -> tuple[str, ...]:
    """At most 100 names of at most 255 characters."""
    found = tuple(names)
    if len(found) > _MOST_NAMES or any(not 1 <= len(name) <= _LONGEST_NAME for name in found):
        raise NotDone(Why.INVALID, f"{field}: at most {_MOST_NAMES} names of 1 to {_LONGEST_NAME} characters", field)
    return found


def state_of(state: int) -> State | None:
    """None: every state. One that is unknown here is none: it would be a filter left out."""
    if state == tokens_pb2.GRANT_STATE_UNSPECIFIED:
        return None
    if found := next((each for each, value in _STATES.items() if value == state), None):
        return found
    raise NotDone(Why.INVALID, "state: there is no such state", "state")


def audit_message(entry: AuditEntry) -> tokens_pb2.AuditEntry:
    return tokens_pb2.AuditEntry(
        position=entry.position,
        at=timestamp(entry.at),
        actor=entry.actor,
        via=entry.via,
        address=entry.address,
        action=entry.action,
        object=entry.object,
        details=json.encode(entry.details).decode(),
        hash=entry.hash,
    )


def identifier(text: str) -> UUID:
    """The id of a grant."""
    try:
        return UUID(text)
    except ValueError:
        raise NotDone(Why.INVALID, "id: write the id of a grant, as of CreateGrant", "id") from None


def target_of(message: revocation_pb2.Target) -> Target:
    kind = kind_of(message.kind)
    if kind is None:
        raise NotDone(Why.INVALID, "target.kind: say what to revoke, such as KIND_TOKEN", "target.kind")
    if len(message.value) > _LONGEST_NAME:
        raise NotDone(Why.INVALID, f"target.value: at most {_LONGEST_NAME} characters", "target.value")
    return Target(kind, message.issuer, message.value)


def kind_of(kind: int) -> Kind | None:
    """None: every kind."""
    if kind == revocation_pb2.KIND_UNSPECIFIED:
        return None
    if found := next((each for each, value in _KINDS.items() if value == kind), None):
        return found
    raise NotDone(Why.INVALID, "kind: there is no such kind", "kind")


def revocation_message(entry: Entry) -> revocation_pb2.Revocation:
    return revocation_pb2.Revocation(
        target=revocation_pb2.Target(kind=_KINDS[entry.kind], issuer=entry.issuer, value=entry.value),
        not_before=timestamp(entry.not_before),
        expires_at=timestamp(entry.expires_at),
        reason=entry.reason,
        actor=entry.actor,
        created_at=timestamp(entry.created_at),
    )


def timestamp(at: datetime | None) -> Timestamp | None:
    if at is None:
        return None
    message = Timestamp()
    message.FromDatetime(at)
    return message


def duration(duration: timedelta) -> Duration:
    message = Duration()
    message.FromTimedelta(duration)
    return message


def _names(names: tuple[str, ...] | None) -> tokens_pb2.Names | None:
    return None if names is None else tokens_pb2.Names(names=names)
