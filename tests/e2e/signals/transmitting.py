"""A transmitter of security events that does what a test tells it to: as Keycloak 26.7 answers, or otherwise."""

from __future__ import annotations

from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.signals import AUDIENCE, STREAM
from tests.tokens import ISSUER

SSF = f"{ISSUER}/ssf/transmitter"


class FakeTransmitter:
    """One stream of one client."""

    def __init__(self) -> None:
        self.sets: dict[str, str] = {}
        """By `jti`: what was not acknowledged."""
        self.acknowledged: list[str] = []
        self.refused: dict[str, dict[str, str]] = {}
        self.stream_ids: list[str] = []
        self.created = 0
        self.polls = 0
        self.tokens = 0
        self.valid_token = ""
        self.state = "enabled"
        self.status = 200
        """Of every answer to a request with a token."""
        self.metadata: dict[str, Any] = {
            "issuer": ISSUER,
            **{f"{name}_endpoint": f"{SSF}/{name}" for name in ("configuration", "status", "verification")},
        }
        routes = [
            Route("/realms/ml/.well-known/ssf-configuration", self._metadata),
            Route("/realms/ml/protocol/openid-connect/token", self._token, methods=["POST"]),
            Route("/realms/ml/ssf/transmitter/configuration", self._streams, methods=["GET", "POST", "DELETE"]),
            Route("/realms/ml/ssf/transmitter/poll/{stream}", self._poll, methods=["POST"]),
            Route("/realms/ml/ssf/transmitter/status", self._status),
        ]
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(Starlette(routes=routes)))

    def stream(self, name: str) -> dict[str, Any]:
        delivery = {"method": "urn:ietf:rfc:8936", "endpoint_url": f"{SSF}/poll/{name}"}
        return {"stream_id": name, "iss": ISSUER, "aud": [AUDIENCE], "delivery": delivery}

    async def _metadata(self, _: Request) -> Response:
        return JSONResponse(self.metadata)

    async def _token(self, request: Request) -> Response:
        form = await request.form()
        if form["client_secret"] != "secret":
            return JSONResponse({"error": "invalid_client"}, 401)
        self.tokens += 1
        self.valid_token = f"token-{self.tokens}"
        return JSONResponse({"access_token": self.valid_token, "expires_in": 300})

    async def _streams(self, request: Request) -> Response:
        if refusal := self._refusal(request):
            return refusal
        if request.method == "DELETE":
            self.stream_ids.remove(request.query_params["stream_id"])
            return Response(status_code=204)
        if request.method == "POST":
            self.created += 1
            self.stream_ids.append(f"{STREAM}-{self.created}")
            wanted = (await request.json())["delivery"]
            return JSONResponse(
                {**self.stream(self.stream_ids[-1]), **({"delivery": wanted} if "endpoint_url" in wanted else {})}, 201
            )
        return JSONResponse([self.stream(name) for name in self.stream_ids])

    async def _status(self, request: Request) -> Response:
        if request.query_params["stream_id"] not in self.stream_ids:
            return JSONResponse({"err": "stream_not_found"}, 404)
        return self._refusal(request) or JSONResponse({"status": self.state})

    async def _poll(self, request: Request) -> Response:
        if refusal := self._refusal(request):
            return refusal
        if request.path_params["stream"] not in self.stream_ids:
            return JSONResponse({"err": "stream_not_found"}, 404)
        asked = await request.json()
        self.polls += 1
        self.refused |= asked.get("setErrs", {})
        self.acknowledged += asked["ack"]
        self.sets = {jti: text for jti, text in self.sets.items() if jti not in (*asked["ack"], *self.refused)}
        some = dict(list(self.sets.items())[: asked["maxEvents"]])
        return JSONResponse({"sets": some, "moreAvailable": len(some) < len(self.sets)})

    def _refusal(self, request: Request) -> Response | None:
        if self.status != 200:
            return JSONResponse({"error": "told to"}, self.status)
        valid = request.headers["authorization"] == f"Bearer {self.valid_token}"
        return None if valid else JSONResponse({"error": "HTTP 401 Unauthorized"}, 401)
