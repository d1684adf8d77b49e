"""What the poller of the console asks of the realm, by its own client: over both identity providers."""

from __future__ import annotations

from ext_authz.clock import SystemClock
from ext_authz.identity.fetch import http_client
from ext_authz.policy.issuers import Issuer
from ext_authz.poller.admin_api import AdminApi
from ext_authz.poller.keycloak import TIMEOUT, Keycloak
from tests.e2e.realm.client import RealmClient
from tests.realm_admin import CONSOLE, RealmAdmin

NOBODY = "00000000-0000-0000-0000-000000000000"


async def test_it_finds_what_it_asks_for(idp: RealmClient, admin: RealmAdmin) -> None:
    """A service account is what its group is: where groups cannot be asked for, its API tokens are refused."""
    where = f"{idp.base_url}/realms/tollgate"
    keys = f"{where}/protocol/openid-connect/certs"
    issuer = Issuer(name="demo", issuer=where, jwks_url=keys, audiences=frozenset())
    async with http_client(TIMEOUT) as http:
        api = AdminApi(Keycloak(issuer, *CONSOLE, http=http, clock=SystemClock()))
        assert await api.group("/team-vision") == [admin.group_id("/team-vision")]
        assert await api.roles(f"groups/{admin.group_id('/team-vision')}", "triton-gateway") == {"infer"}
        assert await api.group("/nobody") == []
        assert await api.user(NOBODY) is None
        assert await api.client(NOBODY) is None
        assert (realm := await api.realm()) is not None
        assert realm.enabled
        recorded = await api.recorded()
        assert recorded is not None
        assert (recorded.admin_events_enabled, recorded.events_enabled) == (True, True)
