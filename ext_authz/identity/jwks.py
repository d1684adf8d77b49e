"""The keys of one issuer, kept current.

- One fetch at a time; checks that need an unknown key meanwhile wait for that one.
- An unknown key causes a fetch at once, so that a rotation fails no request. If the issuer does not publish it either,
  unknown keys cause no further fetch for `jwks_cooldown`: a flood of invented ones costs one fetch per cool-down.
- A fetch that fails changes nothing: the last good set is used for `jwks_max_stale`. After that its tokens get 503,
  except on routes whose failure mode grants a grace of some more seconds.
- A key that leaves the set is distrusted at once, and with it every cached token that it signed.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable

from ext_authz.clock import Clock
from ext_authz.errors import Unavailable
from ext_authz.identity.fetch import shown
from ext_authz.identity.identity import invalid
from ext_authz.identity.keys import KeyName, SigningKey, parse_keys
from ext_authz.observability.metrics import JWKS_AGE, JWKS_FETCHES
from ext_authz.policy.issuers import Issuer

logger = logging.getLogger(__name__)

Fetch = Callable[[str], Awaitable[bytes]]
"""Returns the body at a URL. It times out by itself, and may raise anything."""


class KeySet:
    """The signing keys of one issuer. For one event loop."""

    def __init__(self, issuer: Issuer, *, fetch: Fetch, clock: Clock, whose: str = "") -> None:
        """`whose`: before the name of the issuer in metrics and logs."""
        self.issuer = issuer
        self._named = whose + issuer.name
        for result in ("ok", "error"):
            JWKS_FETCHES.labels(self._named, result)
        self.dependency = f"jwks:{issuer.name}"
        self._fetch = fetch
        self._clock = clock
        self._keys: dict[KeyName, SigningKey] = {}
        self._fetched_at = -math.inf
        self._next_fetch = -math.inf
        self._cool_until = -math.inf
        self._failing = True
        self._warned = ("", False)
        self._fetching: asyncio.Task[None] | None = None

    @property
    def usable(self) -> bool:
        """Whether there is a trusted set, whether or not the issuer answers right now."""
        return self._clock.monotonic() < self.trusted_until

    @property
    def trusted_until(self) -> float:
        """Monotonic time until which the current set is trusted."""
        return self._fetched_at + self.issuer.jwks_max_stale

    async def key(self, name: KeyName, grace: float = 0) -> SigningKey:
        """The key of this `kid` and `alg`; for `grace` seconds also one that is no longer trusted.

        Raises:
            Denied: the issuer publishes no such key.
            Unavailable: not known, because the issuer does not answer.
        """
        # A key within its grace does not wait for an issuer that may hang: `refresh_if_due` starts the fetch.
        key = self._find(name, grace) or await self._seek(name, grace)
        if key is not None:
            return key
        if self._failing or not self.usable:
            raise Unavailable("jwks", f"no current key set of issuer {self.issuer.name}: {self._warned[0]}")
        raise invalid("key_unknown", self._unknown(name))

    async def refresh(self) -> None:
        """Fetch the set, or wait for the fetch under way. Never raises: the outcome is in `usable` and the metrics."""
        await asyncio.wait({self._start_fetch()})

    def refresh_if_due(self) -> None:
        """Call about every second: starts a fetch when one is due, and reports the age of the set."""
        if self._clock.monotonic() >= self._next_fetch:
            self._start_fetch()
        JWKS_AGE.labels(self._named).set(self._clock.monotonic() - self._fetched_at)

    async def close(self) -> None:
        """Cancel the fetch under way, if any; checks that wait for it find no key."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait({self._fetching})

    def _find(self, name: KeyName, grace: float = 0) -> SigningKey | None:
        key = self._keys.get(name)
        return key if key is not None and self._clock.monotonic() < key.trusted_until + grace else None

    def _unknown(self, name: KeyName) -> str:
        key_id, algorithm = name
        if any(known_id == key_id for known_id, _ in self._keys):
            return f"the key named in the token is published for another algorithm than {algorithm}"
        return "the token is signed with a key that its issuer does not publish"

    async def _seek(self, name: KeyName, grace: float) -> SigningKey | None:
        """Look in a key set that was requested after this lookup began; at most one fetch starts here."""
        if self._fetching is not None:
            await self.refresh()
        if (key := self._find(name, grace)) or (self._cooling and self._fetching is None):
            return key
        if self._fetching is None:
            self._cool_until = self._clock.monotonic() + self.issuer.jwks_cooldown
        await self.refresh()
        if key := self._find(name, grace):
            self._cool_until = -math.inf  # a rotation, not a flood: the next one must be found as fast
        return key

    @property
    def _cooling(self) -> bool:
        return self._clock.monotonic() < self._cool_until

    def _start_fetch(self) -> asyncio.Task[None]:
        # A task of its own: the request that started the fetch may be cancelled while others wait for it.
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._fetch_once(), name=self.dependency)
        return self._fetching

    async def _fetch_once(self) -> None:
        asked_at = self._clock.monotonic()
        try:
            keys = parse_keys(await self._fetch(self.issuer.jwks_url), self.issuer.algorithms)
        except Exception as failure:  # noqa: BLE001 - whatever an issuer does wrong, its last good set stays in use
            self._fail(asked_at, failure)
        else:
            self._adopt(asked_at, keys)
        finally:
            self._fetching = None

    def _fail(self, asked_at: float, failure: Exception) -> None:
        self._failing = True
        self._next_fetch = asked_at + min(self.issuer.jwks_refresh, self.issuer.jwks_cooldown)
        self._report("error")
        what = str(failure) if isinstance(failure, ValueError) else f"{type(failure).__name__}: {failure}"
        self._warn(f"{shown(self.issuer.jwks_url)}: {what}")

    def _warn(self, error: str) -> None:
        """Each cause once, and once more when no trusted set is left."""
        if (error, self.usable) != self._warned:
            self._warned = error, self.usable
            extra = {"issuer": self._named, "error": error, "usable": self.usable}
            logger.warning("jwks fetch failed", extra=extra)

    def _adopt(self, asked_at: float, published: dict[KeyName, SigningKey]) -> None:
        if self._failing:
            logger.info("jwks fetched", extra={"issuer": self._named, "keys": len(published)})
        before, self._keys = self._keys, {}
        self._failing, self._warned = False, ("", False)
        self._fetched_at = asked_at
        self._next_fetch = asked_at + min(self.issuer.jwks_refresh, self.issuer.jwks_max_stale)
        for name, key in published.items():
            # The same object as before: cached tokens refer to it.
            self._keys[name] = kept = before.pop(name) if key.same(before.get(name)) else key
            kept.trusted_until = self.trusted_until
        for gone in before.values():
            gone.trusted_until = -math.inf
        self._report("ok")

    def _report(self, result: str) -> None:
        JWKS_FETCHES.labels(self._named, result).inc()
