"""The addresses below /realms/{realm}/protocol/openid-connect that programs call, and the document that lists them."""

from __future__ import annotations

from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749.errors import MissingAuthorizationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from devstack.realm.endpoints import userinfo
from devstack.realm.keys import SIGN
from devstack.realm.oauth import RealmRequest, RealmServer, form_of

_NO_CACHE = {"Cache-Control": "no-cache"}
_WITH_SECRET = ["client_secret_basic", "client_secret_post"]


class Protocol:
    """One method per address; Authlib has the say in all but two."""

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
        asked = RealmRequest(request, await form_of(request))
        try:
            return JSONResponse(userinfo(self._server, asked), headers=_NO_CACHE)
        except MissingAuthorizationError:
            # RFC 6750 section 3.1: no error code for a caller that did not know it needs a token.
            return Response(status_code=401, headers={"WWW-Authenticate": self._challenge})
        except OAuth2Error as error:
            response = self._server.error_response(asked, error)
            # RFC 6750 section 3 wants the challenge with every refusal; Authlib leaves it out of insufficient_scope.
            response.headers.setdefault("WWW-Authenticate", f'{self._challenge}, error="{error.error}"')
            return response

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
        "token_endpoint_auth_methods_supported": [*_WITH_SECRET, "none"],
        "introspection_endpoint_auth_methods_supported": _WITH_SECRET,
        "revocation_endpoint_auth_methods_supported": [*_WITH_SECRET, "none"],
        "scopes_supported": ["openid", "profile", "email", "address", "phone"],
        "claims_supported": ["iss", "sub", "aud", "exp", "iat", "auth_time", "name", "preferred_username", "email"],
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": True,
    }
