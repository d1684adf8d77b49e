"""A stock Envoy verifies API tokens by itself: its own filter, the console's key set, and the prefix of the header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
from msgspec.structs import replace

from ext_authz.identity.api_tokens import unwrap, wrap
from ext_authz.policy.issuers import OwnTokens
from ext_authz.render.endpoints import LOOPBACK, Address, Endpoints
from tests.e2e.render.world import running_envoy
from tests.e2e.tokens.world import ALICE, policy_of, wanted, world_of
from tests.http_server import serving_files
from tests.own_tokens import own_jws
from tests.services import free_port, wait_for
from tests.tokens import mint

TYPES = "type.googleapis.com/envoy.extensions.filters"


def config(port: int, keys: int, own: OwnTokens) -> dict[str, Any]:
    """Its filter `jwt_authn`, and an answer to whatever it lets pass."""
    provider = {
        "issuer": own.issuer.issuer,
        "audiences": sorted(own.issuer.audiences),
        "from_headers": [{"name": "authorization", "value_prefix": "~"}],
        "remote_jwks": {"http_uri": {"uri": f"http://{LOOPBACK}:{keys}/jwks.json", "cluster": "keys", "timeout": "5s"}},
    }
    verified = {
        "@type": f"{TYPES}.http.jwt_authn.v3.JwtAuthentication",
        "providers": {"tollgate": provider},
        "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "tollgate"}}],
    }
    routes = [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}]
    manager = {
        "@type": f"{TYPES}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "stock",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [
            {"name": "jwt", "typed_config": verified},
            {"name": "router", "typed_config": {"@type": f"{TYPES}.http.router.v3.Router"}},
        ],
    }
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    endpoint = {"endpoint": {"address": address(keys)}}
    cluster = {
        "name": "keys",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "keys", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    listener = {"name": "front", "address": address(port), "filter_chains": [chain]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": LOOPBACK, "port_value": port}}


def changed(token: str, at: int) -> str:
    """With the checksum that goes with it."""
    jws = unwrap(token)
    return wrap(f"{jws[:at]}{'A' if jws[at] != 'A' else 'B'}{jws[at + 1 :]}")


async def test_a_stock_envoy_verifies_them(database_url: str, redis_url: str, tmp_path: Path) -> None:
    policy = policy_of(tmp_path)
    assert policy.tokens is not None
    async with world_of(database_url, redis_url, policy) as console:
        assert ALICE.identity is not None
        await console.service.signed_in(ALICE.identity)
        token = (await console.service.create(ALICE, wanted())).token
        (tmp_path / "jwks.json").write_text(json.dumps(await console.keys.jwks()))
    jws = unwrap(token)
    refused = {
        "a changed header": changed(token, 5),
        "a changed claim": changed(token, jws.index(".") + 9),
        "a changed signature": changed(token, jws.rindex(".") + 9),
        "a key of somebody": wrap(own_jws({"iss": policy.tokens.issuer.issuer, "aud": "gateway"})),
        "without its prefix": jws,
        "of the identity provider": mint(),
        "no token": "x",
    }
    front = Address(LOOPBACK, free_port())
    with serving_files(tmp_path) as keys:
        stock = config(front.port, keys, policy.tokens)
        with running_envoy(stock, replace(Endpoints(), listen=front), tmp_path):

            def status(of: str) -> int:
                return httpx.get(
                    f"http://{LOOPBACK}:{front.port}/", headers={"authorization": f"Bearer {of}"}
                ).status_code

            wait_for(lambda: status(token) == httpx.codes.OK)
            assert {case: status(each) for case, each in refused.items()} == dict.fromkeys(refused, 401)
            assert status(token) == httpx.codes.OK
