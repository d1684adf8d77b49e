"""A token that an operator wants dead, whoever made it: what it says is a claim until somebody verified it."""

from __future__ import annotations

import sys

import click
import jwt

from ext_authz.clock import SystemClock
from ext_authz.errors import ConfigError, Denied, Unavailable
from ext_authz.identity.authenticator import TokenAuthenticator
from ext_authz.identity.claims import Claims
from ext_authz.identity.fetch import HttpFetch
from ext_authz.policy.model import Issuer
from ext_authz.revocation.target import Named
from ext_authz.settings import load_token_settings

MAX_BYTES = 1_000_000
"""Of standard input."""


class StandardInput(click.ParamType[str]):
    """An option that takes a token, and that only `-` may follow: what stands in a command line, others can read."""

    name = "-"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """What stands there now. What was written in its place is not repeated."""
        if value != "-":
            self.fail("a token comes through standard input: write -", param, ctx)
        return sys.stdin.buffer.read(MAX_BYTES).decode(errors="replace")


def read(token: str) -> Named:
    """Never repeats the token in an error.

    `exp` is not read: a forged one would let the revocation end before the real token does.

    Raises:
        ConfigError: this is no JWT.
    """
    try:
        claims: Claims = jwt.decode(bare(token), options={"verify_signature": False})
    except (jwt.InvalidTokenError, ValueError, RecursionError):
        raise ConfigError("--jwt: standard input holds no JWT") from None
    client = _text(claims, "azp") or _text(claims, "client_id")
    return Named(
        what="the token",
        iss=_text(claims, "iss"),
        token=_text(claims, "jti"),
        session=_text(claims, "sid"),
        user=_text(claims, "sub") or client,
        client=client,
    )


async def doubt(token: str, issuers: tuple[Issuer, ...]) -> str:
    """Why what the token says is not to be believed; empty when the door would take it."""
    if not issuers:
        return "there is no policy in TOLLGATE_POLICY that says whose keys to verify it with"
    settings = load_token_settings()
    fetch = HttpFetch(settings.jwks_timeout, settings.jwks_ca_file)
    authenticator = TokenAuthenticator(
        issuers, fetch=fetch, clock=SystemClock(), cache_size=1, max_token=settings.max_token_bytes
    )
    try:
        await authenticator.authenticate((f"Bearer {bare(token)}",))
    except Denied as refusal:
        return f"the door refuses it ({refusal.code})"
    except Unavailable as outage:
        return f"{outage.dependency} does not answer"
    else:
        return ""
    finally:
        await authenticator.stop()
        await fetch.aclose()


def bare(token: str) -> str:
    """Without blanks around it and the word in front of it."""
    return token.strip().removeprefix("Bearer ").strip()


def _text(claims: Claims, name: str) -> str:
    value = claims.get(name)
    return value if isinstance(value, str) else ""
