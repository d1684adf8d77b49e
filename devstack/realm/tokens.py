"""Issues tokens, and reads them back when one comes in to be refreshed, revoked, introspected or used."""

from __future__ import annotations

import uuid

from authlib.oauth2.rfc6749 import ClientMixin, TokenMixin
from authlib.oidc.core.util import create_half_hash

from devstack.realm.claims import ClaimSet, access_claims, groups, profile, refresh_scope
from devstack.realm.export import Client, User
from devstack.realm.keys import INTERNAL, SIGN, Claims, KeyRing
from devstack.realm.realm import Realm
from devstack.realm.sessions import Session, Sessions

TokenResponse = dict[str, str | int]

_CONTEXT = {
    "password": "onrtro",
    "authorization_code": "onrtac",
    "refresh_token": "onrtrt",
    "client_credentials": "trrtcc",
}
"""What Keycloak 26.2 and later put before an access token's `jti`: session, token and grant type."""
_LIGHTWEIGHT = "client.use.lightweight.access.token.enabled"
"""Attribute of clients whose access tokens say neither who nor what: introspection does."""
_KEPT = ("exp", "iat", "auth_time", "jti", "iss", "typ", "azp", "sid", "scope")


class Token(TokenMixin):
    """Claims of a token of ours, and whether it is still good."""

    def __init__(self, claims: Claims, *, active: bool) -> None:
        self.claims = claims
        self.active = active

    @property
    def kind(self) -> str:
        """Bearer, Refresh or ID."""
        return str(self.claims["typ"])

    @property
    def sid(self) -> str:
        return str(self.claims.get("sid", ""))

    def check_client(self, client: ClientMixin) -> bool:
        return bool(self.claims["azp"] == client.get_client_id())

    def get_scope(self) -> str:
        return str(self.claims.get("scope", ""))

    def is_expired(self) -> bool:
        return not self.active

    def is_revoked(self) -> bool:
        return not self.active


class Tokens:
    """Makes every token of the realm."""

    def __init__(self, realm: Realm, keys: KeyRing, sessions: Sessions, issuer: str) -> None:
        self._realm = realm
        self._keys = keys
        self._sessions = sessions
        self._issuer = issuer

    def for_session(self, grant: str, client: Client, session: Session, scope: str, chain: str) -> TokenResponse:
        """The answer of the token endpoint to a user's login or refresh; stores the session."""
        session = self._sessions.keep(session)
        now, ends = self._sessions.now(), self._sessions.expires_at(session)
        refresh_id = str(uuid.uuid4())
        self._sessions.link(session, client.client_id, chain, refresh_id)
        access = self._access(grant, client, self._realm.known_user(session.user_id), scope, session)
        return {
            **access,
            "refresh_expires_in": ends - now,
            "refresh_token": self._refresh(str(access["access_token"]), session, scope, chain, refresh_id),
            "session_state": session.sid,
        }

    def for_service_account(self, client: Client, account: User, scope: str) -> TokenResponse:
        """The answer to client_credentials: no session, hence no `sid` and no refresh token."""
        access = self._access("client_credentials", client, account, scope, None)
        return {**access, "refresh_expires_in": 0}

    def id_token(self, client: Client, session: Session | None, access_token: str, nonce: str | None) -> str:
        """The ID token that belongs to this access token."""
        access = self._keys.verify(access_token) or {}
        user = self._realm.known_user(session.user_id) if session else self._realm.service_account(client)
        claims = {
            **self._envelope(str(uuid.uuid4()), int(access["exp"]), session),
            "aud": client.client_id,
            "sub": user.id if user else "",
            "typ": "ID",
            "azp": client.client_id,
            **({"nonce": nonce} if nonce else {}),
            **({"sid": session.sid} if session else {}),
            "at_hash": (create_half_hash(access_token, SIGN) or b"").decode(),
            "acr": "1",
            **({**profile(user), **groups(self._realm, client, user, "id.token.claim")} if user else {}),
        }
        return self._keys.sign(claims)

    def read(self, text: str) -> Token | None:
        """A token that this realm signed, whether still good or not; None for anything else."""
        claims = self._keys.verify(text, SIGN) or self._keys.verify(text, INTERNAL)
        if claims is None or claims.get("iss") != self._issuer or "azp" not in claims:
            return None
        whole = self._whole(claims)
        return Token(whole, active=self._is_active(whole))

    def _whole(self, claims: Claims) -> Claims:
        """With what a lightweight token left out."""
        client = self._realm.client(str(claims["azp"]))
        if "sub" in claims or client is None:
            return claims
        if "sid" in claims:
            session = self._sessions.active(str(claims["sid"]))
            user = self._realm.user(session.user_id) if session else None
        else:
            user = self._realm.service_account(client)
        if user is None or claims["typ"] != "Bearer":
            return {**claims, "sub": user.id if user else ""}
        return {**claims, **access_claims(self._realm, client, user, str(claims.get("scope", "")))}

    def revoke(self, token: Token) -> None:
        """An access token goes alone; a refresh token takes its client's part of the session with it (Keycloak)."""
        if token.kind == "Refresh":
            self._sessions.detach(token.sid, str(token.claims["azp"]))
        else:
            self._sessions.revoke_token(str(token.claims["jti"]), int(token.claims["exp"]))

    def _is_active(self, claims: Claims) -> bool:
        if claims["exp"] <= self._sessions.now() or self._sessions.is_revoked(str(claims["jti"])):
            return False
        user = self._realm.user(str(claims["sub"]))
        if user is None or self._realm.client(str(claims["azp"])) is None:
            return False
        if claims["iat"] < self._realm.not_before_for(user):
            return False
        return "sid" not in claims or self._sessions.active_for(str(claims["sid"]), str(claims["azp"])) is not None

    def _access(self, grant: str, client: Client, user: User, scope: str, session: Session | None) -> TokenResponse:
        lifespan = client.lifespan or self._realm.export.access_token_lifespan
        if session:
            lifespan = min(lifespan, self._sessions.expires_at(session) - self._sessions.now())
        context, is_lightweight = _CONTEXT[grant], client.attributes.get(_LIGHTWEIGHT) == "true"
        jti = f"{context[:2]}{'lt' if is_lightweight else context[2:4]}{context[4:]}:{uuid.uuid4()}"
        claims = {
            **self._envelope(jti, self._sessions.now() + lifespan, session),
            **access_claims(self._realm, client, user, scope),
            **({"sid": session.sid} if session else {}),
        }
        kept = {name: claims[name] for name in _KEPT if name in claims} if is_lightweight else claims
        return {
            "access_token": self._keys.sign(kept),
            "expires_in": lifespan,
            "token_type": "Bearer",
            "not-before-policy": self._realm.not_before_for(user),
            "scope": scope,
        }

    def _refresh(self, access_token: str, session: Session, scope: str, chain: str, refresh_id: str) -> str:
        access = self._keys.verify(access_token) or {}
        claims = {
            **self._envelope(refresh_id, self._sessions.expires_at(session), None),
            "aud": self._issuer,
            **({"sub": session.user_id} if "sub" in access else {}),
            "typ": "Refresh",
            "azp": access["azp"],
            "sid": session.sid,
            "scope": refresh_scope(scope),
            **({"aud_x": access["aud"]} if "aud" in access else {}),
            "prov": "default",
            "reuse_id": chain,
        }
        return self._keys.sign(claims, INTERNAL)

    def _envelope(self, jti: str, expires: int, session: Session | None) -> ClaimSet:
        auth_time = session.auth_time if session else None
        return {
            "exp": expires,
            "iat": self._sessions.now(),
            **({"auth_time": auth_time} if auth_time else {}),
            "jti": jti,
            "iss": self._issuer,
        }
