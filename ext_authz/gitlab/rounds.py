"""Asks about every project of the policy, every so often, and whenever GitLab says that something happened.

A webhook says that something is not as it was, so what cannot be asked then gives no rights until it can.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from datetime import datetime
from functools import partial

from ext_authz.db.backoff import first
from ext_authz.db.postgres import Pool
from ext_authz.errors import Unavailable
from ext_authz.gitlab import store
from ext_authz.gitlab.api import NOTHING
from ext_authz.identity.project_rights import Project
from ext_authz.observability.once import OncePerCause

log = logging.getLogger(__name__)

RETRY = 5.0
"""Seconds after a round in which something could not be learned."""
_AT_ONCE = 8
"""Projects that are asked about."""
MOST_WAITING = 64
"""Webhooks that wait for a round."""

_ANOTHER = "it was project {} and is {} now: if that is right, delete its row in gitlab_projects"

Ask = Callable[[str], Awaitable[Project]]


class Rounds:
    """Of one GitLab. One at a time: whoever asks during one waits for the next, which all of them share."""

    def __init__(self, issuer: str, projects: Collection[str], ask: Ask, pool: Pool, *, period: float) -> None:
        """`issuer`: its name in the policy. `period`: seconds."""
        self._issuer, self._projects, self._ask, self._pool, self._period = issuer, sorted(projects), ask, pool, period
        self._waiting: list[asyncio.Future[bool]] = []
        self._wanted = asyncio.Event()
        self._some = asyncio.Semaphore(_AT_ONCE)
        self._trouble = OncePerCause(log, failing="gitlab: not asked", working="gitlab: asked again")

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`."""
        while not stop.is_set():
            waiting, self._waiting = self._waiting, []
            self._wanted.clear()
            learned = await self._round(told=bool(waiting))
            for each in waiting:
                if not each.done():
                    each.set_result(learned)
            await first(self._wanted.wait(), stop.wait(), seconds=self._period if learned else RETRY)

    async def complete(self) -> bool:
        """After a round that began after this call: whether everything was learned.

        Raises:
            Unavailable: too many wait already.
        """
        if len(self._waiting) >= MOST_WAITING:
            raise Unavailable("gitlab", "too many webhooks at a time")
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self._wanted.set()
        return await done

    async def _round(self, *, told: bool) -> bool:
        try:
            asked_at, numbers = await self._pool.run(partial(store.begun, issuer=self._issuer))
            asking = (self._learn(path, numbers.get(path), asked_at, told=told) for path in self._projects)
            causes = await asyncio.gather(*asking)
        except Unavailable as failure:
            self._trouble.failed(str(failure))
            return False
        except Exception:
            log.exception("gitlab: unexpected failure")
            return False
        if found := [cause for cause in causes if cause]:
            self._trouble.failed(found[0] if len(found) == 1 else f"{found[0]}, and {len(found) - 1} more")
            return False
        self._trouble.worked()
        return True

    async def _learn(self, path: str, number: int | None, asked_at: datetime, *, told: bool) -> str:
        """Why it was not learned; empty where it was. `number`: of the project that was at this path before. Whoever
        has a name in GitLab that somebody gave up has its paths too, and must not inherit rights."""
        async with self._some:
            try:
                project = await self._ask(path)
            except Unavailable as failure:
                if told:
                    await self._write(path, NOTHING, None)
                return failure.detail
            is_another = None not in (number, project.number) and number != project.number
            await self._write(path, NOTHING if is_another else project, asked_at)
        return f"{path}: {_ANOTHER.format(number, project.number)}" if is_another else ""

    async def _write(self, path: str, project: Project, asked_at: datetime | None) -> None:
        await self._pool.run(partial(store.write, issuer=self._issuer, path=path, project=project, asked_at=asked_at))
