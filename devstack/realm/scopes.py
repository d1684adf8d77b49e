"""Client scopes: Keycloak's built-in ones, as a realm has them that defines none of its own."""

from __future__ import annotations

_SHOWN = ("profile", "email")
"""Default scopes that appear in a token's `scope`."""
_SILENT = ("roles", "acr", "web-origins", "basic")
"""Default scopes that shape a token but do not appear in it."""
_OPTIONAL = ("address", "phone")
"""What a client may ask for on top; there is nothing behind them here, as our users have neither."""


def granted_scope(requested: str | None) -> str | None:
    """What a token shows for what was asked (`openid profile email`), or None for a scope that does not exist."""
    asked = (requested or "").split()
    if not set(asked) <= {"openid", *_SHOWN, *_SILENT, *_OPTIONAL}:
        return None
    first = ["openid"] if "openid" in asked else []
    return " ".join([*first, *_SHOWN, *(scope for scope in _OPTIONAL if scope in asked)])


def refresh_scope(granted: str) -> str:
    """A refresh token lists the silent scopes as well."""
    return " ".join([*granted.split(), *_SILENT])
