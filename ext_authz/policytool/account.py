"""The account of one decision: statements that hold or not, each with those that it rests on."""

from __future__ import annotations

from msgspec import Struct

NOT_ASKED = "not asked"
"""Of a phase that a call did not come to."""


class Statement(Struct, frozen=True, omit_defaults=True):
    """Something that was asked, and the answer."""

    what: str
    holds: bool | None = None
    """None: a fact, or a question that nobody came to ask."""
    note: str = ""
    parts: tuple[Statement, ...] = ()


class Account(Struct, frozen=True):
    """The whole; what `policy explain --format json` prints."""

    policy: str
    """Its hash."""
    request: str
    decision: str
    """allow or deny."""
    reason: str
    code: str
    detail: str
    phases: tuple[Statement, ...]
    status: int
    """HTTP; 0 where the model answers."""
    grpc: str
    headers: dict[str, str]
    """As in `answer.Told`."""
