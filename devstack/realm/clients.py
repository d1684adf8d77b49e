"""A client of the realm as Authlib asks about it."""

from __future__ import annotations

import hmac
from collections.abc import Collection
from urllib.parse import urlsplit

from authlib.oauth2.rfc6749 import ClientMixin

from devstack.realm.export import Client
from devstack.realm.scopes import granted_scope

_SEPARATOR = "##"
"""Between several values of one Keycloak attribute."""


class OAuthClient(ClientMixin):
    """The export's client behind Authlib's questions."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._redirect_uris = RedirectUris(client.redirect_uris)
        # Authlib's logout endpoint looks for registered URIs here.
        self.client_metadata = {"post_logout_redirect_uris": RedirectUris(_post_logout_uris(client))}

    @property
    def must_prove_key(self) -> bool:
        """PKCE is a must for clients without a secret (RFC 9700 section 2.1.1), and where the export says so."""
        return self.client.public_client or bool(self.client.attributes.get("pkce.code.challenge.method"))

    def get_client_id(self) -> str:
        return self.client.client_id

    def get_default_redirect_uri(self) -> str:
        """None, so the request must name one: OpenID Connect Core section 3.1.2.1."""
        return ""

    def get_allowed_scope(self, scope: Collection[str] | str) -> str:
        asked = scope if isinstance(scope, str) else " ".join(scope or ())
        return granted_scope(asked)  # type: ignore[return-value]  # None means "no such scope"; the stub forgets it

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
        return uri in self._exact or (_is_text(uri) and uri.startswith(self._prefixes))


def _is_text(uri: str) -> bool:
    """Nothing in it that a browser could read as another place than the prefix says."""
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
