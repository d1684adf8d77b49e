from __future__ import annotations

import asyncio

from ext_authz.db import backoff
from ext_authz.db.backoff import LONGEST, Backoff


async def test_pauses_double_up_to_a_bound_and_a_success_starts_anew() -> None:
    stop = asyncio.Event()
    stop.set()
    waiting = Backoff(stop)
    pauses = []
    for _ in range(8):
        pauses.append(waiting._pause)
        await waiting.pause()
    assert pauses[:4] == [0.1, 0.2, 0.4, 0.8]
    assert pauses[-1] == LONGEST
    waiting.succeeded()
    assert waiting._pause == backoff.SHORTEST


async def test_a_stop_ends_the_longest_pause() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().call_soon(stop.set)
    await asyncio.wait_for(backoff.pause(stop, 60), 1)
