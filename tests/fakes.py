"""Fakes of the project's Protocols. Each behaves as the real thing does, as far as tests can see."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ext_authz.clock import Clock
from ext_authz.errors import Unavailable
from ext_authz.identity.standing import Changed, Standing, owner_key
from tests.tokens import TestKey, jwks


class FakeClock:
    """A clock that moves when told to: 20 November 2026, 13:00 UTC at first."""

    def __init__(self, now: float = 1_795_179_600.0) -> None:
        self._now = now
        self._monotonic = 1000.0

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Time passes."""
        self._now = round(self._now + seconds, 6)  # or the rounding of sixty steps adds up to a millisecond
        self._monotonic += seconds

    def set_wall(self, now: float) -> None:
        """Somebody sets the wall clock; no time passes."""
        self._now = now


class FakeOwners:
    """As `owners.known.KnownOwners`, of what a test puts in."""

    def __init__(self) -> None:
        self.held: dict[str, Standing] = {}
        self.down = False
        self.arriving: dict[str, Standing] = {}
        """In Postgres, and found by whoever seeks."""
        self._listeners: list[Callable[[Changed], None]] = []

    def put(self, subject: str, standing: Standing, issuer: str = "ml") -> None:
        """Listeners are told."""
        key = owner_key(issuer, subject)
        self.held[key] = standing
        for listener in self._listeners:
            listener(frozenset({key}))

    def find(self, issuer: str, subject: str) -> Standing | None:
        if self.down:
            raise Unavailable("postgres", "down")
        return self.held.get(owner_key(issuer, subject))

    async def seek(self, issuer: str, subject: str) -> Standing | None:
        if self.find(issuer, subject) is None:
            self.held |= self.arriving
        return self.find(issuer, subject)

    def listen(self, listener: Callable[[Changed], None]) -> None:
        self._listeners.append(listener)


class FakeJwks:
    """An issuer's key endpoint, as a `jwks.Fetch`: it publishes, rotates, fails, hangs, and counts who asks."""

    def __init__(self, *keys: TestKey) -> None:
        self.document = jwks(*keys)
        self.asked = 0
        self.down = False
        self.arrived = asyncio.Event()
        """Set by every request; clear it to wait for the next one."""
        self.answering = asyncio.Event()
        """Clear it to let requests hang."""
        self.answering.set()

    def publish(self, *keys: TestKey) -> None:
        self.document = jwks(*keys)

    async def __call__(self, url: str) -> bytes:
        self.asked += 1
        self.arrived.set()
        document = self.document
        await self.answering.wait()
        if self.down:
            raise OSError(f"connection refused: {url}")
        return document


class FakeRepository:
    """A key repository of services, as a `key_repository.FetchKey`: by address what it has there, and who asks."""

    def __init__(self, **keys: TestKey | bytes) -> None:
        """By name, of the service `web`."""
        self.held: dict[str, bytes | None] = {}
        self.asked: list[str] = []
        self.down: set[str] = set()
        """Beginnings of addresses that do not answer."""
        self.arrived = asyncio.Event()
        self.answering = asyncio.Event()
        """Clear it to let requests hang."""
        self.answering.set()
        for name, key in keys.items():
            self.publish(name, key)

    def publish(self, name: str, key: TestKey | bytes, at: str = "https://keys.example/") -> None:
        self.held[f"{at}web/{name}"] = key if isinstance(key, bytes) else key.pem()

    async def __call__(self, url: str) -> bytes | None:
        self.asked.append(url)
        self.arrived.set()
        document = self.held.get(url)
        await self.answering.wait()
        if any(url.startswith(place) for place in self.down):
            raise OSError(f"connection refused: {url}")
        return document


class FakeReplays:
    """The store of used proofs, as a `replays.Replays`."""

    def __init__(self, clock: Clock) -> None:
        self.present = ["nonce-1"]
        """Nonces."""
        self.down = False
        self._clock = clock
        self._until: dict[str, float] = {}

    def knows(self) -> bool:
        """Whether it holds any proof now."""
        return any(self._clock.monotonic() < until for until in self._until.values())

    async def first_use(self, proof: str, seconds: int) -> bool:
        if self.down:
            raise Unavailable("redis", "down, as given")
        if self._clock.monotonic() < self._until.get(proof, 0):
            return False
        self._until[proof] = self._clock.monotonic() + seconds
        return True

    async def nonces(self, _: float) -> list[str]:
        return self.present
