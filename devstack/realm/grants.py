"""The four grants: Authlib checks the request, these decide who gets tokens for it."""

from __future__ import annotations

from typing import cast

from authlib.oauth2.rfc6749 import BaseGrant, ClientMixin, OAuth2Request, TokenMixin, grants
from authlib.oauth2.rfc6749.errors import InvalidGrantError, InvalidRequestError
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oidc.core import OpenIDToken
from authlib.oidc.core.grants.util import validate_request_prompt

from devstack.realm.claims import granted_scope
from devstack.realm.export import User
from devstack.realm.oauth import RealmRequest, RealmServer
from devstack.realm.sessions import Code, Session
from devstack.realm.tokens import Token, TokenResponse

CLIENT_AUTHENTICATION = ("client_secret_basic", "client_secret_post", "none")


class PasswordGrant(grants.ResourceOwnerPasswordCredentialsGrant):
    """For scripts and demonstrations; a new session each time."""

    TOKEN_ENDPOINT_AUTH_METHODS = CLIENT_AUTHENTICATION
    server: RealmServer

    def authenticate_user(self, username: str, password: str) -> Session:
        user = self.server.realm.authenticate(username, password)
        if user is None:
            known = self.server.realm.named(username)
            is_disabled = known is not None and not known.enabled
            self._record(known, "user_disabled" if is_disabled else "invalid_user_credentials")
            raise InvalidGrantError("Account disabled" if is_disabled else "Invalid user credentials")
        return self.server.sessions.begin(user, at_login_page=False)

    def _record(self, known: User | None, error: str) -> None:
        request = cast("RealmRequest", self.request)
        client, user = request.payload.client_id or "", known.id if known else ""
        details = {"grant_type": self.GRANT_TYPE}
        self.server.log.record(
            "LOGIN_ERROR", request.address, details=details, clientId=client, userId=user, error=error
        )


class ClientCredentialsGrant(grants.ClientCredentialsGrant):
    """For programs: a token of the client's service account."""

    TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic", "client_secret_post")


class AuthorizationCodeGrant(grants.AuthorizationCodeGrant):
    """For people at a browser."""

    TOKEN_ENDPOINT_AUTH_METHODS = CLIENT_AUTHENTICATION
    server: RealmServer

    def save_authorization_code(self, code: str, request: OAuth2Request) -> None:
        oauth_request = cast("RealmRequest", request)
        fields = oauth_request.payload.data
        self.server.codes.add(
            code,
            Code(
                session=cast("Session", oauth_request.user),
                client_id=oauth_request.client.get_client_id(),
                redirect_uri=oauth_request.payload.redirect_uri,
                scope=oauth_request.scope,
                nonce=fields.get("nonce"),
                code_challenge=fields.get("code_challenge"),
                code_challenge_method=fields.get("code_challenge_method"),
            ),
        )

    def query_authorization_code(self, code: str, client: ClientMixin) -> Code | None:
        found, used_before = self.server.codes.take(code)
        if found and used_before:
            self.server.sessions.end(found.session.sid)
        if found is None or used_before or found.client_id != client.get_client_id():
            return None
        return found

    def delete_authorization_code(self, authorization_code: Code) -> None:
        """Nothing to do: `take` returns a code only once."""

    def authenticate_user(self, authorization_code: Code) -> Session | None:
        session = self.server.sessions.active(authorization_code.session.sid)
        if session and self.server.realm.user(session.user_id) is None:
            raise InvalidGrantError("User disabled")
        return session


class RefreshTokenGrant(grants.RefreshTokenGrant):
    """A new access token and, every time, a new refresh token."""

    TOKEN_ENDPOINT_AUTH_METHODS = CLIENT_AUTHENTICATION
    server: RealmServer
    request: RealmRequest

    def authenticate_refresh_token(self, refresh_token: str) -> Token:
        token = self.server.tokens.read(refresh_token)
        if token is None or token.kind != "Refresh":
            raise InvalidGrantError("Invalid refresh token")
        return token

    def authenticate_user(self, refresh_token: Token) -> Session:
        """The session behind it. A token used a second time may be stolen: the client's logins end."""
        claims, sessions = refresh_token.claims, self.server.sessions
        session = sessions.active(refresh_token.sid)
        if session is None:
            raise InvalidGrantError("Session not active")
        user = self.server.realm.user(session.user_id)
        if user is None:
            raise InvalidGrantError("User disabled")
        if claims["iat"] < self.server.realm.not_before_for(user):
            raise InvalidGrantError("Stale token")
        if not refresh_token.active:
            raise InvalidGrantError("Session not active")
        if not sessions.may_refresh(claims["reuse_id"], claims["jti"]):
            sessions.detach(refresh_token.sid, claims["azp"])
            raise InvalidGrantError("Maximum allowed refresh token reuse exceeded")
        return session

    def issue_token(self, user: Session, refresh_token: TokenMixin) -> TokenResponse:
        scope = granted_scope(self.request.payload.scope or refresh_token.get_scope()) or ""
        chain = cast("Token", refresh_token).claims["reuse_id"]
        return self.server.tokens.for_session(self.GRANT_TYPE, self.request.client.client, user, scope, chain)

    def revoke_old_credential(self, refresh_token: TokenMixin) -> None:
        """Nothing to do: the chain knows only its newest token."""


class Pkce(CodeChallenge):
    """RFC 7636 with S256 only, required where `requires_pkce`."""

    DEFAULT_CODE_CHALLENGE_METHOD = "S256"
    SUPPORTED_CODE_CHALLENGE_METHOD = ["S256"]  # noqa: RUF012  # Authlib's attribute, never changed

    def validate_code_challenge(self, grant: BaseGrant, redirect_uri: str) -> None:
        oauth_request = cast("RealmRequest", grant.request)
        if oauth_request.client.requires_pkce and not oauth_request.payload.data.get("code_challenge"):
            raise InvalidRequestError("Missing parameter: code_challenge")
        super().validate_code_challenge(grant, redirect_uri)


class IdTokens(OpenIDToken):
    """Adds the ID token where the scope has `openid`; the claims are Keycloak's, so we encode it."""

    def __init__(self, server: RealmServer) -> None:
        self._server = server

    def encode_id_token(self, token: TokenResponse, request: OAuth2Request) -> str:
        oauth_request = cast("RealmRequest", request)
        nonce = oauth_request.authorization_code.nonce if oauth_request.authorization_code else None
        return self._server.tokens.id_token(
            oauth_request.client.client, oauth_request.user, str(token["access_token"]), nonce
        )


def answer_prompt(grant: BaseGrant) -> None:
    """`prompt=none` without a session is answered with login_required (OpenID Connect Core section 3.1.2.6)."""
    grant.register_hook("after_validate_consent_request", validate_request_prompt)


def register_grants(server: RealmServer) -> None:
    id_tokens = IdTokens(server)
    server.register_grant(PasswordGrant, [id_tokens])
    server.register_grant(ClientCredentialsGrant, [id_tokens])
    server.register_grant(RefreshTokenGrant, [id_tokens])
    server.register_grant(AuthorizationCodeGrant, [id_tokens, Pkce(required=True), answer_prompt])
