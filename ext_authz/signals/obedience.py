"""A signal comes into force: in one transaction with its id, so that it is obeyed once, and its row in the audit log.
The revocations have rows of their own there.

The revocations are idempotent, because their times are those of the signal. A signal that came before is written again
where its sender repeats what it is not sure of, and where nobody confirmed it then: perhaps Redis did not answer, or
the process ended in between. Only what is known to be in force everywhere is refused as obeyed.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import LiteralString

from ext_authz.clock import Clock
from ext_authz.db.postgres import Connection
from ext_authz.decision import Reason
from ext_authz.errors import Denied, Unavailable
from ext_authz.revocation.entry import Entry, Kind, Origin, Target
from ext_authz.revocation.operations import Operations
from ext_authz.signals.messages import Signal
from ext_authz.signals.metrics import SIGNAL_LAG, SIGNALS
from ext_authz.tokens import audit
from ext_authz.tokens.model import Actor

log = logging.getLogger(__name__)

REPEATED = "signal_repeated"
"""Code of a refusal, in the log."""

_REMEMBER: LiteralString = """
WITH forgotten AS (DELETE FROM signals_seen WHERE expires_at < now())
INSERT INTO signals_seen (issuer, jti, expires_at) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING RETURNING true
"""
_CONFIRMED: LiteralString = "SELECT confirmed FROM signals_seen WHERE issuer = %s AND jti = %s"
_CONFIRM: LiteralString = "UPDATE signals_seen SET confirmed = true WHERE issuer = %s AND jti = %s"
# Who signs in to the console after the event keeps that session.
_BEFORE: LiteralString = "created_at < %(not_before)s + interval '1 second'"
_END_CONSOLE_SESSIONS: dict[Kind, LiteralString] = {
    Kind.SESSION: "DELETE FROM console_sessions WHERE issuer = %(issuer)s AND sid = %(value)s",
    Kind.USER: f"DELETE FROM console_sessions WHERE issuer = %(issuer)s AND subject = %(value)s AND {_BEFORE}",  # noqa: S608 - constants
    Kind.ISSUER: f"DELETE FROM console_sessions WHERE issuer = %(issuer)s AND {_BEFORE}",  # noqa: S608 - constants
}


class Obedience:
    """Revokes what signals ask for."""

    def __init__(self, operations: Operations, lifetime: timedelta, clock: Clock) -> None:
        """`lifetime`: of revocations: at least that of every token."""
        self._operations = operations
        self._lifetime = lifetime
        self._clock = clock

    async def obey(self, signal: Signal, *, address: str = "", repeats: bool = True) -> None:
        """What it asks for is in force on every replica when this returns.

        `address`: of whoever brought it. `repeats`: its sender repeats what was not confirmed.

        Raises:
            Denied: it was confirmed before, and its sender does not repeat what was: somebody else does.
            Unavailable: a store did not confirm it; where Postgres holds it, authorizers copy it to Redis later.
        """
        if not signal.targets:
            SIGNALS.labels(signal.kind, "ignored").inc()
            return
        try:
            first = await self._written(signal, address, repeats=repeats)
        except Unavailable:
            SIGNALS.labels(signal.kind, "failed").inc()
            raise
        lag = self._clock.now() - signal.at
        SIGNALS.labels(signal.kind, "obeyed" if first else "repeated").inc()
        if first:
            SIGNAL_LAG.labels(signal.kind).observe(lag)
        extra = {"kind": signal.kind, "issuer": signal.issuer, "subject": signal.subject, "seconds": round(lag, 3)}
        log.info("signal obeyed", extra={**extra, "count": len(signal.targets)})

    async def _written(self, signal: Signal, address: str, *, repeats: bool) -> bool:
        """Whether it is the first time."""
        first = False

        async def together(connection: Connection) -> None:
            nonlocal first
            first = await _remembered(connection, signal)
            if first:
                await _recorded(connection, signal, address)
            elif not repeats and await _confirmed(connection, signal):
                raise Denied(Reason.INVALID_CREDENTIAL, REPEATED, "this was received before, and is obeyed")

        origin = Origin("signal", address)
        (await self._operations.write(*self._entries(signal), together=together, origin=origin)).confirmed()
        await self._confirm(signal)
        return first

    async def _confirm(self, signal: Signal) -> None:
        """It is in force, whether or not that can be noted: without the note a repetition is obeyed again."""
        try:
            await self._operations.read(partial(_noted, signal=signal))
        except Unavailable as failure:
            log.warning("signal in force, which is not noted", extra={"kind": signal.kind, "error": failure.detail})

    def _entries(self, signal: Signal) -> list[Entry]:
        not_before = datetime.fromtimestamp(signal.not_before, UTC)
        expires_at = max(datetime.fromtimestamp(self._clock.now(), UTC), not_before) + self._lifetime
        why, who = f"signal: {signal.kind}", _name(signal)
        return [
            target.entry(not_before=not_before, expires_at=expires_at, reason=why, actor=who)
            for target in signal.targets
        ]


def _name(signal: Signal) -> str:
    return f"issuer {signal.issuer}"


async def _remembered(connection: Connection, signal: Signal) -> bool:
    """False where it was known. Of two transactions at the same time the second waits here for the first."""
    until = datetime.fromtimestamp(signal.forget_at, UTC)
    cursor = await connection.execute(_REMEMBER, (signal.issuer, signal.id, until))
    return await cursor.fetchone() is not None


async def _confirmed(connection: Connection, signal: Signal) -> bool:
    """By the process that obeyed it: every store held it then."""
    row = await (await connection.execute(_CONFIRMED, (signal.issuer, signal.id))).fetchone()
    return row is not None and bool(row[0])


async def _noted(connection: Connection, signal: Signal) -> None:
    await connection.execute(_CONFIRM, (signal.issuer, signal.id))


async def _recorded(connection: Connection, signal: Signal, address: str) -> None:
    actor = Actor(via="signal", name=_name(signal), issuer=signal.issuer, subject=signal.subject, address=address)
    not_before = datetime.fromtimestamp(signal.not_before, UTC)
    ended = sum([await _console_sessions_ended(connection, target, not_before) for target in signal.targets])
    revoked = [target.id for target in signal.targets]
    details = {"kind": signal.kind, "revoked": revoked, "not_before": not_before, "console_sessions": ended}
    await audit.record(connection, actor, "signal.obeyed", signal.id, details)


async def _console_sessions_ended(connection: Connection, target: Target, not_before: datetime) -> int:
    if target.kind not in _END_CONSOLE_SESSIONS:
        return 0
    values = {"issuer": target.issuer, "value": target.value, "not_before": not_before}
    return (await connection.execute(_END_CONSOLE_SESSIONS[target.kind], values)).rowcount
