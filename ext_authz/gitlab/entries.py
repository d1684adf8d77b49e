"""Which projects of a GitLab are in the catalogue, and who may see them: asked every so often, and after webhooks.

As with rights (`rights.py`): what cannot be asked about after a webhook is in no catalogue until it can.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime
from functools import partial

from ext_authz.db.postgres import Pool
from ext_authz.errors import Unavailable
from ext_authz.gitlab import entry_store
from ext_authz.gitlab.listed import Found, ListedProjects
from ext_authz.observability.once import OncePerCause

log = logging.getLogger(__name__)

_AT_ONCE = 4
"""Projects that are asked about."""


class Entries:
    """Of one GitLab."""

    def __init__(self, issuer: str, projects: ListedProjects, pool: Pool) -> None:
        """`issuer`: its name in the policy."""
        self._issuer, self._projects, self._pool = issuer, projects, pool
        self._some = asyncio.Semaphore(_AT_ONCE)
        self._trouble = OncePerCause(
            log, failing="catalogue: gitlab not asked", working="catalogue: gitlab asked again"
        )

    async def learn(self, *, told: bool) -> bool:
        """All of them; whether that was possible. `told`: a webhook said that something is not as it was."""
        try:
            cause = await self._learn(told=told)
        except Unavailable as failure:
            cause = str(failure)
        except Exception as bug:
            log.exception("catalogue: unexpected failure")
            cause = type(bug).__name__
        if cause:
            self._trouble.failed(cause)
        else:
            self._trouble.worked()
        return not cause

    async def _learn(self, *, told: bool) -> str:
        """Why something was not learned."""
        asked_at, commits = await self._pool.run(partial(entry_store.begun, issuer=self._issuer))
        try:
            found = await self._projects.all()
        except Unavailable as failure:
            if told:
                await self._keep([], asked_at)
            return failure.detail
        asking = (self._one(each, commits.get(each.id), asked_at) for each in found)
        causes = dict(zip((each.id for each in found), await asyncio.gather(*asking), strict=True))
        await self._keep([number for number, cause in causes.items() if not (cause and told)], asked_at)
        return next((cause for cause in causes.values() if cause), "")

    async def _one(self, found: Found, commit: str | None, asked_at: datetime) -> str:
        async with self._some:
            try:
                listed = await self._projects.listed(found, commit)
                write = partial(entry_store.write, issuer=self._issuer, listed=listed, asked_at=asked_at)
                await self._pool.run(write)
            except Unavailable as failure:
                return failure.detail or str(failure)
            except Exception:  # of one project, and of nobody else's
                log.exception("catalogue: a project cannot be kept", extra={"detail": found.path_with_namespace})
                return f"{found.path_with_namespace}: unexpected failure"
        return ""

    async def _keep(self, numbers: list[int], asked_at: datetime) -> None:
        keep = partial(entry_store.keep, issuer=self._issuer, numbers=numbers, asked_at=asked_at)
        await self._pool.run(keep)
