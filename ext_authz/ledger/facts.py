"""What a decision went by, as the ledger keeps it for those who explain it later or try another policy on it.

Never a credential: no header but the host, no query string, no token. Bounded: a list or a claim that is long is left
out, and named.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from ext_authz.identity.identity import Claim, Identity, plain

MAX_PART = 1024
"""Bytes of one list, or of one claim, in JSON."""
MAX_CLAIMS = 4096
"""Bytes of all kept claims in JSON."""
MAX_NAME = 255


class Facts(Struct, frozen=True, omit_defaults=True):
    """About the request first, then about the caller, then about what was counted."""

    host: str = ""
    source: str = ""
    """Address of the TCP peer."""
    grpc: bool = False
    operation: str = ""
    """`policy.operation.Kind`; empty outside the KServe surface."""
    audiences: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    claims: Mapping[str, Claim] = {}
    """What the policy keeps of the token."""
    issuer_name: str = ""
    """The policy's short name of the issuer."""
    session: str = ""
    """`sid`."""
    username: str = ""
    """`preferred_username`."""
    issued_at: int = 0
    expires_at: float = 0
    plan: str = ""
    variant: str = ""
    limits: tuple[str, ...] = ()
    """The counters that were asked, in the order of the route: limit and values it counts by, joined with U+001F."""
    limited_by: str = ""
    """The counter that refused, where known."""
    revoked_by: str = ""
    """What was revoked: token, session, user, client or issuer."""
    left_out: tuple[str, ...] = ()
    """What was too long, or held a name that is: audiences, roles, scopes, groups or claims.NAME."""


encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Facts).decode


def decode(raw: bytes | str | None) -> Facts | None:
    """None where nothing was kept, or what was kept is no facts."""
    try:
        return _decode(raw) if raw else None
    except msgspec.DecodeError:
        return None


def cut(text: str) -> str:
    """To what a name may be long: a host is what the caller says."""
    return text[:MAX_NAME].replace("\0", "")


def counters(keys: Iterable[str]) -> tuple[str, ...]:
    """In the order of the route's limits."""
    return tuple(map(cut, keys))


def about_caller(identity: Identity) -> dict[str, Any]:
    """What the token said, as far as it is short."""
    whole: dict[str, Collection[str]] = {"audiences": identity.audiences, "roles": sorted(identity.roles)}
    whole |= {"scopes": sorted(identity.scopes), "groups": sorted(identity.groups)}
    lists = {name: plain(names) for name, names in whole.items()}
    short = {name: names for name, names in lists.items() if _is_short(names)}
    claims = _short_claims(identity.claims)
    cut_off = (name for name in whole if name not in short or len(short[name]) < len(whole[name]))
    left_out = [*cut_off, *(f"claims.{name}" for name in identity.claims.keys() - claims.keys())]
    times = {"issued_at": identity.issued_at, "expires_at": identity.expires_at}
    names = {"issuer_name": identity.issuer_name, "session": identity.session, "username": identity.username}
    return {**short, "claims": claims, **names, **times, "left_out": tuple(sorted(left_out))}


def _short_claims(claims: Mapping[str, Claim]) -> dict[str, Claim]:
    short: dict[str, Claim] = {}
    for name, value in claims.items():
        if _is_short(value) and len(encode({**short, name: value})) <= MAX_CLAIMS:
            short[name] = value
    return short


def _is_short(value: object) -> bool:
    return len(encode(value)) <= MAX_PART
