"""What is limited. How it is counted stands in `settlement/settle.lua`, the only place that counts."""

from __future__ import annotations

from enum import IntEnum
from typing import Literal

from msgspec import Struct

LimitKey = Literal["user", "client", "token", "path", "model"]
"""One part of what a limit counts by; `path` is the path without its query string."""


class Algorithm(IntEnum):
    """The numbers travel to the script."""

    FIXED_WINDOW = 0
    """A window opens with the first request and lasts `window`: `limit` requests in it."""
    GCRA = 1
    """Generic cell rate: one request per `window / limit`, and `burst` at once (ITU-T I.371)."""


class Limit(Struct, frozen=True):
    """One rule of the policy: `limit` per `window` for every distinct value of `key`."""

    name: str
    key: tuple[LimitKey, ...]
    limit: int
    window: int
    """Seconds."""
    algorithm: Algorithm = Algorithm.FIXED_WINDOW
    burst: int = 0
    """GCRA only: how many may come at once (at least 1)."""
