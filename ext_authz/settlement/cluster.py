"""Redis Cluster: a check whose limits live in several shards, and a slot on its way from one node to another.

**Several shards.** No script can see them all. The limits elsewhere are taken first, in one round trip to all of them;
then the user's home shard settles: revocation, the limits that live there, the event. If any part refuses, what the
others took is given back. So no limit is ever exceeded; a part that gets no answer, or a caller that goes away in
between, can leave a limit short by what it took.

**Migration** (CLUSTER SETSLOT, MIGRATE) moves a slot key by key. The source answers ASK to every call: the only key
that the script declares, the hash tag, never exists. All others are left undeclared on purpose: a token that is not
revoked has no key, and of declared keys one that is missing makes the source answer ASK and the target TRYAGAIN, until
the last key has moved. So the batch goes to the target, and what its checks count by goes there first: MIGRATE moves
each key whole, it is on one of the two nodes at any time, and a key that the source does not hold cannot appear there
any more. What the target holds then is all there is: no limit is exceeded. The revocations stay where they are: neither
node is believed to hold all of them until a rebuild after the migration, so Postgres is asked.
docs/adr/0003-limit-algorithm.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from zlib import crc32

from msgspec import Struct
from msgspec.structs import replace
from redis.exceptions import AskError

from ext_authz.db import redis_keys
from ext_authz.policy.model import Algorithm
from ext_authz.settlement.batch import Return
from ext_authz.settlement.connection import Command, Link, link_at
from ext_authz.settlement.model import NO_IDS, SEPARATOR, Outcome, QuotaRequest, SettleRequest, SettleResult
from ext_authz.settlement.pipeline import Queue

BARRIER = QuotaRequest("", Algorithm.FIXED_WINDOW, 0, 1, 0)
"""A limit that lets nothing pass: makes the home shard refuse when another shard did, and write down by which limit."""
DRY_RUN_BARRIER = QuotaRequest("", Algorithm.FIXED_WINDOW, 0, 1, 0, dry_run=True)
"""Makes the home shard write down that a dry-run limit of another shard would have refused."""
NEVER = 2**62


SettleAt = Callable[[Queue, SettleRequest], Awaitable[SettleResult]]
"""Settles what lives in one shard."""


class Part(Struct):
    """The limits of one check that live in one shard."""

    shard: int
    indices: list[int]
    """Positions in `SettleRequest.quota_requests`."""
    quota_requests: tuple[QuotaRequest, ...]


def home_of(request: SettleRequest, shards: int) -> int:
    """The shard of the user, or of the event where there is no user."""
    user = request.revocation[2]
    return crc32(user[2:].encode() if user else request.event) % shards


def shard_of(quota: QuotaRequest, shards: int) -> int:
    """By the first value that the limit counts by (after its name), so that the limits of a user are at home."""
    name, separator, values = quota.key.partition(SEPARATOR)
    return crc32((values.partition(SEPARATOR)[0] if separator else name).encode()) % shards


async def settle_across(queues: Sequence[Queue], settle_at: SettleAt, request: SettleRequest) -> SettleResult:
    """Settle one check over all the shards that it needs.

    Raises:
        Unavailable: as the settlement; what was taken is given back.
    """
    parts = _split(request, len(queues))
    home = home_of(request, len(queues))
    here = parts.pop(home, Part(home, [], ()))
    if not parts:
        return await settle_at(queues[home], request)
    taken: list[tuple[Part, SettleResult]] = []
    try:
        results = await _take_elsewhere(queues, list(parts.values()), taken)
        refused = [
            part.quota_requests[result.limited_by].key for part, result in results if result.outcome is Outcome.LIMITED
        ]
        barriers = tuple(replace(BARRIER, key=key) for key in refused[:1])
        if any(result.dry_run_over for _, result in results):
            barriers += (DRY_RUN_BARRIER,)
        at_home = await settle_at(queues[home], replace(request, quota_requests=here.quota_requests + barriers))
    except BaseException:
        _give_back(queues, taken)
        raise
    if at_home.outcome is not Outcome.OK:
        _give_back(queues, taken)
    return at_home if at_home.outcome is Outcome.REVOKED else _joined(request, [(here, at_home), *results])


def _split(request: SettleRequest, shards: int) -> dict[int, Part]:
    parts: dict[int, Part] = {}
    for index, quota in enumerate(request.quota_requests):
        shard = shard_of(quota, shards)
        part = parts.setdefault(shard, Part(shard, [], ()))
        part.indices.append(index)
        part.quota_requests += (quota,)
    return parts


async def _take_elsewhere(
    queues: Sequence[Queue], parts: list[Part], taken: list[tuple[Part, SettleResult]]
) -> list[tuple[Part, SettleResult]]:
    """Every part's answer; those that passed are put into `taken` first, so that a failure can give them back."""

    async def settled(part: Part) -> SettleResult:
        return await queues[part.shard].put(SettleRequest(NO_IDS, 0, part.quota_requests, b""))

    results = await asyncio.gather(*map(settled, parts), return_exceptions=True)
    pairs = list(zip(parts, results, strict=True))
    answered = [(part, result) for part, result in pairs if isinstance(result, SettleResult)]
    taken += [(part, result) for part, result in answered if result.outcome is Outcome.OK]
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return answered


def _give_back(queues: Sequence[Queue], taken: list[tuple[Part, SettleResult]]) -> None:
    for part, result in taken:
        each = zip(part.quota_requests, result.remaining, result.reset_ms, strict=True)
        # Of a dry-run limit that was over (-1) nothing was taken.
        taken_at = result.at_ms
        returns = [
            _return(quota, taken_at, taken_at + reset) for quota, left, reset in each if quota.cost and left >= 0
        ]
        queues[part.shard].give_back(returns)


def _return(quota: QuotaRequest, taken_at_ms: int, whole_at_ms: int) -> Return:
    if quota.algorithm != Algorithm.GCRA:
        return quota.key, quota.algorithm, whole_at_ms, quota.cost, quota.window_ms
    # Whatever others took and gave back: the bucket was not full since, as long as this would not have flowed back.
    amount = quota.cost * _interval_us(quota)
    return quota.key, quota.algorithm, taken_at_ms + amount // 1000, amount, quota.window_ms


def _interval_us(quota: QuotaRequest) -> int:
    return -(-quota.window_ms * 1000 // quota.limit)


def _joined(request: SettleRequest, results: list[tuple[Part, SettleResult]]) -> SettleResult:
    """One answer in the order of `SettleRequest.quota_requests`, as if one shard had given it."""
    left: dict[int, tuple[int, int]] = {}
    waits: list[tuple[int, int]] = []
    refused = any(result.outcome is Outcome.LIMITED for _, result in results)
    for part, result in results:
        given_back = refused and result.outcome is Outcome.OK
        for place, (index, quota) in enumerate(zip(part.indices, part.quota_requests, strict=True)):
            remaining, reset_ms = result.remaining[place], result.reset_ms[place]
            left[index] = _untaken(quota, remaining, reset_ms) if given_back else (remaining, reset_ms)
        waits += _waits(part, result)
    remaining_all, reset_all = zip(*(left[index] for index in range(len(request.quota_requests))), strict=True)
    if not refused:
        return SettleResult(Outcome.OK, -1, remaining_all, reset_all)
    wait, by = max(waits)
    return SettleResult(Outcome.LIMITED, by, remaining_all, reset_all, 0 if wait == NEVER else wait)


def _waits(part: Part, result: SettleResult) -> list[tuple[int, int]]:
    """Which limits of this part refused, as far as its answer shows, and for how long."""
    if result.outcome is not Outcome.LIMITED:
        return []
    if result.limited_by < len(part.indices):
        return [(result.retry_after_ms or NEVER, part.indices[result.limited_by])]
    # The barrier: of a limit that would have refused too it is only known when it is whole again.
    known = zip(part.quota_requests, part.indices, result.remaining, result.reset_ms, strict=False)
    return [
        (reset_ms, index) for quota, index, remaining, reset_ms in known if remaining < quota.cost and not quota.dry_run
    ]


def _untaken(quota: QuotaRequest, remaining: int, reset_ms: int) -> tuple[int, int]:
    """What remains of a limit, and its reset, once its part was given back."""
    if remaining < 0:  # a dry-run limit took nothing
        return 0, reset_ms
    remaining += quota.cost
    if quota.algorithm == Algorithm.GCRA:
        return remaining, max(0, reset_ms - quota.cost * _interval_us(quota) // 1000)
    return remaining, reset_ms if remaining < quota.limit else 0


MIGRATE_MS = 1000
"""Longest silence between the two nodes."""


class Migration:
    """The way to the target, for as long as the source sends us there."""

    def __init__(self, url: str, shard: int) -> None:
        self._url = url
        self._shard = shard
        self._target: Link | None = None
        self._address = ("", 0)
        self._one_by_one = asyncio.Lock()

    async def bring(self, source: Link, redirect: AskError, counters: Iterable[str]) -> Link:
        """Bring what a batch counts by to the target; returns the link to it, for calls that are `asking`.

        Raises:
            RedisError, OSError: a node gave no answer, or the ACL does not let us MIGRATE.
        """
        address = redirect.host or source.host, redirect.port
        async with self._one_by_one:
            target = await self._reach(source, address)
        keys = {redis_keys.events(self._shard), redis_keys.alive(self._shard)}
        keys.update(redis_keys.counter(key, self._shard) for key in counters)
        with suppress(AskError):  # the source does not even hold the first of them
            await source.ask(("MIGRATE", *address, "", 0, MIGRATE_MS, *source.credentials, "KEYS", *keys))
        return target

    async def close(self) -> None:
        target, self._target = self._target, None
        if target:
            await target.close()

    async def _reach(self, source: Link, address: tuple[str, int]) -> Link:
        if self._target and self._address == address and not self._target.ended.done():
            return self._target
        await self.close()
        target = link_at(self._url, self._shard, address)
        try:
            await target.open()
            await self._mark_incomplete(source, target)
        except BaseException:
            await target.close()
            raise
        self._target, self._address = target, address
        return target

    async def _mark_incomplete(self, source: Link, target: Link) -> None:
        """Some of the revocations are here and some there. Should the slot stay, or come back, they are read anew."""
        forget: Command = ("DEL", redis_keys.complete(self._shard))
        with suppress(AskError):  # it has moved
            await source.ask(forget)
        await target.ask(("ASKING",), forget)
