"""What is limited. How it is counted stands in `settlement/settle.lua`, the only place that counts."""

from __future__ import annotations

from enum import IntEnum
from typing import Literal

from msgspec import Struct

LimitKey = str
"""One part of what a limit counts by: a `LimitPart`, or `claim:NAME` (a claim that the issuer's `keep` names)."""

LimitPart = Literal["user", "client", "token", "path", "model", "ip", "route"]
"""`path` is the path without its query string, `ip` the client's address behind the trusted hops."""


class Algorithm(IntEnum):
    """The numbers travel to the script."""

    FIXED_WINDOW = 0
    """A window opens with the first request and lasts `window`: `limit` requests in it."""
    GCRA = 1
    """Generic cell rate: one request per `window / limit`, and `burst` at once (ITU-T I.371)."""
    SLIDING_WINDOW = 2
    """`limit` requests in any `window` that ends now."""
    CALENDAR = 3
    """`limit` requests in each `period` of the calendar, in UTC."""


class Limit(Struct, frozen=True):
    """What one caller meets: `limit` per `window` for every distinct value of `key`."""

    name: str
    key: tuple[LimitKey, ...]
    limit: int
    window: int
    """Seconds; of a calendar period its longest (a month: 31 days)."""
    algorithm: Algorithm = Algorithm.FIXED_WINDOW
    burst: int = 0
    """GCRA only: how many may come at once (at least 1)."""
    period: str = ""
    """Calendar only: second, minute, hour, day, week (from Monday), month, year."""
