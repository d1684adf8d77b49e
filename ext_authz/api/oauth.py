"""The OAuth endpoints of our own issuer: discovery, keys, revocation (RFC 7009) and introspection (RFC 7662).

Nobody gets a token here by a grant of OAuth: people make them in the console.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ext_authz.api.callers import Callers
from ext_authz.api.failures import Failure, failure_of
from ext_authz.api.rest import FORM, NO_STORE, form_fields, problem
from ext_authz.decision import Reason
from ext_authz.errors import Denied
from ext_authz.identity.api_tokens import MANAGE_TOKENS, PREFIX
from ext_authz.identity.identity import Identity
from ext_authz.policy.issuers import OwnTokens
from ext_authz.tokens.keys import SigningKeys
from ext_authz.tokens.model import NotDone, Why
from ext_authz.tokens.service import TokenService

_KEYS_CACHED = 60
"""Seconds for which keys may be cached: a new one is published long before it signs."""
_LATER = "temporarily_unavailable"
_ERRORS = {400: "invalid_request", 429: _LATER, 500: "server_error", 503: _LATER}
"""By HTTP status, where there is no challenge."""
_KEPT = ("cache-control", "retry-after", "www-authenticate")
_INACTIVE = {"active": False}


class OAuth:
    """`routes` have whole paths."""

    def __init__(self, own: OwnTokens, keys: SigningKeys, tokens: TokenService, callers: Callers) -> None:
        self._own = own
        self._keys = keys
        self._tokens = tokens
        self._callers = callers
        self.routes = [
            Route("/tollgate/.well-known/openid-configuration", self._metadata),
            Route("/tollgate/.well-known/oauth-authorization-server", self._metadata),
            Route("/tollgate/jwks", _answering(self._jwks)),
            Route("/tollgate/oauth/revoke", _answering(self._revoke), methods=["POST"]),
            Route("/tollgate/oauth/introspect", _answering(self._introspect), methods=["POST"]),
        ]

    async def _metadata(self, _: Request) -> Response:
        """OpenID Connect Discovery 1.0 section 3 and RFC 8414 section 2, as far as there is something to name."""
        issuer = self._own.issuer.issuer
        document = {
            "issuer": issuer,
            "jwks_uri": f"{issuer}/jwks",
            "revocation_endpoint": f"{issuer}/oauth/revoke",
            "revocation_endpoint_auth_methods_supported": ["none"],
            "introspection_endpoint": f"{issuer}/oauth/introspect",
            "introspection_endpoint_auth_methods_supported": ["Bearer"],
            "response_types_supported": [],
            "grant_types_supported": [],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": sorted(self._own.issuer.algorithms),
            "service_documentation": f"{issuer}/api/v1/openapi.json",
        }
        return JSONResponse(document, headers={"cache-control": f"public, max-age={_KEYS_CACHED}"})

    async def _jwks(self, _: Request) -> Response:
        headers = {"cache-control": f"public, max-age={_KEYS_CACHED}"}
        return JSONResponse(await self._keys.jwks(), headers=headers, media_type="application/jwk-set+json")

    async def _revoke(self, request: Request) -> Response:
        """Who holds a token may end it, so that whoever finds a leaked one can. What is no token of ours, or is dead
        already, is answered alike (RFC 7009 section 2.2)."""
        token, address = await _token(request), self._callers.address(request)
        if (identity := await self._active(token, address)) is not None:
            await self._tokens.revoke_token(identity, address=address)
        return Response(status_code=200, headers=NO_STORE)

    async def _introspect(self, request: Request) -> Response:
        """For every verified caller (RFC 7662 section 2.1): who holds a token can read its claims anyway."""
        await self._callers.caller(request, MANAGE_TOKENS, "rest")
        identity = await self._active(await _token(request))
        return JSONResponse(_INACTIVE if identity is None else self._claims(identity), headers=NO_STORE)

    async def _active(self, token: str, address: str | None = None) -> Identity | None:
        """The identity of an API token that a check would accept now; None for all others.

        `address`: of somebody who is nobody yet, and may not try tokens without end: raises Denied, OVER_LIMIT.
        """
        if not token.startswith(PREFIX):
            return None
        try:
            sent = (f"Bearer {token}",)
            if address is None:
                return await self._callers.identity(sent)
            return await self._callers.guarded(sent, address)
        except Denied as refusal:
            if refusal.reason is Reason.OVER_LIMIT:  # else whoever ends a token would think that it is done
                raise
            return None

    def _claims(self, identity: Identity) -> dict[str, object]:
        who = identity.principal
        return {
            "active": True,
            "iss": self._own.issuer.issuer,
            "sub": who.subject,
            "username": identity.username,
            "client_id": who.client,
            "aud": list(identity.audiences),
            "scope": " ".join(sorted(identity.scopes)),
            "roles": sorted(identity.roles),
            "jti": who.token_id,
            "sid": identity.session,
            "iat": identity.issued_at,
            "exp": int(identity.expires_at),
            "token_type": "Bearer",
        }


def _answering(endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """With an error that clients of OAuth understand in place of an exception."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except Exception as error:  # noqa: BLE001 - failure_of logs what is a bug
            return _error(failure_of(error))

    return answer


def _error(failure: Failure) -> Response:
    """RFC 6749 section 5.2, as RFC 7009 section 2.2.1 and RFC 7662 section 2.3 want it."""
    known = {
        400: "invalid_request",
        429: "temporarily_unavailable",
        500: "server_error",
        503: "temporarily_unavailable",
    }
    error = failure.challenge or known.get(failure.http, "invalid_token")
    headers = {name: value for name, value in problem(failure).headers.items() if name in _KEPT}
    return JSONResponse({"error": error, "error_description": failure.detail}, failure.http, headers=headers)


async def _token(request: Request) -> str:
    """The parameter `token` of the form."""
    try:
        fields = await form_fields(request, 10)
    except ValueError:
        raise NotDone(Why.INVALID, "the form cannot be read", "token") from None
    if fields is None:
        raise NotDone(Why.INVALID, f"send the form token=... as {FORM}", "token")
    values = fields.get("token", [])
    if len(values) != 1:
        raise NotDone(Why.INVALID, "the parameter token must be there once", "token")
    return values[0]
