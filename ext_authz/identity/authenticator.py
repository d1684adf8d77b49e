"""Who is calling: from the Authorization header to a verified `Identity`.

cache.py        verified before, or refused shortly before
tokens.py       the verification itself, without I/O
jwks.py         the signing key; the only step of a bearer token that may wait
introspection.py  of a token that does not say everything: what its issuer says about it; may wait too
own_tokens.py   API tokens of our own, which begin with tgl_
services.py     tokens that services sign themselves
standing.py     what is known of the owner of a token beside the token
project_rights.py  roles by projects of a GitLab, which are not in the token either
possession.py   of a token that is bound to keys: the proof of them, on every request
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import get_args

from ext_authz.clock import Clock
from ext_authz.decision import Request
from ext_authz.errors import Denied, Unavailable
from ext_authz.identity.api_tokens import PREFIX
from ext_authz.identity.cache import MAX_BYTES, RefusedTokens, Verified, VerifiedTokens
from ext_authz.identity.claims import is_lightweight
from ext_authz.identity.identity import NOT_REMEMBERED, Code, Identity, invalid, printable
from ext_authz.identity.introspection import Ask, Introspector, introspectors, is_opaque
from ext_authz.identity.jwks import Fetch, KeySet
from ext_authz.identity.key_repository import FetchKey, KeyRepository
from ext_authz.identity.keys import NO_KEY
from ext_authz.identity.own_tokens import ApiTokens
from ext_authz.identity.possession import Possession, ensure_scheme
from ext_authz.identity.project_rights import Projects, with_rights
from ext_authz.identity.replays import Replays
from ext_authz.identity.services import ServiceTokens
from ext_authz.identity.standing import Changed, Owners, judged, owner_key
from ext_authz.identity.tokens import (
    MAX_TOKEN,
    credential,
    ensure_acceptable,
    identified,
    read,
    signed_claims,
    single,
)
from ext_authz.observability.metrics import TOKEN_CACHE, TOKEN_CACHE_ENTRIES, TOKENS_REFUSED
from ext_authz.policy.issuers import Issuer, OwnTokens

logger = logging.getLogger(__name__)

UPKEEP_SECONDS = 1.0

_CREDENTIAL = ("credential_missing", "credential_malformed", "credential_repeated", "scheme_unsupported")
CODES = (*_CREDENTIAL, *get_args(Code))
"""Of all refusals that are made here."""


class TokenAuthenticator:
    """Accepts tokens of the policy's issuers. For one event loop."""

    def __init__(
        self,
        issuers: Sequence[Issuer],
        *,
        fetch: Fetch,
        clock: Clock,
        cache_size: int,
        cache_bytes: int = MAX_BYTES,
        max_token: int = MAX_TOKEN,
        ask: Ask | None = None,
        fetch_key: FetchKey | None = None,
        replays: Replays | None = None,
        origin: str = "",
        tokens: OwnTokens | None = None,
        owners: Owners | None = None,
        projects: Projects | None = None,
        whose: str = "",
    ) -> None:
        """`cache_size`, `cache_bytes`: of the verified tokens. `max_token`: the longest that is read, in bytes.
        `ask`: how issuers are asked about tokens; None: not at all. `fetch_key`: how keys of services are fetched;
        None: their tokens are not accepted. `replays`, `origin`: as for `Possession`, and as for `ServiceTokens`.
        `tokens`: API tokens of our own, which need `owners`, by whom tokens of other issuers are judged too.
        `projects`: that give users of a GitLab roles. `whose`:
        set for a policy that is not in force. Its key sets are reported apart, and its tokens are not counted: the
        policy in force has verified each of them already."""
        self._counts = not whose
        self._clock = clock
        key_set = partial(KeySet, fetch=fetch, clock=clock, whose=whose)
        self._key_sets = {issuer.issuer: key_set(issuer) for issuer in issuers if not issuer.asap}
        self._services = ServiceTokens(issuers, fetch_key, clock, replays, whose)
        self._introspectors = introspectors(issuers, ask, whose)
        self._max_token = max_token
        self._owners, self._projects = owners, projects
        self._listen()
        self._own: ApiTokens | None = None
        if owners is not None and tokens is not None:
            self._own = ApiTokens(key_set(tokens.issuer), issuers, owners, max_token)
        self._dpop = any(issuer.cnf == "verify" for issuer in issuers)
        self._verified, self._bound = (VerifiedTokens(clock, cache_size, cache_bytes) for _ in range(2))
        """The second has tokens that are good for nothing without a proof: `cached` must not find them."""
        self._possession = Possession(clock, replays, origin, in_force=not whose)
        self._refused = RefusedTokens(clock, cache_size)
        self._misses, self._refusals = 0, Counter[str]()
        self._upkeep: asyncio.Task[None] | None = None
        for code in CODES:
            TOKENS_REFUSED.labels(code)

    async def start(self) -> None:
        """Fetch every key set once, concurrently. An issuer that is down affects only its own tokens."""
        await asyncio.gather(*(keys.refresh() for keys in self._every_key_set()))
        self._upkeep = asyncio.create_task(self._keep_up(), name="identity")

    async def stop(self) -> None:
        if self._upkeep is not None:
            self._upkeep.cancel()
            await asyncio.wait({self._upkeep})
        for keys in self._every_key_set():
            await keys.close()
        for introspector in self._introspectors.values():
            await introspector.close()
        self._count()

    @property
    def key_sets(self) -> Mapping[str, KeySet]:
        """By `iss`, without our own and those of services; kept current while this is started."""
        return self._key_sets

    def up(self) -> dict[str, bool]:
        """By `jwks:<issuer>`: whether its tokens can be verified now. True while an old set is still trusted."""
        return {keys.dependency: keys.usable for keys in self._every_key_set()}

    def lost(self) -> dict[str, float | None]:
        """By `jwks:<issuer>`: the monotonic time since which no set is trusted; None while one is."""
        return {keys.dependency: None if keys.usable else keys.trusted_until for keys in self._every_key_set()}

    def cached(self, authorization: str, grace: float = 0) -> Identity | None:
        """The hot path: a token verified before that has not expired and whose signing key is still trusted.

        `grace`: seconds for which a key is accepted beyond its trust while its issuer cannot confirm it.
        """
        return self._verified.find(authorization, grace)

    async def authenticate(
        self, authorization: tuple[str, ...], grace: float = 0, request: Request | None = None, /
    ) -> Identity:
        """The caller; `grace` as for `cached`. `request`: which it is presented with; without one no token that is
        bound to a key is accepted.

        Raises:
            Denied: no credential, or an invalid one; nothing that a caller sends raises anything else.
            Unavailable: the keys of the token's issuer cannot be fetched ("jwks"), it does not say what it knows of
                the token ("introspection"), or nobody can say whether a proof or a token was used before ("redis").
        """
        try:
            return await self._authenticate(authorization, grace, request)
        except Denied as refusal:
            self._refusals[refusal.code] += 1
            raise

    async def _authenticate(self, authorization: tuple[str, ...], grace: float, request: Request | None) -> Identity:
        value = single(authorization, self._max_token)
        if (identity := self.cached(value, grace)) is not None:
            return identity
        scheme, token = credential(value, dpop=self._dpop)
        identity = self._bound.find(value, grace) or await self._verified_now(value, scheme, token, grace)
        if identity.binding is not None:
            issuer = self._key_sets[identity.principal.issuer].issuer
            await self._possession.ensure(identity, identity.binding, issuer, token, request)
        return identity

    async def _verified_now(self, value: str, scheme: str, token: str, grace: float) -> Identity:
        self._refused.ensure_unknown(value)
        self._misses += 1
        try:
            verified = await self._verify(token, grace)
            ensure_scheme(verified.identity, scheme)
        except Denied as refusal:
            if refusal.code not in NOT_REMEMBERED:
                self._refused.keep(value, refusal)
            raise
        if not verified.once:
            (self._verified if verified.identity.binding is None else self._bound).keep(value, verified)
        return verified.at(self._clock.monotonic())

    async def _verify(self, token: str, grace: float) -> Verified:
        """Other kinds of credential branch off here, by their prefix: a JWT has none."""
        try:
            if token.startswith(PREFIX):
                return await self._verify_own(token, grace)
            if is_opaque(token) and (opaque := self._opaque()):
                return self._judged(await opaque.verified(token, {}, NO_KEY, self._clock))
            return self._judged(await self._verify_jwt(token, grace))
        except (Denied, Unavailable):
            raise
        except Exception as bug:  # noqa: BLE001 - whatever a token triggers, the caller is refused
            # Only the type: the message of an error may quote the token.
            logger.error("token verification failed", extra={"error": type(bug).__name__})  # noqa: TRY400 - no traceback
            raise invalid("token_malformed", "the token cannot be understood") from None

    async def _verify_jwt(self, text: str, grace: float) -> Verified:
        token = read(text, self._max_token)
        if (repository := self._services.repositories.get(token.issuer)) is not None:
            return await self._services.verify(token, repository, grace)
        keys = self._key_sets.get(token.issuer)
        if keys is None:
            self._log_issuer(token.issuer)
            raise invalid("issuer_unknown", "the token comes from an issuer that is not accepted here")
        issuer = keys.issuer
        ensure_acceptable(token, issuer)
        key = await keys.key((token.key_id, token.algorithm), grace)
        claims = signed_claims(token, issuer, key)
        introspector = self._introspectors.get(issuer.issuer)
        if introspector and introspector.rules.lightweight and is_lightweight(claims):
            return await introspector.verified(text, claims, key, self._clock)
        identity = identified(claims, issuer, self._clock.now())
        return Verified(identity, identity.expires_at + issuer.leeway, key)

    async def _verify_own(self, text: str, grace: float) -> Verified:
        if self._own is None:
            raise invalid("issuer_unknown", "API tokens are not accepted here: send an access token")
        return await self._own.verify(text, grace, self._clock.now())

    def _judged(self, verified: Verified) -> Verified:
        """By what is known of the user. No step that waits comes after this: `_forget` would miss what waits."""
        if self._owners is not None:
            verified.owner = owner_key(verified.identity.issuer_name, verified.identity.principal.subject)
            verified.identity = judged(verified.identity, self._owners)
        if self._projects is not None:
            verified.identity = with_rights(verified.identity, self._projects)
        return verified

    def _listen(self) -> None:
        if self._owners is not None:
            self._owners.listen(self._forget)
        if self._projects is not None:
            self._projects.listen(self._forget_users)

    def _forget(self, changed: Changed) -> None:
        """These owners are not what they were: their tokens are verified again."""
        for cache in (self._verified, self._bound, self._refused):
            cache.forget(changed)

    def _forget_users(self, issuer: str, users: frozenset[str] | None) -> None:
        """These have other roles than before; None: all of this issuer."""
        for cache in (self._verified, self._bound):
            cache.forget_users(issuer, users)

    def _every_key_set(self) -> Iterator[KeySet | KeyRepository]:
        yield from self._key_sets.values()
        yield from self._services.repositories.values()
        if self._own is not None:
            yield self._own.keys

    def _opaque(self) -> Introspector | None:
        """Of the one issuer whose tokens are no JWTs."""
        return next((each for each in self._introspectors.values() if each.rules.opaque), None)

    def _log_issuer(self, issuer: str) -> None:
        """For the operator only: which issuer it was, and whether it nearly equals a configured one."""
        near = [url for url in self._key_sets if url.rstrip("/").lower() == issuer.rstrip("/").lower()]
        differs = {"detail": f"differs from {near[0]} in a trailing slash or in upper case"} if near else {}
        logger.info("issuer unknown", extra={"issuer": printable(issuer), **differs})

    async def _keep_up(self) -> None:
        while True:
            for keys in self._every_key_set():
                keys.refresh_if_due()
            self._count()
            await asyncio.sleep(UPKEEP_SECONDS)

    def _count(self) -> None:
        """Add the counts to the metrics once a second: one increment there costs as much as a whole cache hit."""
        if not self._counts:
            self._refusals.clear()
            return
        hits, entries = self._verified.hits + self._bound.hits, len(self._verified) + len(self._bound)
        for result, count in (("hit", hits), ("bad", self._refused.hits), ("miss", self._misses)):
            TOKEN_CACHE.labels(result).inc(count)
        for kind, size in (("verified", entries), ("refused", len(self._refused))):
            TOKEN_CACHE_ENTRIES.labels(kind).set(size)
        self._verified.hits = self._bound.hits = self._refused.hits = self._misses = 0
        for code, count in self._refusals.items():
            TOKENS_REFUSED.labels(code).inc(count)
        self._refusals.clear()
