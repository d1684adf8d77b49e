"""A service as its authors run it without a door: aiohttp, and ASAP verified by the published library on each request.

Nothing in it knows of Tollgate. Where it listens, where keys are, and its audience come from the environment.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

import jwt
from aiohttp import web
from atlassian_jwt_auth.contrib.aiohttp import HTTPSPublicKeyRetriever, JWTAuthVerifier
from atlassian_jwt_auth.exceptions import ASAPAuthenticationException

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
VERIFIER: web.AppKey[Any] = web.AppKey("verifier", object)
GOOD = frozenset({"love", "good", "great"})


@web.middleware
async def authenticated(request: web.Request, handler: Handler) -> web.StreamResponse:
    token = request.headers.get("Authorization", "").removeprefix("Bearer ")
    try:
        claims = await request.app[VERIFIER].verify_jwt(token, os.environ["ASAP_AUDIENCE"], leeway=5)
    except (ASAPAuthenticationException, jwt.PyJWTError, KeyError, ValueError) as wrong:
        return web.json_response({"error": type(wrong).__name__}, status=401, headers={"WWW-Authenticate": "Bearer"})
    request["service"] = claims["iss"]
    return await handler(request)


async def predict(request: web.Request) -> web.Response:
    text = (await request.json())["text"]
    label = "positive" if GOOD.intersection(text.lower().split()) else "negative"
    return web.json_response({"label": label, "caller": request["service"]})


async def verifier(app: web.Application) -> None:
    retriever = HTTPSPublicKeyRetriever(os.environ["ASAP_PUBLICKEY_REPOSITORY"])
    app[VERIFIER] = JWTAuthVerifier(retriever, check_jti_uniqueness=True)


def application() -> web.Application:
    app = web.Application(middlewares=[authenticated])
    app.on_startup.append(verifier)
    app.add_routes([web.post("/sentiment/predict", predict)])
    return app


if __name__ == "__main__":
    web.run_app(application(), host="127.0.0.1", port=int(os.environ["PORT"]), print=None)
