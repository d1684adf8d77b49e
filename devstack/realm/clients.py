"""The clients of the export as Authlib wants them, and where they may send a browser."""

from __future__ import annotations

import hmac
import re
from collections.abc import Collection
from urllib.parse import urlsplit

from authlib.oauth2.rfc6749 import ClientMixin

from devstack.realm.claims import granted_scope
from devstack.realm.export import Client

_LOOPBACK_PORT = re.compile(r"^(http://(?:localhost|127\.0\.0\.1)):[0-9]+(?=/|$)")
_SEPARATOR = "##"
"""Between several values of one Keycloak attribute."""


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
