"""Key rotation over HTTP, for demonstrations and tests, behind a token that lies in the state directory.

Keycloak rotates by adding a key provider; it has the listing at the same address, the two other calls are ours.
"""

from __future__ import annotations

import hmac
import secrets
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from devstack.realm.keys import ENCRYPT, SIGN, Key, KeyInUse, KeyRing

_TOKEN_FILE = "admin-token"  # noqa: S105  # the name of the file, not what is in it


def admin_token(state: Path) -> str:
    """The token in the state directory; made on first use, readable by its owner only."""
    file = state / _TOKEN_FILE
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(secrets.token_urlsafe(32) + "\n")
    return file.read_text().strip()


class Admin:
    """Lists, rotates and disables signing keys."""

    def __init__(self, keys: KeyRing, token: str) -> None:
        self._keys = keys
        self._token = token

    async def list_keys(self, request: Request) -> Response:
        if not self._is_admin(request):
            return _UNAUTHORIZED
        active = {alg: self._keys.active_kid(alg) for alg in (SIGN, ENCRYPT)}
        return JSONResponse({"active": active, "keys": [_described(key) for key in self._keys.all()]})

    async def rotate(self, request: Request) -> Response:
        if not self._is_admin(request):
            return _UNAUTHORIZED
        return JSONResponse(_described(self._keys.rotate()), 201)

    async def disable(self, request: Request) -> Response:
        if not self._is_admin(request):
            return _UNAUTHORIZED
        try:
            found = self._keys.disable(request.path_params["kid"])
        except KeyInUse:
            return JSONResponse({"error": "this key is active: rotate first, then disable it"}, 409)
        return Response(status_code=204) if found else JSONResponse({"error": "no such key"}, 404)

    def _is_admin(self, request: Request) -> bool:
        given = request.headers.get("authorization", "")
        return hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode())


_UNAUTHORIZED = JSONResponse(
    {"error": "send the token of the file admin-token as a bearer token"}, 401, {"WWW-Authenticate": "Bearer"}
)


def _described(key: Key) -> dict[str, str]:
    status = "ACTIVE" if key.active else "PASSIVE"
    return {"kid": key.kid, "algorithm": key.alg, "use": key.use.upper(), "status": status}
