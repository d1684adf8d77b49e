"""What pages, interfaces and signals of the console are made of, built and started in order."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

from msgspec import Struct, json

from ext_authz.catalogue.catalogue import Catalogue
from ext_authz.catalogue.gitlab_entries import GitlabEntries
from ext_authz.catalogue.published import PublishedEntries
from ext_authz.catalogue.publishing import Publishing
from ext_authz.catalogue.repository import Repository
from ext_authz.catalogue.using import Using
from ext_authz.clock import Clock, SystemClock
from ext_authz.console_settings import ConsoleSettings
from ext_authz.db.postgres import Pool
from ext_authz.errors import ConfigError
from ext_authz.identity.authenticator import TokenAuthenticator
from ext_authz.identity.fetch import HttpFetch
from ext_authz.owners.known import KnownOwners
from ext_authz.owners.projects import KnownProjects
from ext_authz.policy.issuers import OwnTokens
from ext_authz.policy.model import Policy
from ext_authz.revocation.entry import Kind
from ext_authz.revocation.known import KnownRevocations
from ext_authz.revocation.operations import Operations, opened
from ext_authz.revocation.store import RevocationStore
from ext_authz.settlement.model import SettleRequest
from ext_authz.settlement.redis import RedisSettlement
from ext_authz.tokens.cipher import Cipher
from ext_authz.tokens.keys import SigningKeys
from ext_authz.tokens.service import TokenService

_POSTGRES = 5.0
"""Longest wait for Postgres, in seconds."""
_REDIS = 2.0
"""Longest wait for the counters of limits, in seconds."""
_OWNERS = 1.0
"""Seconds between two looks for owners, and projects of a GitLab, that changed."""
_CALLERS = 1000
"""Verified tokens that are kept."""

Fetch = Callable[[str], Awaitable[bytes]]
"""The body at a URL."""


def own_tokens(policy: Policy) -> OwnTokens:
    """Raises ConfigError where the policy has none."""
    if policy.tokens is None:
        raise ConfigError("the console needs the section tokens: in the policy: it says who may have API tokens")
    return policy.tokens


class Parts(Struct, frozen=True):
    """What pages, interfaces and signals are made of; started."""

    settings: ConsoleSettings
    policy: Policy
    own: OwnTokens
    clock: Clock
    pool: Pool
    operations: Operations
    revocations: RevocationStore
    keys: SigningKeys
    tokens: TokenService
    authenticator: TokenAuthenticator
    """Of tokens of the identity providers, and API tokens."""
    counters: RedisSettlement
    """Of limits; read only: nothing is settled here."""
    catalogue: Catalogue
    publishing: Publishing
    using: Using


async def built(settings: ConsoleSettings, policy: Policy, stack: AsyncExitStack) -> Parts:
    """`stack` stops them, in reverse order."""
    own, clock = own_tokens(policy), SystemClock()
    pool = Pool(settings.database_url.get_secret_value(), timeout=_POSTGRES)
    await pool.open()
    stack.push_async_callback(pool.close)
    operations = await stack.enter_async_context(opened(settings, policy.issuers))
    revocations = RevocationStore(settings.database_url, _POSTGRES)
    await revocations.start()
    stack.push_async_callback(revocations.stop)
    keys = SigningKeys(pool, Cipher(settings.console_keys.get_secret_value()), clock)
    tokens = TokenService(policy, pool, keys, operations, clock)
    owners, projects = await _known(policy, pool, clock, stack)
    fetch = HttpFetch(settings.jwks_timeout, settings.jwks_ca_file)
    stack.push_async_callback(fetch.aclose)
    authenticator = TokenAuthenticator(
        policy.issuers,
        fetch=_with_own_keys(fetch, own, keys),
        clock=clock,
        cache_size=_CALLERS,
        max_token=settings.max_token_bytes,
        tokens=own,
        owners=owners,
        projects=projects or None,
    )
    await authenticator.start()
    stack.push_async_callback(authenticator.stop)
    counters = await _counters(settings, revocations, clock, stack)
    models = settings.catalogue_models
    published = PublishedEntries(pool.run)
    projects_listed = GitlabEntries(policy.issuers, pool.run)
    catalogue = Catalogue(policy, Repository(models, clock) if models else None, published, projects_listed)
    publishing = Publishing(pool, catalogue, clock, settings.catalogue_terms)
    return Parts(
        *(settings, policy, own, clock, pool, operations, revocations, keys, tokens, authenticator, counters),
        catalogue,
        publishing,
        Using(pool, catalogue, clock),
    )


async def _known(policy: Policy, pool: Pool, clock: Clock, stack: AsyncExitStack) -> tuple[KnownOwners, KnownProjects]:
    """Copies of what is known of owners, and of projects of a GitLab if the policy has any."""
    owners = KnownOwners(pool.run, clock, poll=_OWNERS)
    projects = KnownProjects(policy.issuers, pool.run, clock, poll=_OWNERS)
    for each in (owners, projects) if projects else (owners,):
        await each.start()
        stack.push_async_callback(each.stop)
    return owners, projects


def _with_own_keys(fetch: Fetch, own: OwnTokens, keys: SigningKeys) -> Fetch:
    """Without a request to this very process for its own keys."""

    async def fetched(url: str) -> bytes:
        if url != own.issuer.jwks_url:
            return await fetch(url)
        await keys.signing()  # makes the first one
        return json.encode(await keys.jwks())

    return fetched


async def _counters(
    settings: ConsoleSettings, revocations: RevocationStore, clock: Clock, stack: AsyncExitStack
) -> RedisSettlement:
    """Read only, to say what is left of a person's limits: nothing is settled here."""

    async def revoked(requests: Sequence[SettleRequest]) -> Sequence[Kind | None]:
        return await revocations.revoked([(request.revocation, request.issued_at) for request in requests])

    counters = RedisSettlement(
        settings.redis_url.get_secret_value(),
        timeout=_REDIS,
        ledger_max=sys.maxsize,  # how full the ledger is, authorizers report
        revoked_in_postgres=revoked,
        known=KnownRevocations(clock, poll=_POSTGRES),
        clock=clock,
        shards=settings.redis_shards,
    )
    await counters.start()
    stack.push_async_callback(counters.stop)
    return counters
