"""Authlib's authorization server on Starlette: requests, responses and clients are ours, the protocol is Authlib's.

Authlib is synchronous and, below its Flask and Django bridges, free of any framework; this is the bridge for Starlette.
Its type stubs do not know what a bridge returns, or leave it open, so the answers are cast here and nowhere else.
"""

from __future__ import annotations

import base64
import logging
import re
import uuid
from collections.abc import Collection, Iterable, Mapping
from typing import cast

from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import AuthorizationServer, BaseGrant, ClientMixin, OAuth2Payload, OAuth2Request
from authlib.oauth2.rfc6749.errors import (
    InvalidClientError,
    InvalidRequestError,
    InvalidScopeError,
    UnauthorizedClientError,
)
from authlib.oidc.rpinitiated import EndSessionRequest
from starlette.datastructures import ImmutableMultiDict
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from devstack.realm.claims import granted_scope
from devstack.realm.clients import OAuthClient
from devstack.realm.events import EventLog
from devstack.realm.keys import KeyRing
from devstack.realm.realm import Realm
from devstack.realm.sessions import Code, Codes, Session, Sessions
from devstack.realm.tokens import TokenResponse, Tokens

# At debug Authlib logs whole tokens.
logging.getLogger("authlib").setLevel(logging.INFO)

Fields = ImmutableMultiDict[str, str]
"""Form fields or query parameters."""

_EVENTS = {"password": "LOGIN", "authorization_code": "CODE_TO_TOKEN", "client_credentials": "CLIENT_LOGIN"}
"""By grant; Keycloak does not keep those of refresh tokens."""


_WRONG_CLIENT = "Invalid client or Invalid client credentials"
_NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}
_NOT_IN_ERRORS = re.compile(r"[^ -!#-\[\]-~]")
"""RFC 6749 section 5.2 leaves `"` and `\\` out."""
_WORDS = {
    "The client is not authorized to use 'grant_type=password'": (400, "Client not allowed for direct access grants"),
    "The client is not authorized to use 'grant_type=client_credentials'": (
        401,
        "Client not enabled to retrieve service account",
    ),
    "Missing 'username' in request.": (401, "Missing parameter: username"),
    "Missing 'refresh_token' in request.": (400, "No refresh token"),
    "Invalid 'code' in request.": (400, "Code not valid"),
    "Code challenge failed.": (400, "PKCE verification failed: Code mismatch"),
    "unsupported_grant_type": (400, "Unsupported grant_type"),
}
"""Authlib's description of an error, and how Keycloak answers."""


def query_of(request: Request) -> Fields:
    return Fields(request.query_params.multi_items())


async def form_of(request: Request) -> Fields:
    """The text fields of a form; files have no meaning here."""
    async with request.form() as form:
        return Fields([(name, value) for name, value in form.multi_items() if isinstance(value, str)])


class Payload(OAuth2Payload):
    """Parameters from one place only: the form of a POST, or the query where the protocol has it."""

    def __init__(self, fields: Fields) -> None:
        self._fields = fields

    @property
    def data(self) -> dict[str, str]:
        return dict(self._fields)

    @property
    def datalist(self) -> dict[str, list[str]]:
        return {name: self._fields.getlist(name) for name in self._fields}


def _claimed_client(request: OAuth2Request) -> str:
    """Whom a refused client named."""
    try:
        basic = base64.b64decode(str((request.headers or {}).get("Authorization", "")).removeprefix("Basic ")).decode()
    except ValueError:
        basic = ""
    return basic.partition(":")[0] or str(request.form.get("client_id", ""))


class RealmRequest(OAuth2Request):
    """A Starlette request whose parameters have been read; Authlib fills in client, user and code."""

    payload: Payload
    client: OAuthClient
    user: Session | None
    """Authlib's "user" is a session here: it has the user and all that belongs to the login."""
    authorization_code: Code | None

    def __init__(self, request: Request, fields: Fields) -> None:
        # Authlib wants https unless the host is loopback. We listen on loopback only, whatever name the caller used.
        here = str(request.url.replace(scheme="http", netloc="127.0.0.1"))
        super().__init__(request.method, here, headers=request.headers)
        self.payload = Payload(fields)
        self.address = request.client.host if request.client else ""

    @property
    def form(self) -> dict[str, str]:
        return self.payload.data


class RealmServer(AuthorizationServer):
    """What Authlib's grants and endpoints reach through `self.server`."""

    def __init__(  # what there is in a realm
        self, realm: Realm, keys: KeyRing, sessions: Sessions, tokens: Tokens, codes: Codes, log: EventLog
    ) -> None:
        super().__init__()
        self.realm = realm
        self.keys = keys
        self.sessions = sessions
        self.tokens = tokens
        self.codes = codes
        self.log = log

    def token_response(self, oauth_request: RealmRequest) -> Response:
        if not oauth_request.payload.grant_type:
            return self.error_response(oauth_request, InvalidRequestError("Missing form parameter: grant_type"))
        return cast("Response", self.create_token_response(oauth_request))

    def endpoint_response(self, name: str, oauth_request: RealmRequest) -> Response:
        return cast("Response", self.create_endpoint_response(name, oauth_request))  # type: ignore[no-untyped-call]

    def consent_grant(self, oauth_request: RealmRequest, session: Session | None) -> BaseGrant:
        return cast("BaseGrant", self.get_consent_grant(oauth_request, session))  # type: ignore[no-untyped-call]

    def authorization_response(self, oauth_request: RealmRequest, session: Session, grant: BaseGrant) -> Response:
        return cast("Response", self.create_authorization_response(oauth_request, grant_user=session, grant=grant))

    def ending(self, oauth_request: RealmRequest) -> EndSessionRequest:
        return cast("EndSessionRequest", self.validate_endpoint_request("end_session", oauth_request))

    def end(self, ending: EndSessionRequest) -> Response | None:
        """None when the client named no address to go to."""
        return cast("Response | None", self.create_endpoint_response("end_session", ending))  # type: ignore[no-untyped-call]

    def error_response(self, oauth_request: RealmRequest, error: OAuth2Error) -> Response:
        return self.handle_error_response(oauth_request, error)

    # The methods that Authlib calls on a bridge, in the order of a request.

    def create_oauth2_request(self, request: RealmRequest) -> RealmRequest:
        """Made by the route, as reading a form in Starlette has to be awaited."""
        return request

    def query_client(self, client_id: str) -> ClientMixin:
        client = self.realm.client(client_id)
        return OAuthClient(client) if client else None  # type: ignore[return-value]  # the stub forgets None

    def authenticate_client(
        self, request: OAuth2Request, methods: Collection[str], endpoint: str = "token"
    ) -> ClientMixin:
        """One answer for an unknown client and a wrong secret, as in Keycloak."""
        try:
            return super().authenticate_client(request, methods, endpoint)
        except (InvalidClientError, ValueError):  # Authlib decodes the Basic header unchecked
            is_known = self.realm.client(_claimed_client(request)) is not None and endpoint == "token"
            error = "unauthorized_client" if is_known else "invalid_client"
            is_named = bool(_claimed_client(request)) and endpoint == "introspection"
            words = "Client authentication failed." if is_named else _WRONG_CLIENT
            raise InvalidClientError(words, status_code=401, error=error) from None

    def validate_requested_scope(self, scope: str) -> None:
        if granted_scope(scope) is None:
            raise InvalidScopeError(f"Invalid scopes: {re.sub(_NOT_IN_ERRORS, '', scope)}")

    def handle_error_response(self, request: OAuth2Request, error: OAuth2Error) -> Response:
        """In Keycloak's words, and without the challenge of RFC 6749 section 5.2, which it leaves out."""
        response = cast("Response", super().handle_error_response(request, error))
        description = error.get_error_description() if error.error != "unsupported_grant_type" else error.error
        if error.redirect_uri or description not in _WORDS:
            if response.headers.get("www-authenticate", "").startswith("Basic"):
                del response.headers["www-authenticate"]
            return response
        status, words = _WORDS[description]
        return JSONResponse({"error": error.error, "error_description": words}, status, _NO_STORE)

    def generate_token(
        self,
        grant_type: str,
        client: ClientMixin,
        user: Session | None = None,
        scope: str | None = None,
        expires_in: int | None = None,
        include_refresh_token: bool = True,  # noqa: FBT001, FBT002  # Authlib's signature
    ) -> TokenResponse:
        granted, known = granted_scope(scope) or "", cast("OAuthClient", client).client
        if known.attributes.get("dpop.bound.access.tokens") == "true":
            raise InvalidRequestError("DPoP proof is missing")  # and this realm would take none
        if user:
            return self.tokens.for_session(grant_type, known, user, granted, chain=str(uuid.uuid4()))
        account = self.realm.service_account(known)
        if account is None:
            raise UnauthorizedClientError("the service account of this client is disabled")
        return self.tokens.for_service_account(known, account, granted)

    def save_token(self, token: TokenResponse, request: OAuth2Request) -> None:
        """Only for the log: the session and its refresh token are stored before the token exists."""
        oauth_request = cast("RealmRequest", request)
        grant = oauth_request.payload.grant_type
        if grant in _EVENTS:
            made = self.tokens.read(str(token["access_token"]))
            claims = made.claims if made else {}
            self.log.record(
                _EVENTS[grant],
                oauth_request.address,
                details={"token_id": claims["jti"], "grant_type": grant, "scope": claims["scope"]},
                clientId=claims["azp"],
                userId=claims["sub"],
                sessionId=claims.get("sid", ""),
            )

    def send_signal(self, name: str, *args: object, **kwargs: object) -> None:
        """No receivers."""

    def handle_response(
        self,
        status: int,
        body: Mapping[str, object] | str,
        headers: Iterable[tuple[str, str]],  # type: ignore[override]  # the stub has a mapping, Authlib sends pairs
    ) -> Response:
        made = Response if isinstance(body, str) else JSONResponse
        return made(body, status, dict(headers))
