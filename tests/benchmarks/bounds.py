"""What one caller can cost others, in process: `python -m tests.benchmarks.bounds`.

The check of a known caller while unauthenticated callers request a new path each time, against the same while they
repeat one path (both evict the processor's caches); the most expensive conditions that a policy may hold, over the
largest tokens that are read; and a refusal by the flood guard against the signature check that it saves.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from statistics import median

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256

from ext_authz.decision import Request
from ext_authz.errors import Denied
from ext_authz.phases.flood_guard import FloodGuard
from ext_authz.policy.cel.expressions import Condition
from tests.properties.test_cel import HEAVY, MOST_EXPENSIVE
from tests.unit.check.scenarios import ALL_WELL, post, world

_CHECKS, _RUNS = 2_000, 5
_TRIED = 4
"""Unauthenticated requests per check."""
_REFUSALS = 300
_KEY = generate_private_key(65537, 2048).public_key()


def main() -> None:
    """Best of five runs each: the machine is shared."""
    same, new = (min(asyncio.run(_check_us(_unauthenticated(most))) for _ in range(_RUNS)) for most in (1, 1 << 30))
    most_expensive = max(min(_condition_ms(text) for _ in range(_RUNS)) for text in MOST_EXPENSIVE)
    sys.stdout.write(
        f"a check while unauthenticated callers repeat one path, us | {same:.1f}\n"
        f"a check while unauthenticated callers request new paths, us | {new:.1f} ({new / same:.2f} x)\n"
        f"the most expensive condition, ms | {most_expensive:.1f}\n"
        f"a refusal by the flood guard, us | {_best_us(_flood_refusal()):.1f}\n"
        f"an RS256 signature check, us | {_best_us(_signature_check):.1f}\n"
    )


async def _check_us(others: Iterator[Request]) -> float:
    """Microseconds of a known caller's check; the unauthenticated requests themselves are not counted."""
    from ext_authz import check

    here, spent = world(ALL_WELL, check), list[float]()
    good = post()
    await here.decide(good)
    for _ in range(_CHECKS):
        for _ in range(_TRIED):
            await here.decide(next(others))
        started = time.perf_counter()
        await here.decide(good)
        spent.append(time.perf_counter() - started)
    return median(spent) * 1e6


def _unauthenticated(most: int) -> Iterator[Request]:
    """Without a credential, on so many different paths."""
    for number in count():
        yield post(f"/v2/models/m{number % most}/infer", authorization=())


def _condition_ms(text: str) -> float:
    condition = Condition.compile(text)
    started = time.perf_counter()
    condition.evaluate(HEAVY)
    return (time.perf_counter() - started) * 1000


def _flood_refusal() -> Callable[[], None]:
    guard, now = FloodGuard(50, 1, 1), 1_795_179_600_000_000

    def refuse() -> None:
        with suppress(Denied):
            guard.check("203.0.113.9", now)

    guard.count("203.0.113.9", now)
    return refuse


def _signature_check() -> None:
    with suppress(InvalidSignature):
        _KEY.verify(bytes(_KEY.key_size // 8), b"header.payload", PKCS1v15(), SHA256())


def _best_us(what: Callable[[], None]) -> float:
    found = []
    for _ in range(_RUNS):
        started = time.perf_counter()
        for _ in range(_REFUSALS):
            what()
        found.append((time.perf_counter() - started) / _REFUSALS)
    return min(found) * 1e6


if __name__ == "__main__":
    main()
