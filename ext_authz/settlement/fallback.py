"""While Redis does not hold every revocation, Postgres is asked: one question for all checks that wait."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from ext_authz.revocation.entry import Kind
from ext_authz.settlement.model import SettleRequest

RevokedInPostgres = Callable[[Sequence[SettleRequest]], Awaitable[Sequence[Kind | None]]]
"""By which of its ids each of these is revoked. Answers or raises Unavailable("postgres") within its own deadline."""


class Fallback:
    """One question at a time; what comes meanwhile goes together with the next."""

    def __init__(self, revoked_in_postgres: RevokedInPostgres) -> None:
        self._revoked_in_postgres = revoked_in_postgres
        self._waiting: list[tuple[SettleRequest, asyncio.Future[Kind | None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def revoked_by(self, ask: SettleRequest) -> Kind | None:
        future: asyncio.Future[Kind | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((ask, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._answer_all(), name="revocations from Postgres")
        return await future

    async def stop(self) -> None:
        """Let the running question end; it is bounded by the deadline of who answers it."""
        if self._task:
            await self._task

    async def _answer_all(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            try:
                verdicts = await self._revoked_in_postgres([ask for ask, _ in waiting])
                answers = list(zip(waiting, verdicts, strict=True))
            except Exception as failure:  # noqa: BLE001 - every check that waits raises it
                for _, future in waiting:
                    if not future.done():
                        future.set_exception(failure)
                continue
            for (_, future), revoked in answers:
                if not future.done():
                    future.set_result(revoked)
