"""What one caller can make others pay, in process: `python -m tests.benchmarks.bounds`.

A known caller's checks while strangers try paths that are new every time, against strangers who try one path again and
again (what runs in between costs processor cache either way); and the dearest conditions that a policy may hold, over
the largest tokens that are read.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from itertools import count
from statistics import median

from ext_authz.decision import Request
from ext_authz.policy.cel.expressions import Condition
from tests.properties.test_cel import DEAREST, HEAVY
from tests.unit.check.scenarios import ALL_WELL, post, world

_CHECKS, _RUNS = 2_000, 5
_TRIED = 4
"""Strange paths per check."""


def main() -> None:
    """Best of five runs each: the machine is shared."""
    same, new = (min(asyncio.run(_check_us(_strangers(most))) for _ in range(_RUNS)) for most in (1, 1 << 30))
    dearest = max(min(_condition_ms(text) for _ in range(_RUNS)) for text in DEAREST)
    sys.stdout.write(
        f"a check while strangers try one path, us | {same:.1f}\n"
        f"a check while strangers try ever new paths, us | {new:.1f} ({new / same:.2f} x)\n"
        f"the dearest condition, ms | {dearest:.1f}\n"
    )


async def _check_us(strangers: Iterator[Request]) -> float:
    """Microseconds of a known caller's check; what strangers cost themselves is not counted."""
    from ext_authz import check

    here, spent = world(ALL_WELL, check), list[float]()
    good = post()
    await here.decide(good)
    for _ in range(_CHECKS):
        for _ in range(_TRIED):
            await here.decide(next(strangers))
        started = time.perf_counter()
        await here.decide(good)
        spent.append(time.perf_counter() - started)
    return median(spent) * 1e6


def _strangers(most: int) -> Iterator[Request]:
    """Without a credential, on so many different paths."""
    for number in count():
        yield post(f"/v2/models/m{number % most}/infer", authorization=())


def _condition_ms(text: str) -> float:
    condition = Condition.compile(text)
    started = time.perf_counter()
    condition.evaluate(HEAVY)
    return (time.perf_counter() - started) * 1000


if __name__ == "__main__":
    main()
