"""Whom the HTTP clients of tests trust: what httpx would read for each of them is read once."""

from __future__ import annotations

import os
import ssl
from functools import cache
from typing import Any

import httpx


def trusting(verify: object = True, cert: object = None, trust_env: bool = True) -> ssl.SSLContext:  # noqa: FBT001, FBT002 - of httpx
    """In place of `httpx.create_ssl_context`: the authorities of this machine are shared, all else is made anew."""
    if verify is True and cert is None:
        named = (os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"))
        return _of_this_machine(trust_env, *named)
    given: dict[str, Any] = {"verify": verify, "cert": cert, "trust_env": trust_env}
    return httpx.create_ssl_context(**given)


@cache
def _of_this_machine(trust_env: bool, *_named: str | None) -> ssl.SSLContext:  # noqa: FBT001 - a key
    """`_named`: by the environment, where a test may have put its own."""
    return httpx.create_ssl_context(trust_env=trust_env)
