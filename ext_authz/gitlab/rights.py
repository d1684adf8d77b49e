"""Who is what in the projects that the policy names.

A webhook says that something is not as it was, so what cannot be asked then gives no rights until it can.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from datetime import datetime
from functools import partial

from ext_authz.db.postgres import Pool
from ext_authz.errors import Unavailable
from ext_authz.gitlab import store
from ext_authz.gitlab.api import NOTHING
from ext_authz.identity.project_rights import Project
from ext_authz.observability.once import OncePerCause

log = logging.getLogger(__name__)

_AT_ONCE = 8
"""Projects that are asked about."""
_ANOTHER = "it was project {} and is {} now: if that is right, delete its row in gitlab_projects"

Ask = Callable[[str], Awaitable[Project]]


class Rights:
    """Of one GitLab."""

    def __init__(self, issuer: str, projects: Collection[str], ask: Ask, pool: Pool) -> None:
        """`issuer`: its name in the policy."""
        self._issuer, self._projects, self._ask, self._pool = issuer, sorted(projects), ask, pool
        self._some = asyncio.Semaphore(_AT_ONCE)
        self._trouble = OncePerCause(log, failing="gitlab: not asked", working="gitlab: asked again")

    async def learn(self, *, told: bool) -> bool:
        """All of them; whether that was possible. `told`: a webhook said that something is not as it was."""
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
