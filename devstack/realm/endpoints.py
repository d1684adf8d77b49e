"""Revocation, introspection, logout and userinfo: Authlib's endpoints, answering about our tokens and sessions."""

from __future__ import annotations

from typing import Any

from authlib.oauth2.rfc6749 import ClientMixin, OAuth2Request, ResourceProtector
from authlib.oauth2.rfc6749.errors import InvalidGrantError, InvalidRequestError
from authlib.oauth2.rfc6750 import BearerTokenValidator
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7662 import IntrospectionEndpoint
from authlib.oidc.rpinitiated import EndSessionEndpoint, EndSessionRequest
from joserfc.jwk import KeySet

from devstack.realm.claims import ClaimSet, profile
from devstack.realm.grants import CLIENT_AUTHENTICATION
from devstack.realm.keys import SIGN
from devstack.realm.oauth import RealmServer
from devstack.realm.tokens import Token, Tokens


class Revocation(RevocationEndpoint):
    """RFC 7009: a client takes back a token of its own."""

    CLIENT_AUTH_METHODS = CLIENT_AUTHENTICATION
    server: RealmServer

    def query_token(self, token_string: str, token_type_hint: str | None) -> Token | None:
        return self.server.tokens.read(token_string)

    def revoke_token(self, token: Token, request: OAuth2Request) -> None:
        self.server.tokens.revoke(token)


class Introspection(IntrospectionEndpoint):
    """RFC 7662, for clients with a secret that the token is meant for (Keycloak since CVE-2026-37979)."""

    CLIENT_AUTH_METHODS = ("client_secret_basic", "client_secret_post")
    server: RealmServer

    def query_token(self, token_string: str, token_type_hint: str | None) -> Token | None:
        return self.server.tokens.read(token_string)

    def check_permission(self, token: Token, client: ClientMixin, request: OAuth2Request) -> bool:
        audience = token.claims.get("aud", [])
        return client.get_client_id() in ([audience] if isinstance(audience, str) else audience)

    def introspect_token(self, token: Token) -> dict[str, Any]:
        claims = token.claims
        named = {"client_id": claims["azp"], "username": claims["preferred_username"], "token_type": claims["typ"]}
        return {**claims, **named}


class EndSession(EndSessionEndpoint):
    """RP-initiated logout with `id_token_hint`; without one the page asks first (pages.py)."""

    server: RealmServer

    def get_server_jwks(self) -> KeySet:
        return self.server.keys.verifiers(SIGN)

    def get_algorithms(self) -> list[str]:
        return [SIGN]

    def end_session(self, end_session_request: EndSessionRequest) -> None:
        claims = end_session_request.id_token_claims or {}
        if claims.get("typ") != "ID":
            raise InvalidRequestError("id_token_hint is not an ID token")
        self.server.sessions.end(str(claims.get("sid", "")))


def logout_with_refresh_token(server: RealmServer, request: OAuth2Request) -> tuple[int, str, list[tuple[str, str]]]:
    """Keycloak's own logout for clients without a browser: POST of a refresh token ends its session."""
    client = server.authenticate_client(request, CLIENT_AUTHENTICATION, "logout")
    token = server.tokens.read(request.form["refresh_token"])
    if token is None or token.kind != "Refresh" or not token.check_client(client):
        raise InvalidGrantError("Invalid refresh token")
    server.sessions.end(token.sid)
    return 204, "", [("Cache-Control", "no-cache")]


class AccessTokens(BearerTokenValidator):
    """Access tokens of this realm, presented to this realm."""

    def __init__(self, tokens: Tokens, realm: str) -> None:
        super().__init__(realm=realm)
        self._tokens = tokens

    def authenticate_token(self, token_string: str) -> Token | None:
        token = self._tokens.read(token_string)
        return token if token and token.kind == "Bearer" else None


def userinfo(server: RealmServer, request: OAuth2Request) -> ClaimSet:
    """OpenID Connect Core section 5.3."""
    protector = ResourceProtector()
    protector.register_token_validator(AccessTokens(server.tokens, server.realm.name))
    token: Token = protector.validate_request(["openid"], request)  # type: ignore[no-untyped-call]  # Authlib's stub
    user = server.realm.known_user(str(token.claims["sub"]))
    return {"sub": user.id, **profile(user)}


def register_endpoints(server: RealmServer) -> None:
    server.register_endpoint(Revocation)
    server.register_endpoint(Introspection)
    server.register_endpoint(EndSession)
