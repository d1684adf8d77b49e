"""A small answer that unpacks to a large one costs no client of an identity provider its memory, and is named."""

from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler

import pytest

from ext_authz.clock import SystemClock
from ext_authz.errors import Unavailable
from ext_authz.identity.fetch import HttpFetch, http_client
from ext_authz.policy.issuers import Issuer
from ext_authz.poller.keycloak import Keycloak
from ext_authz.signals.transmitter import Transmitter
from ext_authz.web.oidc import IdentityProvider
from tests.http_server import running_http_server

BOMB = gzip.compress(bytes(100 << 20), compresslevel=1)
MOST = 40 << 20
"""Bytes: twice what the largest answer of all may have, and some. httpx unpacks 64 kB to 64 MB."""


class _Bomb(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert self.headers["accept-encoding"] == "identity"
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-encoding", "gzip")
        self.end_headers()
        self.wfile.write(BOMB)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Quiet."""


async def keys(issuer: Issuer) -> None:
    fetch = HttpFetch(5.0)
    try:
        await fetch(issuer.jwks_url)
    finally:
        await fetch.aclose()


async def introspection(issuer: Issuer) -> None:
    fetch = HttpFetch(5.0)
    try:
        await fetch.ask(issuer.jwks_url, {"token": "x"}, ("client", "secret"))
    finally:
        await fetch.aclose()


async def sign_in(issuer: Issuer) -> None:
    async with http_client(5.0) as http:
        provider = IdentityProvider(issuer, "c", "s", redirect_uri="http://c", http=http, clock=SystemClock())
        await provider.begin("/tollgate/")


async def admin_api(issuer: Issuer) -> None:
    async with http_client(5.0) as http:
        await Keycloak(issuer, "c", "s", http=http, clock=SystemClock()).get("users", dict[str, str])


async def events(issuer: Issuer) -> None:
    async with http_client(5.0) as http:
        await Transmitter(issuer, "c", "s", http).streams()


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with running_http_server(_Bomb) as port:
        realm = f"http://127.0.0.1:{port}/realms/ml"
        yield Issuer("ml", realm, f"{realm}/protocol/openid-connect/certs", frozenset({"a"}))


@pytest.mark.parametrize("asked", [keys, introspection, sign_in, admin_api, events])
async def test_it_is_refused_before_it_is_unpacked(asked: Callable[[Issuer], Awaitable[None]], issuer: Issuer) -> None:
    tracemalloc.start()
    try:
        with pytest.raises((ValueError, Unavailable)) as refusal:
            await asked(issuer)
        assert tracemalloc.get_traced_memory()[1] < MOST
    finally:
        tracemalloc.stop()
    assert "longer than" in str(getattr(refusal.value, "detail", refusal.value))
