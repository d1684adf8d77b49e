"""Authlib's authorization server on Starlette: requests, responses and clients are ours, the protocol code is not.

Authlib is synchronous and, below its Flask and Django bridges, free of any framework; this is the bridge for Starlette.
Its type stubs do not know what a bridge returns, or leave it open, so the answers are cast here and nowhere else.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Collection, Iterable, Mapping
from typing import cast

from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import AuthorizationServer, BaseGrant, ClientMixin, OAuth2Payload, OAuth2Request
from authlib.oauth2.rfc6749.errors import InvalidClientError, InvalidScopeError, UnauthorizedClientError
from authlib.oidc.rpinitiated import EndSessionRequest
from starlette.datastructures import ImmutableMultiDict
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from devstack.realm.clients import OAuthClient
from devstack.realm.codes import Code, Codes
from devstack.realm.keys import KeyRing
from devstack.realm.realm import Realm
from devstack.realm.scopes import granted_scope
from devstack.realm.sessions import Sessions
from devstack.realm.store import Session
from devstack.realm.tokens import TokenResponse, Tokens

# At debug Authlib logs whole tokens.
logging.getLogger("authlib").setLevel(logging.INFO)

Fields = ImmutableMultiDict[str, str]
"""Form fields or query parameters."""


def query_of(request: Request) -> Fields:
    return Fields(request.query_params.multi_items())


async def form_of(request: Request) -> Fields:
    """The text fields of a form; files have no meaning here."""
    async with request.form() as form:
        return Fields([(name, value) for name, value in form.multi_items() if isinstance(value, str)])


class Payload(OAuth2Payload):
    """Parameters from one place only: the form of a POST, or the query where the protocol says so."""

    def __init__(self, fields: Fields) -> None:
        self._fields = fields

    @property
    def data(self) -> dict[str, str]:
        return dict(self._fields)

    @property
    def datalist(self) -> dict[str, list[str]]:
        return {name: self._fields.getlist(name) for name in self._fields}


class RealmRequest(OAuth2Request):
    """A Starlette request whose parameters have been read; Authlib fills in what it finds out."""

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

    @property
    def form(self) -> dict[str, str]:
        return self.payload.data


class RealmServer(AuthorizationServer):
    """What Authlib's grants and endpoints reach through `self.server`."""

    def __init__(self, realm: Realm, keys: KeyRing, sessions: Sessions, tokens: Tokens, codes: Codes) -> None:
        super().__init__()
        self.realm = realm
        self.keys = keys
        self.sessions = sessions
        self.tokens = tokens
        self.codes = codes

    def token_response(self, asked: RealmRequest) -> Response:
        return cast("Response", self.create_token_response(asked))

    def endpoint_response(self, name: str, asked: RealmRequest) -> Response:
        return cast("Response", self.create_endpoint_response(name, asked))  # type: ignore[no-untyped-call]

    def consent_grant(self, asked: RealmRequest, session: Session | None) -> BaseGrant:
        return cast("BaseGrant", self.get_consent_grant(asked, session))  # type: ignore[no-untyped-call]

    def authorization_response(self, asked: RealmRequest, session: Session, grant: BaseGrant) -> Response:
        return cast("Response", self.create_authorization_response(asked, grant_user=session, grant=grant))

    def ending(self, asked: RealmRequest) -> EndSessionRequest:
        return cast("EndSessionRequest", self.validate_endpoint_request("end_session", asked))

    def end(self, ending: EndSessionRequest) -> Response | None:
        """None when the client named no address to go to."""
        return cast("Response | None", self.create_endpoint_response("end_session", ending))  # type: ignore[no-untyped-call]

    def error_response(self, asked: RealmRequest, error: OAuth2Error) -> Response:
        return cast("Response", self.handle_error_response(asked, error))

    # What Authlib asks of a bridge, in the order in which it asks.

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
        except (InvalidClientError, ValueError):  # Authlib decodes the Basic header without looking
            raise InvalidClientError("Invalid client or Invalid client credentials", status_code=401) from None

    def validate_requested_scope(self, scope: str) -> None:
        if granted_scope(scope) is None:
            raise InvalidScopeError("Invalid scopes")

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
        if user:
            return self.tokens.for_session(grant_type, known, user, granted, chain=str(uuid.uuid4()))
        account = self.realm.service_account(known)
        if account is None:
            raise UnauthorizedClientError("the service account of this client is disabled")
        return self.tokens.for_service_account(known, account, granted)

    def save_token(self, token: TokenResponse, request: OAuth2Request) -> None:
        """Nothing to do: the session and its refresh token are stored before the token exists."""

    def send_signal(self, name: str, *args: object, **kwargs: object) -> None:
        """Nobody listens."""

    def handle_response(
        self,
        status: int,
        body: Mapping[str, object] | str,
        headers: Iterable[tuple[str, str]],  # type: ignore[override]  # the stub says mapping, Authlib sends pairs
    ) -> Response:
        made = Response if isinstance(body, str) else JSONResponse
        return made(body, status, dict(headers))
