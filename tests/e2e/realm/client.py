"""The other side of the protocol: a client of the realm, a browser, and PyJWT as the one who checks tokens."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
from jwt.types import Options

GATEWAY = ("triton-gateway", "triton-gateway-secret")
BATCH = ("batch-job", "batch-job-secret")
CALLBACK = "http://127.0.0.1:8080/callback"
VERIFIER = "v" * 64
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()

Json = dict[str, Any]


class RealmClient:
    """Calls the OpenID Connect endpoints of one identity provider."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self.issuer = f"{base_url}/realms/tollgate"
        self.http = httpx.Client(base_url=f"{self.issuer}/protocol/openid-connect", timeout=20)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def token(self, form: dict[str, str], auth: tuple[str, str] | None = None) -> httpx.Response:
        return self.http.post("/token", data=form, auth=auth or httpx.USE_CLIENT_DEFAULT)

    def login(self, user: str, client: str = "web-app", **more: str) -> Json:
        """The password grant; the demo realm's passwords are the user names."""
        form = {"grant_type": "password", "client_id": client, "username": user, "password": user, **more}
        return _json(self.token(form))

    def service_login(self) -> Json:
        return _json(self.token({"grant_type": "client_credentials"}, BATCH))

    def refresh(self, refresh_token: str, client: str = "web-app", **more: str) -> httpx.Response:
        return self.token({"grant_type": "refresh_token", "client_id": client, "refresh_token": refresh_token, **more})

    def introspect(self, token: str) -> Json:
        return _json(self.http.post("/token/introspect", data={"token": token}, auth=GATEWAY))

    def is_active(self, token: str) -> bool:
        return bool(self.introspect(token)["active"])

    def userinfo(self, token: str | None) -> httpx.Response:
        return self.http.get("/userinfo", headers={"Authorization": f"Bearer {token}"} if token else {})

    def revoke(self, token: str, client: str = "web-app") -> httpx.Response:
        return self.http.post("/revoke", data={"token": token, "client_id": client})

    def jwks(self) -> list[Json]:
        return list(_json(self.http.get("/certs"))["keys"])

    def claims(self, token: str, audience: str | None = None) -> Json:
        """Verified with the published keys, and for the audience if one is given."""
        return self._decoded(token, {"verify_aud": audience is not None}, audience, self.issuer)

    def action(self, token: str) -> Json:
        """Of a callback below an admin URL, which names no issuer."""
        return self._decoded(token, {"verify_aud": False}, None, None)

    def _decoded(self, token: str, options: Options, audience: str | None, issuer: str | None) -> Json:
        kid = jwt.get_unverified_header(token)["kid"]
        key = jwt.PyJWK(next(key for key in self.jwks() if key["kid"] == kid))
        decoded: Json = jwt.decode(token, key, algorithms=["RS256"], audience=audience, issuer=issuer, options=options)
        return decoded


class Browser:
    """Keeps cookies as a browser does on loopback, where it sends Secure ones over http too (httpx does not)."""

    def __init__(self, realm: RealmClient) -> None:
        self._realm = realm
        self._cookies: dict[str, str] = {}
        self.asked = ""
        """The address of the last page."""

    def move_to(self, realm: RealmClient) -> None:
        """The same browser after a restart of the realm."""
        self._realm = realm

    def get(self, url: str, **query: str) -> httpx.Response:
        return self._keep(self._realm.http.get(url, params=query or None, headers=self._cookie_header()))

    def post(self, url: str, form: dict[str, str], **headers: str) -> httpx.Response:
        return self._keep(self._realm.http.post(url, data=form, headers={**self._cookie_header(), **headers}))

    def authorize(self, **more: str) -> httpx.Response:
        """Follow the application's link to the login page."""
        asked = {"client_id": "web-app", "response_type": "code", "redirect_uri": CALLBACK, "scope": "openid"}
        pkce = {"code_challenge": CHALLENGE, "code_challenge_method": "S256"}
        query = {**asked, "state": "st", "nonce": "n-1", **pkce, **more}
        return self.get("/auth", **{name: value for name, value in query.items() if value})

    def submit(self, page: httpx.Response, **fields: str) -> httpx.Response:
        """Fill in the page's form and submit it."""
        hidden = dict(re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', page.text))
        action = re.search(r'<form[^>]* action="([^"]*)"', page.text)
        where = page.url.join(html.unescape(action.group(1))) if action else page.url
        return self.post(str(where), {**hidden, **fields})

    def log_in(self, user: str, **more: str) -> str:
        """Through the page; the authorization code."""
        return code_in(self.submit(self.authorize(**more), username=user, password=user))

    def _cookie_header(self) -> dict[str, str]:
        return {"Cookie": "; ".join(f"{name}={value}" for name, value in self._cookies.items())}

    def _keep(self, response: httpx.Response) -> httpx.Response:
        for cookie in response.headers.get_list("set-cookie"):
            name, _, value = cookie.split(";")[0].partition("=")
            self._cookies[name] = value
        return response


def code_in(response: httpx.Response) -> str:
    assert response.status_code == 302, response.text
    return sent_back(response)["code"]


def sent_back(response: httpx.Response) -> dict[str, str]:
    """What the application gets with the redirect."""
    location = response.headers["location"]
    assert location.startswith(CALLBACK)
    return {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}


def exchange(realm: RealmClient, code: str, **more: str) -> httpx.Response:
    form = {"client_id": "web-app", "code": code, "redirect_uri": CALLBACK, "code_verifier": VERIFIER, **more}
    return realm.token({"grant_type": "authorization_code", **form})


def _json(response: httpx.Response) -> Json:
    assert response.status_code == 200, response.text
    document: Json = response.json()
    return document
