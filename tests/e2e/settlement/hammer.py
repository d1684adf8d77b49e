"""One authorizer's worth of checks, as a process: `python -m tests.e2e.settlement.hammer URL CHECKS LIMIT`.

Waits for an element in the list "go", settles all checks at once, prints how many passed.
"""

from __future__ import annotations

import asyncio
import sys

from ext_authz.settlement.model import Outcome
from tests.e2e.settlement.redis_world import RedisWorld
from tests.unit.settlement.world import HOUR, YEAR, calendar, gcra, settle, sliding, window


async def hammer(url: str, checks: int, limit: int) -> int:
    async with RedisWorld(url, ledger_max=1_000_000) as world:
        await world.client.blpop("go")
        quota_requests = (
            window(limit, window_ms=HOUR),
            gcra(1, burst=limit + 1, window_ms=HOUR),
            sliding(limit, window_ms=HOUR),
            calendar(limit + 1, YEAR),
        )
        answers = await asyncio.gather(*(settle(world, *quota_requests) for _ in range(checks)))
    return sum(answer.outcome is Outcome.OK for answer in answers)


if __name__ == "__main__":
    sys.stdout.write(str(asyncio.run(hammer(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))))
