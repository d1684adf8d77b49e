"""The keys of one service that signs its own tokens (ASAP): each is fetched when a token names it, and kept current.

- No key id is fetched that is not one of the service's (`asap.ensure_owned`).
- Checks that need one key at the same time share one fetch. Whoever invents key ids causes at most `MAX_FETCHES` in
  `jwks_cooldown`; only fetches that bring a key for which there is room are free. Beyond that a key that is not known
  is 503: nobody has said that it does not exist. Known keys are used as ever.
- What a repository says it does not have is not asked for again for `jwks_cooldown`.
- A key is fetched again every `jwks_refresh`, until no token that it signed can be valid any more. One that is gone is
  distrusted at once, and with it every cached token that it signed.
- A fetch that fails changes nothing: a known key is trusted for `jwks_max_stale`, as those of a `KeySet`.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping

from msgspec import Struct

from ext_authz.bounded import BoundedCache
from ext_authz.clock import Clock
from ext_authz.errors import Unavailable
from ext_authz.identity.asap import ensure_owned
from ext_authz.identity.fetch import shown
from ext_authz.identity.identity import invalid
from ext_authz.identity.keys import KeyName, SigningKey
from ext_authz.identity.pem import public_keys
from ext_authz.observability.metrics import JWKS_FETCHES
from ext_authz.policy.issuers import Asap, Issuer

logger = logging.getLogger(__name__)

FetchKey = Callable[[str], Awaitable[bytes | None]]
"""`fetch.HttpFetch.key`: the body at a URL, None where the repository has none there. It times out by itself, and may
raise anything."""

MAX_KEYS = 256
"""Of one service."""
MAX_FETCHES = 32
"""That unknown keys cause in `jwks_cooldown`."""
MAX_AT_ONCE = 16
"""Fetches under way that unknown keys cause; as many more are for keys in use, so that nobody can hold those up."""
MAX_ABSENT = 1000


class _Published(Struct, eq=False):
    """What a repository has under one key id."""

    keys: Mapping[KeyName, SigningKey]
    next_fetch: float
    wanted_at: float
    """When a token named it last."""


class KeyRepository:
    """As `jwks.KeySet`, for one service. For one event loop."""

    def __init__(self, issuer: Issuer, rules: Asap, *, fetch: FetchKey, clock: Clock, whose: str = "") -> None:
        """`rules`: those of the issuer. `whose`: before the name of the issuer in metrics and logs."""
        self.issuer = issuer
        self.dependency = f"jwks:{issuer.name}"
        self._named = whose + issuer.name
        for result in ("ok", "error"):
            JWKS_FETCHES.labels(self._named, result)
        self.rules = rules
        self._fetch = fetch
        self._clock = clock
        self._cooldown = max(issuer.jwks_cooldown, 1)
        self._known: dict[str, _Published] = {}
        self._absent: BoundedCache[str, float] = BoundedCache(MAX_ABSENT * 1000, MAX_ABSENT)
        """Until when it is not asked for again."""
        self._fetching: dict[str, asyncio.Task[None]] = {}
        self._window_ends, self._left = -math.inf, MAX_FETCHES
        self._failing = ""
        """The key id whose fetch failed last; empty since a repository has answered."""
        self._failed_at = self._next_try = -math.inf
        self._cause = ""

    @property
    def usable(self) -> bool:
        """Whether the repositories answer, as far as is known, or some key is trusted while they do not."""
        return not self._failing or self._clock.monotonic() < self.trusted_until

    @property
    def trusted_until(self) -> float:
        """Monotonic time until which some key is trusted."""
        trusted = (key.trusted_until for published in self._known.values() for key in published.keys.values())
        return max(trusted, default=self._failed_at)

    async def key(self, name: KeyName, grace: float = 0) -> SigningKey:
        """As `KeySet.key`.

        Raises:
            Denied: it is no key of this service, or the repositories have none of this `kid` and `alg`.
            Unavailable: not known, because no repository answers, or because too many unknown keys were asked for.
        """
        key_id = name[0]
        ensure_owned(key_id, self.issuer)
        if (key := self._find(name, grace)) is not None:
            return key
        if not self._is_settled(key_id):
            await self._seek(key_id)
        if (key := self._find(name, grace)) is not None:
            return key
        if self._is_settled(key_id):
            raise invalid("key_unknown", self._unknown(key_id))
        raise Unavailable("jwks", f"no current key of issuer {self.issuer.name}: {self._cause or 'stopped'}")

    async def refresh(self) -> None:
        """Nothing is fetched before a token names it."""

    def refresh_if_due(self) -> None:
        """Call about every second: starts the fetches that are due, a few at a time."""
        now, life = self._clock.monotonic(), self.issuer.max_token_age + 2 * self.issuer.leeway
        due = [key_id for key_id, published in self._known.items() if now >= published.next_fetch]
        for key_id in due:
            if now - self._known[key_id].wanted_at > life:
                self._forget(key_id)
            else:
                self._start(key_id)
        if self._failing and now >= self._next_try:
            self._start(self._failing)

    async def close(self) -> None:
        """Cancel the fetches under way; checks that wait for them find no key."""
        tasks = [*self._fetching.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _find(self, name: KeyName, grace: float) -> SigningKey | None:
        published = self._known.get(name[0])
        key = published.keys.get(name) if published else None
        if published is None or key is None or self._clock.monotonic() >= key.trusted_until + grace:
            return None
        published.wanted_at = self._clock.monotonic()
        return key

    def _is_settled(self, key_id: str) -> bool:
        """Whether what the repositories have there is known, and recent enough."""
        now = self._clock.monotonic()
        published = self._known.get(key_id)
        if published and any(now < key.trusted_until for key in published.keys.values()):
            return True
        return now < (self._absent.get(key_id) or -math.inf)

    def _unknown(self, key_id: str) -> str:
        if key_id in self._known:
            return "the key named in the token is of another type than its alg, or for an algorithm not accepted here"
        return "the token is signed with a key that its issuer does not publish"

    async def _seek(self, key_id: str) -> None:
        """Look in the repositories; whoever wants the same key meanwhile waits for that."""
        if key_id not in self._fetching:
            self._spend()
            self._start(key_id)
        await asyncio.wait({self._fetching[key_id]})

    def _spend(self) -> None:
        """Raises Unavailable."""
        now = self._clock.monotonic()
        if now >= self._window_ends:
            self._window_ends, self._left = now + self._cooldown, MAX_FETCHES
        if self._left <= 0 or len(self._fetching) >= MAX_AT_ONCE:
            raise Unavailable("jwks", f"too many keys of issuer {self.issuer.name} were asked for that are not known")
        self._left -= 1

    def _start(self, key_id: str) -> None:
        # A task of its own: the request that started the fetch may be cancelled while others wait for it.
        if key_id not in self._fetching and len(self._fetching) < 2 * MAX_AT_ONCE:
            task = asyncio.create_task(self._fetch_one(key_id), name=self.dependency)
            self._fetching[key_id] = task
            task.add_done_callback(lambda _: self._fetching.pop(key_id))

    async def _fetch_one(self, key_id: str) -> None:
        """From the first repository that answers. Never raises."""
        asked_at, causes = self._clock.monotonic(), []
        for repository in self.rules.repositories:
            try:
                document = await self._fetch(repository + key_id)
            except Exception as failure:  # noqa: BLE001 - whatever a repository does wrong, known keys stay in use
                what = str(failure) if isinstance(failure, ValueError) else f"{type(failure).__name__}: {failure}"
                causes.append(f"{shown(repository)}: {what}")
            else:
                self._answered(key_id, document, asked_at)
                return
        self._failed(key_id, asked_at, "; ".join(causes))

    def _failed(self, key_id: str, asked_at: float, cause: str) -> None:
        JWKS_FETCHES.labels(self._named, "error").inc()
        if not self._failing:
            self._failed_at = asked_at
        if published := self._known.get(key_id):
            published.next_fetch = asked_at + self._cooldown
        if not self._failing or cause != self._cause:
            logger.warning("key fetch failed", extra={"issuer": self._named, "error": cause, "usable": self.usable})
        self._failing, self._cause, self._next_try = key_id, cause, asked_at + self._cooldown

    def _answered(self, key_id: str, document: bytes | None, asked_at: float) -> None:
        JWKS_FETCHES.labels(self._named, "ok").inc()
        if self._failing:
            logger.info("key repository answers", extra={"issuer": self._named})
        self._failing = self._cause = ""
        try:
            found = {} if document is None else public_keys(document, key_id, self.issuer.algorithms)
        except ValueError as wrong:
            found = {}
            logger.warning("key not used", extra={"issuer": self._named, "error": f"{key_id}: {wrong}"})
        if found:
            self._adopt(key_id, found, asked_at)
        else:
            self._forget(key_id)
            self._absent.put(key_id, self._clock.monotonic() + self._cooldown, len(key_id))

    def _adopt(self, key_id: str, found: Mapping[KeyName, SigningKey], asked_at: float) -> None:
        before = self._known.get(key_id)
        self._forget(key_id)
        keys = {}
        for name, key in found.items():
            old = before.keys.get(name) if before else None
            # The same object as before: cached tokens refer to it.
            keys[name] = kept = old if old is not None and key.same(old) else key
            kept.trusted_until = asked_at + self.issuer.jwks_max_stale
        if len(self._known) >= MAX_KEYS:
            self._forget(next(iter(self._known)))
        elif before is None:
            self._left = min(self._left + 1, MAX_FETCHES)
        refresh = min(self.issuer.jwks_refresh, self.issuer.jwks_max_stale)
        self._known[key_id] = _Published(keys, asked_at + refresh, before.wanted_at if before else asked_at)

    def _forget(self, key_id: str) -> None:
        published = self._known.pop(key_id, None)
        for key in published.keys.values() if published else ():
            key.trusted_until = -math.inf
