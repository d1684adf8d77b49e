"""One event of the ledger: who called what, and what was decided. One per decision that was answered.

The fields stand here only. An `Event` goes into the Redis stream as JSON; `StoredEvent` is its row in `usage_events`,
whose columns are `COLUMNS`; a test compares them with the migrations, and the stream's fields with `settle.lua`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Raw, Struct

from ext_authz.identity.identity import Claim, Identity, plain

MAX_PART = 1024
"""Bytes of one list, or of one claim, of a decision record in JSON."""
MAX_CLAIMS = 4096
"""Bytes of all its claims in JSON."""
MAX_NAME = 255
NO_RECORD = Raw()
USAGE_UNITS = "x-usage-units"
"""The header or trailer of an answer in which a model says how much it did."""
_HELD = ("roles", "scopes", "groups")
_RENAMED = {"record": "facts"}
"""Its name in the stream, in Postgres, and in exports."""


class EventFields(Struct, frozen=True, rename=_RENAMED):
    """What an event has from the authorizer to the bill."""

    decision_id: str
    """UUID (version 7) in its 36 character form, minted by the authorizer; the ledger has one event of each."""
    reason: str = "allowed"
    """`decision.Reason` value."""
    code: str = ""
    """Machine name of the cause of a refusal."""
    issuer: str = ""
    """`iss`."""
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
    """The dependency that was not available, if the failure mode allowed to decide without it."""


class Event(EventFields, frozen=True, omit_defaults=True):
    """As the authorizer writes it; the settlement may turn "allowed" into "revoked" or "over_limit", and adds the time
    (the id of the stream entry)."""

    revoked_by: str = ""
    """Token, session, user, client or issuer; only where Redis was not asked about revocations."""
    limited_by: str = ""
    """The counter that refused; only where Redis was not asked about limits."""
    username: str = ""
    """`preferred_username`, if the policy keeps it (`explain: {usernames: true}`)."""
    record: Raw = NO_RECORD
    """A `DecisionRecord` in JSON, or nothing. The usage worker does not parse it."""


class DecisionRecord(Struct, frozen=True, omit_defaults=True):
    """What a decision was based on, to explain it later or to replay it under another policy: about the request, the
    caller, and the limits.

    Never a credential: no header but the host, no query string, no token. Bounded: a list or a claim that is too long
    is left out, and named in `left_out`.
    """

    host: str = ""
    source: str = ""
    """Address of the TCP peer."""
    address: str = ""
    """Of the client, where the peer is a proxy of ours (`trusted_hops`), as limits count it; empty: it is `source`."""
    grpc: bool = False
    operation: str = ""
    """`policy.kserve.Kind`; empty for routes that are not KServe's."""
    audiences: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    claims: Mapping[str, Claim] = {}
    """The claims that the policy keeps."""
    actor: tuple[str, ...] = ()
    """Who acted for the subject (`act`), then on whose behalf that one did, and so on."""
    api_token: bool = False
    """It was an API token of our own: `session` is its grant."""
    models: tuple[str, ...] | None = None
    """The only ones that the token may be used for, names and patterns; None: it is not limited."""
    owner: Mapping[str, tuple[str, ...]] = {}
    """Roles, scopes and groups of the owner of an API token that has fewer of them."""
    issuer_name: str = ""
    """The name of the issuer in the policy."""
    session: str = ""
    """`sid`."""
    issued_at: int = 0
    expires_at: float = 0
    plan: str = ""
    variant: str = ""
    limits: tuple[str, ...] = ()
    """The counters of the request, in the order of the route's limits: name and values, joined with U+001F."""
    limited_by: str = ""
    """The counter that refused, if known."""
    revoked_by: str = ""
    """What was revoked: token, session, user, client or issuer."""
    left_out: tuple[str, ...] = ()
    """What was too long, or held a name that is: audiences, roles, scopes, groups, actor, models,
    owner.roles and the like, or claims.NAME."""


class StoredOutcome(Struct, frozen=True):
    """What became of an allowed call, as Postgres has it from Envoy's access log."""

    answered: str
    """The status: `504`, `grpc 14`, or `none` if the caller was gone before there was an answer."""
    status: int
    """Of HTTP, also where `grpc_status` says more."""
    grpc_status: int | None
    flags: str
    """Envoy's response flags, by name."""
    details: str
    """Envoy's response code details: `via_upstream`, or why it answered by itself."""
    duration_ms: float
    bytes_in: int
    bytes_out: int
    upstream: str
    """Envoy's cluster."""
    upstream_address: str
    attempts: int = 0
    """How often Envoy tried an upstream."""
    upstream_ms: float | None = None
    """Of the upstream; None: it was sent nothing."""
    units: int | None = None
    """What the model says that it did (`x-usage-units`)."""


class StoredEvent(EventFields, frozen=True, kw_only=True):
    """As Postgres has it."""

    username: str = ""
    """As in `Event`; emptied together with the record."""
    occurred_at: datetime
    """When Redis took it."""
    record: DecisionRecord | None
    """None: the policy keeps none (`explain: {keep: 0s}`), TOLLGATE_FACTS_KEEP is over, or an old version wrote it."""
    outcome: StoredOutcome | None = None
    """None: refused, or Envoy did not send its access log (yet)."""


COLUMNS = tuple(name for name in StoredEvent.__struct_encode_fields__ if name != "outcome")

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Event).decode
decode_outcome = msgspec.json.Decoder(StoredOutcome).decode
_decode_record = msgspec.json.Decoder(DecisionRecord).decode


def decode_record(raw: bytes | str | None) -> DecisionRecord | None:
    """None if there is none, or if it cannot be read."""
    try:
        return _decode_record(raw) if raw else None
    except msgspec.DecodeError:
        return None


def with_fields(encoded: bytes, **fields: str) -> bytes:
    """A JSON object, with these fields added or replaced; empty ones are not written."""
    for name, value in fields.items():
        if value and encoded.endswith(b"}"):
            comma = b"" if encoded == b"{}" else b","
            encoded = encoded[:-1] + comma + b'"%s":%s}' % (name.encode(), encode(value))
    return encoded


def cut(text: str) -> str:
    """To the longest name that is kept: the caller chooses the host."""
    return text[:MAX_NAME].replace("\0", "")


def about_caller(identity: Identity) -> dict[str, Any]:
    """The fields of a `DecisionRecord` that come from the token, within their bounds."""
    whole: dict[str, Collection[str]] = {"audiences": identity.audiences, "roles": sorted(identity.roles)}
    whole |= {"scopes": sorted(identity.scopes), "groups": sorted(identity.groups), "actor": identity.actor}
    if identity.models is not None:
        whole["models"] = identity.models.written
    lists = {name: plain(names) for name, names in whole.items()}
    short = {name: names for name, names in lists.items() if _is_short(names)}
    claims = _short_claims(identity.claims)
    cut_off = (name for name in whole if name not in short or len(short[name]) < len(whole[name]))
    left_out = [*cut_off, *(f"claims.{name}" for name in identity.claims.keys() - claims.keys())]
    times = {"issued_at": identity.issued_at, "expires_at": identity.expires_at}
    names: dict[str, Any] = {"issuer_name": identity.issuer_name, "session": identity.session}
    owner = about_caller(identity.owner) if identity.owner else {}
    left_out += [f"owner.{name}" for name in owner.get("left_out", ()) if name in _HELD]
    names |= {"api_token": bool(identity.grant), "owner": {name: owner[name] for name in _HELD if name in owner}}
    return {**short, "claims": claims, **names, **times, "left_out": tuple(sorted(left_out))}


def _short_claims(claims: Mapping[str, Claim]) -> dict[str, Claim]:
    short: dict[str, Claim] = {}
    for name, value in claims.items():
        if _is_short(value) and len(encode({**short, name: value})) <= MAX_CLAIMS:
            short[name] = value
    return short


def _is_short(value: object) -> bool:
    return len(encode(value)) <= MAX_PART
