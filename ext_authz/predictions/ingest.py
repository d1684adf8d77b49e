"""Moves finished files of the models into Postgres, as the policy says, and deletes what is not kept longer.

Who called is what the ledger has under the decision of a line. A line without an allowed call of this model in the
ledger is not kept: somebody reached the model without passing the authorizer, or wrote into the directory. As the
ledger may come later, a file waits for it; meanwhile what is known of it is in Postgres already.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pydantic import SecretStr

from ext_authz.clock import Clock
from ext_authz.db.backoff import Backoff, pause
from ext_authz.db.postgres import Connection
from ext_authz.db.tables import connected
from ext_authz.errors import ConfigError, Unavailable
from ext_authz.ledger.metrics import PREDICTIONS_MOVED, PREDICTIONS_WAITING
from ext_authz.observability.once import OncePerCause
from ext_authz.policy.model import Policy
from ext_authz.policy.rights import Predictions
from ext_authz.predictions import postgres
from ext_authz.predictions.files import Finished, Line, finish_abandoned, finished, kept_inputs, lines_of

log = logging.getLogger(__name__)

PAUSE = 1.0
"""Seconds between two looks into the directory."""
WAIT = 600.0
"""Seconds that a file waits for its decisions, since it was first read: the ledger may be late."""
AGAIN = 5.0
"""Seconds until it is read again."""
READ_POLICY = 30.0
"""Seconds between two readings of the policy."""
FORGET = 60.0
BATCH = 500
KEPT_WITHOUT_POLICY = timedelta(days=30)
"""What was kept of a model before the policy said that nothing is to be kept of it."""


class _Waiting(NamedTuple):
    """A file with lines whose decision the ledger did not have."""

    since: float
    next: float


class Ingest:
    """One task of the usage worker."""

    def __init__(
        self, url: SecretStr, directory: Path, read_policy: Callable[[], Policy], key: bytes, clock: Clock
    ) -> None:
        """`read_policy` raises ConfigError. `key`: of hashed inputs.

        Raises:
            ConfigError: the policy is wrong, or it takes a key.
        """
        self._url = url
        self._directory = directory
        self._read_policy = read_policy
        self._key = key
        self._clock = clock
        self._policy = self._checked(read_policy())
        self._read_at = clock.monotonic()
        self._waiting: dict[Path, _Waiting] = {}
        self._outage = OncePerCause(log, failing="predictions: not moving", working="predictions: moving again")

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; files stay where they are while Postgres is away."""
        backoff = Backoff(stop)
        while not stop.is_set():
            try:
                async with connected(self._url, postgres.NEEDS) as connection:
                    await self._follow(connection, stop, backoff)
            except (Unavailable, OSError) as failure:  # TimeoutError is an OSError
                self._outage.failed(str(failure))
            await backoff.pause()

    async def _follow(self, connection: Connection, stop: asyncio.Event, backoff: Backoff) -> None:
        forgotten_at = float("-inf")
        while not stop.is_set():
            await self._renew_policy()
            await self.move(connection, stop)
            if self._clock.monotonic() - forgotten_at >= FORGET:
                await self.forget(connection, stop)
                forgotten_at = self._clock.monotonic()
            backoff.succeeded()
            self._outage.worked()
            await pause(stop, PAUSE)

    async def _renew_policy(self) -> None:
        if self._clock.monotonic() - self._read_at < READ_POLICY:
            return
        self._read_at = self._clock.monotonic()
        try:
            self._policy = self._checked(await asyncio.to_thread(self._read_policy))
        except ConfigError as wrong:
            log.error("predictions: the policy before stays in force", extra={"error": str(wrong)})  # noqa: TRY400

    def _checked(self, policy: Policy) -> Policy:
        hashed = [rule.name for rule in policy.models.all if rule.predictions and rule.predictions.inputs == "hashed"]
        if hashed and not self._key:
            raise ConfigError(
                f"TOLLGATE_PREDICTIONS_KEY is missing: the policy keeps hashed inputs of {hashed[0]}; set it to "
                "32 random bytes in Base64 (openssl rand -base64 32)"
            )
        return policy

    def _kept(self, model: str) -> Predictions | None:
        rule = self._policy.models.rule(model)
        return rule.predictions if rule else None

    async def move(self, connection: Connection, stop: asyncio.Event) -> None:
        """Every file that is finished, in the order of time."""
        finish_abandoned(self._directory)
        files = finished(self._directory)
        PREDICTIONS_WAITING.set(sum(file.rows for file in files))
        self._waiting = {file.path: self._waiting[file.path] for file in files if file.path in self._waiting}
        for file in files:
            waiting = self._waiting.get(file.path)
            if stop.is_set():
                return
            if waiting is None or waiting.next <= self._clock.monotonic():
                await self._take(connection, file)

    async def _take(self, connection: Connection, file: Finished) -> None:
        if (kept := self._kept(file.model)) is None:
            file.path.unlink(missing_ok=True)
            PREDICTIONS_MOVED.labels("not_kept").inc(file.rows)
            return
        try:
            lines = [*lines_of(file)]
        except FileNotFoundError:
            return
        except OSError as failure:  # the others are read all the same
            self._outage.failed(f"a file cannot be read: {failure.strerror}")
            return
        whole = [line for line in lines if line is not None]
        oldest = datetime.now(UTC) - timedelta(seconds=kept.keep)
        recent = [line for line in whole if line.when >= oldest]
        unknown = sum([await self._write(connection, batch, kept, file) for batch in _batches(recent)])
        if unknown and self._wait(file):
            return
        file.path.unlink(missing_ok=True)
        for result, rows in (("broken", len(lines) - len(whole)), ("expired", len(whole) - len(recent))):
            PREDICTIONS_MOVED.labels(result).inc(rows)
        PREDICTIONS_MOVED.labels("unknown").inc(unknown)

    def _wait(self, file: Finished) -> bool:
        """For the ledger; False: it has waited long enough."""
        now = self._clock.monotonic()
        since = self._waiting[file.path].since if file.path in self._waiting else now
        self._waiting[file.path] = _Waiting(since, now + AGAIN)
        return now - since < WAIT

    async def _write(self, connection: Connection, lines: Sequence[Line], kept: Predictions, file: Finished) -> int:
        """How many are of no decision that the ledger has."""
        found = await postgres.callers(connection, {line.decision_id for line in lines})
        rows = [
            postgres.Row(line, found[line.decision_id], *kept_inputs(line, kept, self._key))
            for line in lines
            if line.decision_id in found and found[line.decision_id].is_of(line.model)
        ]
        inserted, refused = await postgres.write(connection, rows) if rows else (0, 0)
        PREDICTIONS_MOVED.labels("inserted").inc(inserted)
        PREDICTIONS_MOVED.labels("broken").inc(refused)
        if file.path not in self._waiting:  # a file that waits is read again and again
            PREDICTIONS_MOVED.labels("left_out").inc(len(rows) - inserted - refused)
        return len(lines) - len(rows)

    async def forget(self, connection: Connection, stop: asyncio.Event) -> None:
        """What is not kept longer, and what an owner deleted and nobody finished; in small steps, until `stop`."""
        for deletion in await postgres.unfinished(connection):
            if await self._step(partial(postgres.delete_some, connection, deletion), stop):
                await postgres.mark_done(connection, deletion)
        for model in await postgres.models(connection):
            kept = self._kept(model)
            oldest = datetime.now(UTC) - (timedelta(seconds=kept.keep) if kept else KEPT_WITHOUT_POLICY)
            if await self._step(partial(postgres.forget_some, connection, model, oldest), stop):
                await postgres.forget_deletions(connection, model, oldest)

    async def _step(self, delete: Callable[[], Awaitable[int]], stop: asyncio.Event) -> bool:
        """Whether nothing is left."""
        while not stop.is_set():
            if await delete() < postgres.STEP:
                return True
        return False


def _batches(lines: Sequence[Line]) -> Iterator[Sequence[Line]]:
    return (lines[start : start + BATCH] for start in range(0, len(lines), BATCH))
