"""All that is needed to be told by identity providers, built once: one line each."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from functools import partial

from starlette.requests import HTTPConnection

from ext_authz.clock import Clock
from ext_authz.console_settings import ConsoleSettings
from ext_authz.db.postgres import Pool
from ext_authz.errors import ConfigError
from ext_authz.identity.authenticator import TokenAuthenticator
from ext_authz.identity.fetch import http_client
from ext_authz.identity.messages import SignedMessages
from ext_authz.phases.client_address import client_behind
from ext_authz.policy.issuers import Issuer
from ext_authz.policy.model import Policy
from ext_authz.revocation.operations import Operations
from ext_authz.signals.obedience import Obedience
from ext_authz.signals.polling import Polling
from ext_authz.signals.receivers import Receivers
from ext_authz.signals.stream import Streams
from ext_authz.signals.transmitter import Transmitter

_SHORTEST = timedelta(days=31)
"""Of revocations."""
_PATIENCE = 5.0
"""Seconds for an answer of the transmitter."""


def issuer_of(policy: Policy, name: str) -> Issuer:
    """That people sign in at.

    Raises:
        ConfigError: the name is needed, or wrong.
    """
    known = {issuer.name: issuer for issuer in policy.issuers if not (issuer.asap or issuer.gitlab)}
    if name in known:
        return known[name]
    if not name and len(known) == 1:
        return next(iter(known.values()))
    names = ", ".join(sorted(known)) or "it has only services (asap) and GitLabs, where nobody signs in"
    raise ConfigError(f"TOLLGATE_CONSOLE_ISSUER: write which issuer of the policy people sign in at: {names}")


class Signals:
    """The endpoints for the application of the console (`routes`), and a background task (`run`)."""

    def __init__(
        self,
        settings: ConsoleSettings,
        policy: Policy,
        pool: Pool,
        authenticator: TokenAuthenticator,
        operations: Operations,
        clock: Clock,
    ) -> None:
        """`authenticator`: started by whoever has it."""
        issuer, client = issuer_of(policy, settings.console_issuer), settings.console_client_id
        messages = SignedMessages(authenticator.key_sets)
        obedience = Obedience(operations, lifetime_of(policy), clock)
        streams = Streams(pool, issuer.name)
        self._http = http_client(_PATIENCE, settings.jwks_ca_file)
        secret = settings.console_client_secret.get_secret_value()
        transmitter = Transmitter(issuer, client, secret, self._http)
        self._polling = Polling(streams, transmitter, messages, obedience, clock, settings.console_events_poll)
        self.routes = Receivers(
            messages,
            obedience,
            streams,
            _clients(policy, issuer, client, settings.console_signal_clients),
            {each.name: each for each in policy.issuers},
            console=(issuer.name, client),
            clock=clock,
            address=partial(_address, settings.console_trusted_hops),
        ).routes()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`."""
        try:
            await self._polling.run(stop)
        finally:
            await self._http.aclose()

    def causes(self) -> Mapping[str, str]:
        """By dependency, why signals do not come in now."""
        return {"ssf": self._polling.cause} if self._polling.cause else {}


def _address(hops: int, request: HTTPConnection) -> str:
    """Of who sent it, behind the proxies."""
    peer = request.client.host if request.client else ""
    return client_behind(peer, request.headers.getlist("x-forwarded-for"), hops)


def _clients(policy: Policy, issuer: Issuer, console: str, more: str) -> dict[str, frozenset[str]]:
    """Whose signals are accepted, by issuer."""
    listed = {each.name: each.clients for each in policy.issuers}
    named = frozenset(filter(None, (name.strip() for name in more.split(","))))
    return {**listed, issuer.name: issuer.clients | named | {console}}


def lifetime_of(policy: Policy) -> timedelta:
    """Of revocations: until every token that was issued before has expired, on whichever clock."""
    return max(_SHORTEST, timedelta(seconds=policy.longest_life, days=1))
