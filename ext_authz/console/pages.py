"""All pages for people, put together: one line each."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.routing import Route

from ext_authz.billing.service import BillingService
from ext_authz.clock import Clock
from ext_authz.console.admin_policy import AdminPolicy
from ext_authz.console.admin_revocations import AdminRevocations
from ext_authz.console.administration import Administration
from ext_authz.console.catalogue_pages import CataloguePages
from ext_authz.console.door import TIMEOUT as DOOR_TIMEOUT
from ext_authz.console.door import Door
from ext_authz.console.frame import Frame, Site
from ext_authz.console.guard import Guard
from ext_authz.console.my_bills import MyBills
from ext_authz.console.my_tokens import MyTokens
from ext_authz.console.my_usage import MyUsage
from ext_authz.console.parts import Parts
from ext_authz.console.playground import Playground
from ext_authz.console.publishing_pages import PublishingPages
from ext_authz.console.quotas import Quotas
from ext_authz.console.recorded import Recorded
from ext_authz.console.service_accounts import ServiceAccounts
from ext_authz.console.sessions import Sessions
from ext_authz.console.sign_in import SignIn
from ext_authz.console.visitors import Visitors
from ext_authz.console_settings import ConsoleSettings
from ext_authz.identity.fetch import http_client
from ext_authz.policy.issuers import Issuer, OwnTokens
from ext_authz.policy.model import Policy
from ext_authz.signals.parts import issuer_of
from ext_authz.tokens.cipher import Cipher
from ext_authz.tokens.revocations import Revocations
from ext_authz.web.oidc import TIMEOUT, IdentityProvider


class Pages:
    """Routes, where they are (`site`), and what needs an end: `provider` and `door`."""

    def __init__(self, parts: Parts) -> None:
        """Raises ConfigError: the policy does not have the issuer that people sign in at."""
        settings, policy, service, pool = parts.settings, parts.policy, parts.tokens, parts.pool
        cipher = Cipher(settings.console_keys.get_secret_value())
        self.provider = _provider(settings, policy, parts.own, parts.clock)
        sessions = Sessions(pool, cipher)
        visitors = Visitors(parts.own, sessions, self.provider, parts.authenticator, parts.revocations, service)
        self.site = site = site_of(policy, parts.own, self.provider.issuer, settings.console_trusted_hops)
        self._frame = frame = Frame(site, parts.clock)
        guard = Guard(frame, visitors, sessions)
        self.errors = {404: frame.http_error, 405: frame.http_error}
        """What answers requests for what is not there."""
        http = http_client(DOOR_TIMEOUT, settings.jwks_ca_file)
        self.door = Door(settings.console_door_url or site.models, site.models, http, service)
        recorded = Recorded(pool, policy.issuers, parts.clock)
        quotas = Quotas(policy, parts.counters, pool, parts.clock)
        revocations = Revocations(parts.operations, policy)
        self._parts = (
            SignIn(frame, guard, visitors, cipher),
            MyTokens(frame, guard, service, recorded, quotas),
            ServiceAccounts(frame, guard, service),
            MyUsage(frame, guard, service, recorded, quotas, policy),
            MyBills(frame, guard, BillingService(pool, parts.clock)),
            Playground(frame, guard, self.door),
            PublishingPages(frame, guard, parts.publishing, parts.using),
            CataloguePages(frame, guard, parts.catalogue, parts.using, cipher),
            Administration(frame, guard, service, recorded, pool),
            AdminRevocations(frame, guard, revocations, policy.issuers, pool),
            AdminPolicy(frame, guard, policy, pool, settings.control_socket),
        )

    def routes(self) -> list[Route]:
        return [*self._frame.routes(), *(route for part in self._parts for route in part.routes())]


def site_of(policy: Policy, own: OwnTokens, people: Issuer, hops: int) -> Site:
    """`people`: where they sign in."""
    return Site(own.issuer.issuer, _origin(people.issuer), hops, policy.resource.url if policy.resource else "")


def _provider(settings: ConsoleSettings, policy: Policy, own: OwnTokens, clock: Clock) -> IdentityProvider:
    return IdentityProvider(
        issuer_of(policy, settings.console_issuer),
        settings.console_client_id,
        settings.console_client_secret.get_secret_value(),
        redirect_uri=f"{own.issuer.issuer}/callback",
        http=http_client(TIMEOUT, settings.jwks_ca_file),
        clock=clock,
    )


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
