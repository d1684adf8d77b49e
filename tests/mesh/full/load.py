"""Callers that go on while something fails, and count what they were answered."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event

import httpx

from tests.mesh.full.callers import BODIES, CANCER, bearer
from tests.mesh.world.network import wait_until
from tests.mesh.world.world import World

CALLERS = 4


@dataclass
class Load:
    """Half of the calls are to be allowed, and half to be refused, for want of a role."""

    served: Counter[str] = field(default_factory=Counter)
    """`allowed` and `refused`, as is right."""
    failed: Counter[str] = field(default_factory=Counter)
    """By status, or by the name of the error. The caller knows that it was not decided."""
    wrong: list[str] = field(default_factory=list)
    """Allowed in place of refused, or refused in place of allowed."""
    slowest: float = 0

    @property
    def calls(self) -> int:
        return self.served.total() + self.failed.total() + len(self.wrong)

    def go_on(self, calls: int) -> None:
        """Returns when so many more have been answered."""
        until = self.calls + calls
        wait_until(f"{calls} more calls", lambda: self.calls >= until)

    def call(self, client: httpx.Client, *, allowed: bool) -> None:
        started = time.monotonic()
        try:
            headers = bearer() if allowed else bearer("", "reader")
            status = client.post(CANCER, json=BODIES[CANCER], headers=headers).status_code
        except httpx.TransportError as error:
            self.failed[type(error).__name__] += 1
            return
        self.slowest = max(self.slowest, time.monotonic() - started)
        if status == (200 if allowed else 403):
            self.served["allowed" if allowed else "refused"] += 1
        elif status == 503:
            self.failed["503"] += 1
        else:
            self.wrong.append(f"{status} in place of {200 if allowed else 403}")


@contextmanager
def running_load(world: World) -> Iterator[Load]:
    """It has begun, and ends with the block."""
    load, ended = Load(), Event()

    def call() -> None:
        with world.client() as client:
            while not ended.is_set():
                load.call(client, allowed=True)
                load.call(client, allowed=False)

    with ThreadPoolExecutor(CALLERS) as callers:
        running = [callers.submit(call) for _ in range(CALLERS)]
        try:
            load.go_on(50)
            yield load
        finally:
            ended.set()
        for one in running:
            one.result()


def wait_for_all(world: World, expected: int) -> None:
    wait_until(f"every call gets {expected}", lambda: {status(world) for _ in range(20)} == {expected})


def status(world: World) -> int:
    return post(world).status_code


def post(world: World) -> httpx.Response:
    with world.client() as client:
        return client.post(CANCER, json=BODIES[CANCER], headers=bearer())
