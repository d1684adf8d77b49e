"""Authlib's authorization server on Starlette: requests, responses and clients are ours, the protocol is Authlib's.

Authlib is synchronous and, below its Flask and Django bridges, free of any framework; this is the bridge for Starlette.
Its type stubs do not know what a bridge returns, or leave it open, so the answers are cast here and nowhere else.
"""

from __future__ import annotations

import hmac
import logging
import re
import uuid
from collections.abc import Collection, Iterable, Mapping
from typing import cast
from urllib.parse import urlsplit

from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import AuthorizationServer, BaseGrant, ClientMixin, OAuth2Payload, OAuth2Request
from authlib.oauth2.rfc6749.errors import InvalidClientError, InvalidScopeError, UnauthorizedClientError
from authlib.oidc.rpinitiated import EndSessionRequest
from starlette.datastructures import ImmutableMultiDict
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from devstack.realm.claims import granted_scope
from devstack.realm.events import EventLog
from devstack.realm.export import Client
from devstack.realm.keys import KeyRing
from devstack.realm.realm import Realm
from devstack.realm.sessions import Code, Codes, Session, Sessions
from devstack.realm.tokens import TokenResponse, Tokens

# At debug Authlib logs whole tokens.
logging.getLogger("authlib").setLevel(logging.INFO)

Fields = ImmutableMultiDict[str, str]
"""Form fields or query parameters."""

_LOOPBACK_PORT = re.compile(r"^(http://(?:localhost|127\.0\.0\.1)):[0-9]+(?=/|$)")
_EVENTS = {"password": "LOGIN", "authorization_code": "CODE_TO_TOKEN", "client_credentials": "CLIENT_LOGIN"}
"""By grant; Keycloak does not keep those of refresh tokens."""
_SEPARATOR = "##"
"""Between several values of one Keycloak attribute."""


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


class OAuthClient(ClientMixin):
    """A client of the export, as Authlib's interface."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._redirect_uris = RedirectUris(client.redirect_uris)
        # Authlib's logout endpoint looks for registered URIs here.
        self.client_metadata = {"post_logout_redirect_uris": RedirectUris(_post_logout_uris(client))}

    @property
    def requires_pkce(self) -> bool:
        """For clients without a secret (RFC 9700 section 2.1.1), and where the export demands it."""
        return self.client.public_client or bool(self.client.attributes.get("pkce.code.challenge.method"))

    def get_client_id(self) -> str:
        return self.client.client_id

    def get_default_redirect_uri(self) -> str:
        """None, so the request must name one: OpenID Connect Core section 3.1.2.1."""
        return ""

    def get_allowed_scope(self, scope: Collection[str] | str) -> str:
        requested = scope if isinstance(scope, str) else " ".join(scope or ())
        return granted_scope(requested)  # type: ignore[return-value]  # None means "no such scope"; the stub forgets it

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri in self._redirect_uris

    def check_client_secret(self, client_secret: str) -> bool:
        secret = self.client.secret
        return bool(secret) and hmac.compare_digest(secret.encode(), client_secret.encode())

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return (method == "none") == self.client.public_client

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code" and self.client.standard_flow_enabled

    def check_grant_type(self, grant_type: str) -> bool:
        switches = {
            "authorization_code": self.client.standard_flow_enabled,
            "password": self.client.direct_access_grants_enabled,
            "client_credentials": self.client.service_accounts_enabled,
            "refresh_token": True,
        }
        return not self.client.bearer_only and switches[grant_type]


class RedirectUris:
    """Redirect URIs as Keycloak registers them: exact, or a prefix that ends in `*`."""

    def __init__(self, patterns: Collection[str]) -> None:
        self._exact = {pattern for pattern in patterns if not pattern.endswith("*")}
        self._prefixes = tuple(pattern[:-1] for pattern in patterns if pattern.endswith("*"))

    def __contains__(self, uri: str) -> bool:
        """Where the registered URI of a program on the user's machine has no port, the program may choose one."""
        return self._has(uri) or self._has(_LOOPBACK_PORT.sub(r"\1", uri))

    def _has(self, uri: str) -> bool:
        return uri in self._exact or (_is_unambiguous(uri) and uri.startswith(self._prefixes))


def _is_unambiguous(uri: str) -> bool:
    """Nothing in it by which a browser could leave the registered prefix."""
    if not (uri.isascii() and uri.isprintable()) or "\\" in uri:
        return False
    parts = urlsplit(uri)
    harmless = parts.scheme in ("http", "https") and not parts.fragment and "@" not in parts.netloc
    return harmless and ".." not in parts.path.replace("%2e", ".").replace("%2E", ".").split("/")


def _post_logout_uris(client: Client) -> Collection[str]:
    """Keycloak: `+` means the redirect URIs, `-` none."""
    listed = client.attributes.get("post.logout.redirect.uris", "").split(_SEPARATOR)
    own = [uri for uri in listed if uri not in ("", "+", "-")]
    return [*own, *client.redirect_uris] if "+" in listed else own


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
        return cast("Response", self.handle_error_response(oauth_request, error))

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
        """Only for the log: the session and its refresh token are stored before the token exists."""
        oauth_request = cast("RealmRequest", request)
        grant = oauth_request.payload.grant_type
        if grant in _EVENTS:
            claims = self.keys.verify(str(token["access_token"])) or {}
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
