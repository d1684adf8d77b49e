"""All pages for people, put together: one line each."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.routing import Route

from ext_authz.clock import Clock
from ext_authz.console.admin_policy import AdminPolicy
from ext_authz.console.admin_revocations import AdminRevocations
from ext_authz.console.administration import Administration
from ext_authz.console.door import TIMEOUT as DOOR_TIMEOUT
from ext_authz.console.door import Door
from ext_authz.console.frame import Frame, Site
from ext_authz.console.guard import Guard
from ext_authz.console.my_tokens import MyTokens
from ext_authz.console.my_usage import MyUsage
from ext_authz.console.oidc import TIMEOUT, IdentityProvider
from ext_authz.console.playground import Playground
from ext_authz.console.quotas import Quotas
from ext_authz.console.recorded import Recorded
from ext_authz.console.service_accounts import ServiceAccounts
from ext_authz.console.sessions import Sessions
from ext_authz.console.sign_in import SignIn
from ext_authz.console.visitors import Visitors
from ext_authz.console_settings import ConsoleSettings
from ext_authz.db.postgres import Pool
from ext_authz.errors import ConfigError
from ext_authz.identity.authenticator import TokenAuthenticator
from ext_authz.identity.fetch import http_client
from ext_authz.policy.issuers import Issuer, OwnTokens
from ext_authz.policy.model import Policy
from ext_authz.revocation.operations import Operations
from ext_authz.revocation.store import RevocationStore
from ext_authz.settlement.model import Settlement
from ext_authz.tokens.cipher import Cipher
from ext_authz.tokens.revocations import Revocations
from ext_authz.tokens.service import TokenService


class Pages:
    """Its parts are there for the pages of administrators too."""

    def __init__(
        self,
        settings: ConsoleSettings,
        policy: Policy,
        own: OwnTokens,
        *,
        pool: Pool,
        service: TokenService,
        authenticator: TokenAuthenticator,
        revocations: RevocationStore,
        settlement: Settlement,
        operations: Operations,
        clock: Clock,
    ) -> None:
        """Raises ConfigError: the policy does not have the issuer that people sign in at."""
        cipher = Cipher(settings.console_keys.get_secret_value())
        self.provider = _provider(settings, policy, own, clock)
        sessions = Sessions(pool, cipher)
        visitors = Visitors(own, sessions, self.provider, authenticator, revocations, service)
        site = site_of(policy, own, self.provider.issuer, settings.console_trusted_hops)
        self.frame = Frame(site, clock)
        self.guard = Guard(self.frame, visitors, sessions)
        self.errors = {404: self.frame.http_error, 405: self.frame.http_error}
        """What answers requests for what is not there."""
        http = http_client(DOOR_TIMEOUT, settings.jwks_ca_file)
        self.door = Door(settings.console_door_url or site.models, site.models, http, service)
        recorded = Recorded(pool, policy.issuers, clock)
        quotas = Quotas(policy, settlement, pool, clock)
        self._parts = (
            SignIn(self.frame, self.guard, visitors, cipher),
            MyTokens(self.frame, self.guard, service, recorded, quotas),
            ServiceAccounts(self.frame, self.guard, service),
            MyUsage(self.frame, self.guard, service, recorded, quotas, policy),
            Playground(self.frame, self.guard, self.door),
            Administration(self.frame, self.guard, service, recorded, pool),
            AdminRevocations(self.frame, self.guard, Revocations(operations, policy), policy.issuers, pool),
            AdminPolicy(self.frame, self.guard, policy, pool, settings.control_socket),
        )

    def routes(self) -> list[Route]:
        return [*self.frame.routes(), *(route for part in self._parts for route in part.routes())]


def site_of(policy: Policy, own: OwnTokens, people: Issuer, hops: int) -> Site:
    """`people`: where they sign in."""
    return Site(own.issuer.issuer, _origin(people.issuer), hops, policy.resource.url if policy.resource else "")


def _provider(settings: ConsoleSettings, policy: Policy, own: OwnTokens, clock: Clock) -> IdentityProvider:
    return IdentityProvider(
        signs_people_in(settings, policy),
        settings.console_client_id,
        settings.console_client_secret.get_secret_value(),
        redirect_uri=f"{own.issuer.issuer}/callback",
        http=http_client(TIMEOUT, settings.jwks_ca_file),
        clock=clock,
    )


def signs_people_in(settings: ConsoleSettings, policy: Policy) -> Issuer:
    """The issuer of TOLLGATE_CONSOLE_ISSUER, or the only one."""
    wanted = settings.console_issuer
    found = [issuer for issuer in policy.issuers if wanted in ("", issuer.name)]
    if len(found) != 1:
        names = ", ".join(issuer.name for issuer in policy.issuers)
        raise ConfigError(f"TOLLGATE_CONSOLE_ISSUER: name the issuer that people sign in at, one of {names}")
    return found[0]


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
