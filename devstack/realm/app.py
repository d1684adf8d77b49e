"""The development realm put together: state, keys, tokens, and the addresses of Keycloak.

Key rotation over HTTP is our own, for demonstrations and tests, behind a token in the state directory: Keycloak rotates
by adding a key provider.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from devstack.realm.admin import Admin, nothing_there
from devstack.realm.admin_changes import Changes
from devstack.realm.admin_reads import Reading
from devstack.realm.browser import WARNING, Browser, front_page
from devstack.realm.claims import origins
from devstack.realm.endpoints import Protocol, register_endpoints
from devstack.realm.events import EventLog
from devstack.realm.export import RealmExport
from devstack.realm.grants import register_grants
from devstack.realm.keys import KeyRing
from devstack.realm.oauth import RealmServer
from devstack.realm.realm import Realm
from devstack.realm.sessions import Codes, Sessions, open_database
from devstack.realm.signals import Signals
from devstack.realm.tokens import Tokens
from ext_authz.clock import Clock

_LOOPBACK_NAMES = ["127.0.0.1", "localhost", "[::1]"]


def create_app(export: RealmExport, state: Path, base_url: str, clock: Clock) -> Starlette:
    """The ASGI application; `state` is its directory, `base_url` what callers put before /realms.

    Raises:
        ConfigError: the export contradicts itself.
    """
    realm = Realm(export, int(clock.now()))
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = open_database(state)
    keys, sessions = KeyRing(database), Sessions(database, export, clock)
    issuer = f"{base_url.rstrip('/')}/realms/{realm.name}"
    tokens = Tokens(realm, keys, sessions, issuer)
    log = EventLog(realm.id, clock)
    server = RealmServer(realm, keys, sessions, tokens, Codes(export.access_code_lifespan, clock), log)
    signals = Signals(realm, keys, sessions, issuer)
    register_grants(server)
    register_endpoints(server)
    rotation = KeyRotation(keys, admin_token(state))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        database.close()

    return Starlette(
        routes=_routes(server, rotation, signals, issuer), middleware=_middleware(realm, base_url), lifespan=lifespan
    )


def _routes(server: RealmServer, rotation: KeyRotation, signals: Signals, issuer: str) -> list[BaseRoute]:
    protocol, browser, name = Protocol(server, issuer), Browser(server, signals, issuer), server.realm.name
    admin = Admin(server, signals, server.log)

    async def front(_: Request) -> Response:
        return front_page(name, issuer)

    openid_connect: list[BaseRoute] = [
        Route("/certs", protocol.certs),
        Route("/token", protocol.token, methods=["POST"]),
        Route("/token/introspect", protocol.introspect, methods=["POST"]),
        Route("/revoke", protocol.revoke, methods=["POST"]),
        Route("/userinfo", protocol.userinfo, methods=["GET", "POST"]),
        Route("/auth", browser.authorize, methods=["GET", "POST"]),
        Route("/logout", browser.log_out, methods=["GET", "POST"]),
    ]
    return [
        Route("/", front),
        Route(f"/realms/{name}/.well-known/openid-configuration", protocol.discovery),
        Mount(f"/realms/{name}/protocol/openid-connect", routes=openid_connect),
        Route(f"/admin/realms/{name}/keys/rotate", rotation.rotate, methods=["POST"]),
        *Reading(admin).routes(),
        *Changes(admin).routes(),
        Route("/admin/{path:path}", nothing_there, methods=["GET", "POST", "PUT", "DELETE"]),
    ]


def _middleware(realm: Realm, base_url: str) -> list[Middleware]:
    allowed = [origin for client in realm.clients() for origin in origins(client)]
    named = urlsplit(base_url).hostname or ""
    return [
        Middleware(DevelopmentOnly),
        # A page on the internet can make a name point to 127.0.0.1 (DNS rebinding); it cannot make it this name.
        Middleware(TrustedHostMiddleware, allowed_hosts=[*_LOOPBACK_NAMES, named], www_redirect=False),
        Middleware(CORSMiddleware, allow_origins=allowed, allow_methods=["GET", "POST"], allow_headers=["*"]),
    ]


class DevelopmentOnly:
    """Adds a warning header to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_warning(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Development-Only"] = WARNING
            await send(message)

        await self._app(scope, receive, send_with_warning)


def admin_token(state: Path) -> str:
    """The token in the state directory; made on first use, readable by its owner only."""
    file = state / "admin-token"
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(secrets.token_urlsafe(32) + "\n")
    return file.read_text().strip()


class KeyRotation:
    """A new signing key, for who has the token of the state directory."""

    def __init__(self, keys: KeyRing, token: str) -> None:
        self._keys = keys
        self._token = token

    async def rotate(self, request: Request) -> Response:
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
            sentence = "send the token of the file admin-token as a bearer token"
            return JSONResponse({"error": sentence}, 401, {"WWW-Authenticate": "Bearer"})
        return JSONResponse({"kid": self._keys.rotate()}, 201)
