"""Rounds over what is asked of GitLab: every so often, and whenever it says that something happened."""

from __future__ import annotations

import asyncio
from typing import Protocol

from ext_authz.db.backoff import first
from ext_authz.errors import Unavailable

RETRY = 5.0
"""Seconds after a round in which something could not be learned."""
MOST_WAITING = 64
"""Webhooks that wait for a round."""


class Learn(Protocol):
    """`Rights.learn`, `Entries.learn`."""

    async def __call__(self, *, told: bool) -> bool:
        """Whether everything was learned. `told`: by a webhook."""


class Rounds:
    """One at a time: whoever asks during one waits for the next, which all of them share."""

    def __init__(self, learn: Learn, *, period: float) -> None:
        """`period`: seconds."""
        self._learn, self._period = learn, period
        self._waiting: list[asyncio.Future[bool]] = []
        self._wanted = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`."""
        while not stop.is_set():
            waiting, self._waiting = self._waiting, []
            self._wanted.clear()
            learned = await self._learn(told=bool(waiting))
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
