"""The addresses that programs call: token, keys, revocation, introspection, userinfo, and the document that lists them.

The protocol is Authlib's; here are its endpoints over our tokens and sessions, and a Starlette handler for each.
"""

from __future__ import annotations

from typing import Any

from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import ClientMixin, OAuth2Request, ResourceProtector
from authlib.oauth2.rfc6749.errors import InvalidGrantError, InvalidRequestError, MissingAuthorizationError
from authlib.oauth2.rfc6750 import BearerTokenValidator
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7662 import IntrospectionEndpoint
from authlib.oidc.rpinitiated import EndSessionEndpoint, EndSessionRequest
from joserfc.jwk import KeySet
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from devstack.realm.claims import ClaimSet, groups, profile
from devstack.realm.clients import OAuthClient
from devstack.realm.grants import CLIENT_AUTHENTICATION
from devstack.realm.keys import SIGN
from devstack.realm.oauth import RealmRequest, RealmServer, form_of
from devstack.realm.tokens import Token, Tokens

_NO_CACHE = {"Cache-Control": "no-cache"}
_TOLD = {"invalid_token": "Token verification failed", "insufficient_scope": "Missing openid scope"}
"""Why a token is not good for userinfo, in Keycloak's words."""
_WITH_SECRET = ["client_secret_basic", "client_secret_post"]


class Revocation(RevocationEndpoint):
    """RFC 7009: a client revokes a token of its own."""

    CLIENT_AUTH_METHODS = CLIENT_AUTHENTICATION
    server: RealmServer

    def authenticate_token(self, request: OAuth2Request, client: ClientMixin) -> Token | None:
        """None for what is no token of this realm."""
        token = self.server.tokens.read(request.form.get("token", ""))
        if token and not token.check_client(client):
            raise InvalidRequestError("Unmatching clients")
        return token

    def create_endpoint_response(self, request: OAuth2Request) -> tuple[int, object, list[tuple[str, str]]]:
        """Success is empty, and so is, but for its body, the answer to junk (RFC 7009 section 2.2)."""
        client = self.authenticate_endpoint_client(request)  # type: ignore[no-untyped-call]  # Authlib's stub
        token = self.authenticate_token(request, client)
        if token is None:
            return 200, {"error": "invalid_token", "error_description": "Invalid token"}, []
        self.revoke_token(token, request)
        return 200, "", []

    def revoke_token(self, token: Token, request: OAuth2Request) -> None:
        self.server.tokens.revoke(token)


class Introspection(IntrospectionEndpoint):
    """RFC 7662, for clients with a secret that the token is meant for (Keycloak since CVE-2026-37979)."""

    CLIENT_AUTH_METHODS = CLIENT_AUTHENTICATION
    server: RealmServer

    def authenticate_endpoint_client(self, request: OAuth2Request) -> ClientMixin:
        client: OAuthClient = super().authenticate_endpoint_client(request)  # type: ignore[no-untyped-call]  # Authlib
        if client.client.public_client:
            raise InvalidRequestError("Client not allowed.", status_code=403)
        return client

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
    """RP-initiated logout with `id_token_hint`; without one the user confirms first (browser.py)."""

    server: RealmServer

    def get_server_jwks(self) -> KeySet:
        return self.server.keys.verifiers(SIGN)

    def get_algorithms(self) -> list[str]:
        return [SIGN]

    def end_session(self, end_session_request: EndSessionRequest) -> None:
        """Only checks: clients have to be told, which the caller waits for (browser.py)."""
        if (end_session_request.id_token_claims or {}).get("typ") != "ID":
            raise InvalidRequestError("id_token_hint is not an ID token")


def session_of_refresh_token(server: RealmServer, request: OAuth2Request) -> Token:
    """For Keycloak's own logout of clients without a browser: POST of a refresh token ends its session."""
    client = server.authenticate_client(request, CLIENT_AUTHENTICATION, "logout")
    token = server.tokens.read(request.form["refresh_token"])
    if token is None or token.kind != "Refresh" or not token.check_client(client):
        raise InvalidGrantError("Invalid refresh token")
    return token


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
    user, client = server.realm.known_user(str(token.claims["sub"])), server.realm.client(str(token.claims["azp"]))
    mapped = groups(server.realm, client, user, "userinfo.token.claim") if client else {}
    return {"sub": user.id, **profile(user), **mapped}


def register_endpoints(server: RealmServer) -> None:
    server.register_endpoint(Revocation)
    server.register_endpoint(Introspection)
    server.register_endpoint(EndSession)


class Protocol:
    """One method per address; all but two call Authlib."""

    def __init__(self, server: RealmServer, issuer: str) -> None:
        self._server = server
        self._discovery = discovery(issuer)
        self._challenge = f'Bearer realm="{server.realm.name}"'

    async def discovery(self, request: Request) -> Response:
        return JSONResponse(self._discovery, headers=_NO_CACHE)

    async def certs(self, request: Request) -> Response:
        return JSONResponse(self._server.keys.published(), headers=_NO_CACHE)

    async def token(self, request: Request) -> Response:
        return self._server.token_response(RealmRequest(request, await form_of(request)))

    async def revoke(self, request: Request) -> Response:
        return await self._endpoint("revocation", request)

    async def introspect(self, request: Request) -> Response:
        return await self._endpoint("introspection", request)

    async def userinfo(self, request: Request) -> Response:
        oauth_request = RealmRequest(request, await form_of(request))
        try:
            return JSONResponse(userinfo(self._server, oauth_request), headers=_NO_CACHE)
        except MissingAuthorizationError:
            # RFC 6750 section 3.1: no error code for a caller that did not know it needs a token.
            return Response(status_code=401, headers={"WWW-Authenticate": self._challenge})
        except OAuth2Error as error:
            told = f'error="{error.error}", error_description="{_TOLD.get(str(error.error), "")}"'
            return Response(status_code=error.status_code, headers={"WWW-Authenticate": f"{self._challenge}, {told}"})

    async def _endpoint(self, name: str, request: Request) -> Response:
        return self._server.endpoint_response(name, RealmRequest(request, await form_of(request)))


def discovery(issuer: str) -> dict[str, str | bool | list[str]]:
    """OpenID Connect Discovery 1.0: only what this realm does."""
    here = f"{issuer}/protocol/openid-connect"
    return {
        "issuer": issuer,
        "authorization_endpoint": f"{here}/auth",
        "token_endpoint": f"{here}/token",
        "introspection_endpoint": f"{here}/token/introspect",
        "userinfo_endpoint": f"{here}/userinfo",
        "end_session_endpoint": f"{here}/logout",
        "jwks_uri": f"{here}/certs",
        "revocation_endpoint": f"{here}/revoke",
        "grant_types_supported": ["authorization_code", "client_credentials", "password", "refresh_token"],
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [SIGN],
        "token_endpoint_auth_methods_supported": _WITH_SECRET,
        "introspection_endpoint_auth_methods_supported": _WITH_SECRET,
        "revocation_endpoint_auth_methods_supported": _WITH_SECRET,
        "scopes_supported": ["openid", "profile", "email", "address", "phone"],
        "claims_supported": ["iss", "sub", "aud", "exp", "iat", "auth_time", "name", "preferred_username", "email"],
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": True,
        "backchannel_logout_supported": True,
        "backchannel_logout_session_supported": True,
    }
