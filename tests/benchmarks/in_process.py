"""The check alone: no server, the loop on one core, a real Redis on the other. `python -m tests.benchmarks.in_process`

Rows: alone, and with 16 and 128 at a time: microseconds a check by the clock, of our processor, and of Redis'.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import psutil
import uvloop
from redis import Redis

from ext_authz.check import Check
from ext_authz.clock import SystemClock
from ext_authz.db import redis_keys
from ext_authz.decision import DecisionIds
from ext_authz.edge.authorizer import Authorizer
from ext_authz.edge.response import Responder
from ext_authz.identity.authenticator import TokenAuthenticator
from ext_authz.policy.load import load_policy
from ext_authz.revocation.entry import Kind
from ext_authz.settlement.model import SettleRequest
from ext_authz.settlement.redis import RedisSettlement
from tests import tokens
from tests.benchmarks.world import POLICY, REST_CORE, SERVER_CORE, messages, process_of
from tests.fakes import FakeJwks
from tests.services import RedisServer, running_redis
from tests.unit.settlement.world import Knowledge

AT_A_TIME = (1, 16, 128)
_SECONDS = 2.0
_RUNS = 3


def main() -> None:
    """The median of three runs each."""
    with tempfile.TemporaryDirectory() as directory:
        os.sched_setaffinity(0, {REST_CORE})
        with running_redis(Path(directory)) as redis:
            os.sched_setaffinity(0, {SERVER_CORE})
            uvloop.run(_measure(Path(directory), redis))


async def _measure(directory: Path, redis: RedisServer) -> None:
    policy_file = directory / "policy.yaml"
    policy_file.write_text(POLICY.format(issuer=tokens.ISSUER, port=1))
    policy, clock = load_policy(policy_file, {}), SystemClock()
    authenticator = TokenAuthenticator(policy.issuers, fetch=FakeJwks(tokens.RSA), clock=clock, cache_size=100)
    settlement = RedisSettlement(
        redis.url, timeout=5, ledger_max=10**9, revoked_in_postgres=_nobody, known=Knowledge(), clock=clock
    )
    await authenticator.start()
    await settlement.start()
    with Redis.from_url(redis.url) as client:
        client.set(redis_keys.complete(), client.info("server")["run_id"])
    check = Check(policy, authenticator, settlement, DecisionIds(clock))
    authorizer = Authorizer(check, Responder(policy.realm, policy.responses, policy.hash))
    message = messages()["good"]
    sys.stdout.write("at a time | us/check | CPU us/check | Redis us/check\n---|---|---|---\n")
    for number in AT_A_TIME:
        runs = sorted([await _run(authorizer.check, message, number, process_of(redis)) for _ in range(_RUNS)])
        sys.stdout.write("{} | {:.1f} | {:.1f} | {:.1f}\n".format(number, *runs[_RUNS // 2]))
    await settlement.stop()
    await authenticator.stop()


async def _run(
    check: Callable[[bytes], Awaitable[bytes]], message: bytes, number: int, redis: psutil.Process
) -> tuple[float, float, float]:
    until, done = time.perf_counter() + _SECONDS, 0

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() < until:
            await check(message)
            done += 1

    started, own, before = time.perf_counter(), time.process_time(), redis.cpu_times()
    await asyncio.gather(*(caller() for _ in range(number)))
    after = redis.cpu_times()
    spent = after.user + after.system - before.user - before.system
    seconds = (time.perf_counter() - started, time.process_time() - own, spent)
    return tuple(each / done * 1e6 for each in seconds)  # type: ignore[return-value]


async def _nobody(asks: Sequence[SettleRequest]) -> Sequence[Kind | None]:
    return [None for _ in asks]


if __name__ == "__main__":
    main()
