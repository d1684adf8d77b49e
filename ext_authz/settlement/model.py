"""The one question that goes to Redis per check, and its answer. `settle.lua` reads the same positions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from hashlib import sha256
from typing import Protocol

from msgspec import Struct

from ext_authz.policy.model import Failure
from ext_authz.revocation.entry import Kind

SEPARATOR = "\x1f"
"""Between the values of a counter's key: the verifier and the path grammar let no control character through."""


_LONGEST = 255
"""Characters of one value in a key; of a longer one a part, and a hash of all."""


def counter_key(limit: str, values: Iterable[str]) -> str:
    """`QuotaRequest.key` of a limit, by its name, for the values that it counts by."""
    return SEPARATOR.join((limit, *map(_short, values)))


def _short(value: str) -> str:
    if len(value) <= _LONGEST:
        return value
    digest = sha256(value.encode()).hexdigest()
    return f"{value[: _LONGEST - len(digest)]}{digest}"


class QuotaRequest(Struct, frozen=True, array_like=True):
    """Take `cost` from one counter; 0 reads it. `key`: the limit's name and the values it counts by, joined."""

    key: str
    algorithm: int
    limit: int
    window_ms: int
    """Of a calendar period its longest, which identifies the period; a month that begins on another day than the 1st
    has 1 ms more for each day between them."""
    burst: int
    cost: int = 1
    dry_run: bool = False
    """Never refuses: what does not fit is not taken, and `remaining` is -1."""

    def descriptor(self, parts: Sequence[str]) -> Mapping[str, str]:
        """What the counter counts by: the values of these parts, in their order."""
        return dict(zip(parts, self.key.split(SEPARATOR)[1:], strict=False))


FAIL_CLOSED = Failure()
NO_IDS = ("", "", "", "", "")
"""`SettleRequest.revocation` where nothing can be revoked, or another shard has checked."""


class SettleRequest(Struct, frozen=True, array_like=True):
    """One check: is it revoked, is there quota in every limit (all or nothing), and its ledger event."""

    revocation: tuple[str, str, str, str, str]
    """Ids for token, session, user, client, issuer, each prefixed with the issuer's name; "" where there is none."""
    issued_at: int
    """`iat` in whole seconds; user, client and issuer entries revoke what was issued at or before their time."""
    quota_requests: tuple[QuotaRequest, ...]
    event: bytes
    """The usage event, JSON; the script adds the outcome and Redis' time (the stream id). Empty: nothing to write."""
    failure: Failure = FAIL_CLOSED
    """What to do when Redis, or Postgres in its place, does not answer."""


class Outcome(IntEnum):
    """What the script found. It checks for a full ledger first, then completeness, revocation, limits."""

    OK = 0
    REVOKED = 1
    LIMITED = 2
    INCOMPLETE = 3
    """This Redis does not (yet) hold every revocation: the answer must come from Postgres."""
    LEDGER_FULL = 4
    """The ledger stream reached its bound: nothing may pass unrecorded."""
    DRY_RUN_OVER = 5
    """OK, and a dry-run limit would have refused. Only the ledger distinguishes the two: a `SettleResult` has OK."""


class SettleResult(Struct, frozen=True):
    """`remaining` and `reset_ms` stand in the order of the quota requests; both are empty when `outcome` is REVOKED.

    `reset_ms` is how long until the limit is whole again: the end of a window, GCRA's way back to a full burst; 0 for a
    limit of which nothing is taken. `remaining` is -1 for a dry-run limit that would have refused a check that passed.
    """

    outcome: Outcome
    limited_by: int = -1
    """Index into `SettleRequest.quota_requests` of the limit that refused (of several, the one that resets last)."""
    remaining: tuple[int, ...] = ()
    reset_ms: tuple[int, ...] = ()
    retry_after_ms: int = 0
    """How long until the limit that refused would take this cost, if nobody else takes any; 0: it never will, since
    the cost exceeds the limit itself (GCRA: the burst)."""
    at_ms: int = 0
    """Redis' time, where the answer is Redis'."""
    degraded: str = ""
    """The dependency without which this was settled, as the failure policy allows."""
    revoked_by: Kind | None = None
    """Which id is revoked (of several, the first) when `outcome` is REVOKED; for operators only."""

    @property
    def dry_run_over(self) -> tuple[int, ...]:
        """Indices into `SettleRequest.quota_requests` of the dry-run limits that would have refused."""
        return tuple(index for index, left in enumerate(self.remaining) if left < 0)

    @property
    def recorded(self) -> Outcome:
        """The outcome that is written to the ledger."""
        return Outcome.DRY_RUN_OVER if self.dry_run_over else self.outcome


RevokedInPostgres = Callable[[Sequence[SettleRequest]], Awaitable[Sequence[Kind | None]]]
"""By which of its ids each of these is revoked. Answers or raises Unavailable("postgres") within its own deadline."""


class Settlement(Protocol):
    """Redis in production, memory in unit tests; one behaviour suite runs over both."""

    async def settle(self, request: SettleRequest) -> SettleResult:
        """One round trip, shared with the concurrent checks.

        Raises:
            Unavailable: nobody answered in time ("redis"; "postgres" while Redis is incomplete; "ledger" when full),
                and `request.failure` does not let the check go on without, or not any more.
        """
        ...

    def record(self, event: bytes) -> None:
        """Queue the event of a refusal that needed no settlement; never waits, never raises, counts what it drops."""
        ...
