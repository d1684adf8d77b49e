"""`tollgate policy explain`: one request, asked of a door that stands nowhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import jwt
from msgspec import Struct
from msgspec.structs import replace
from pydantic import ValidationError

from ext_authz.clock import SystemClock
from ext_authz.decision import Request
from ext_authz.errors import ConfigError
from ext_authz.identity.authenticator import TokenAuthenticator
from ext_authz.identity.claims import Claims
from ext_authz.identity.fetch import HttpFetch
from ext_authz.policy.model import Policy
from ext_authz.policytool.cases import IdentityDocument
from ext_authz.policytool.claims import given_claims
from ext_authz.policytool.door import Asked, Door
from ext_authz.policytool.requests import GRPC, content_type
from ext_authz.settings import load_token_settings

_FETCH_SECONDS = 5.0


class Question(Struct, frozen=True):
    """What to explain: a request, and who sends it."""

    request: Request
    claims: str = ""
    """JSON, or @file; empty: no credential, or a token."""
    token: str = ""
    """A JWT; never shown."""
    verify: bool = False
    """Fetch the keys of its issuer, as the door does; else what it says is believed."""


async def asked(question: Question, policy: Policy, now: float) -> Asked:
    """What the door would decide, with fresh counters.

    Raises:
        ConfigError: the claims or the token cannot be read.
    """
    if question.verify:
        return await _verified(question, policy, now)
    door = Door(policy, now)
    claims = _claims(question, door)
    return await door.ask(_of(question.request, "" if claims is None else door.callers.present(claims)))


async def _verified(question: Question, policy: Policy, now: float) -> Asked:
    settings = load_token_settings()
    fetch = HttpFetch(_FETCH_SECONDS, settings.jwks_ca_file)
    authenticator = TokenAuthenticator(
        policy.issuers, fetch=fetch, clock=SystemClock(), cache_size=1, max_token=settings.max_token_bytes
    )
    try:
        door = Door(policy, now, believed=authenticator)
        return await door.ask(_of(question.request, f"Bearer {question.token}"))
    finally:
        await authenticator.stop()
        await fetch.aclose()


def _of(request: Request, authorization: str) -> Request:
    return replace(request, authorization=(authorization,) if authorization else ())


def _claims(question: Question, door: Door) -> Claims | None:
    if question.token:
        return _unverified(question.token)
    if not question.claims:
        return None
    said = _json(question.claims)
    try:
        identity = IdentityDocument.model_validate({"token": said} if "iss" in said else said)
    except ValidationError as wrong:
        first = wrong.errors()[0]
        raise ConfigError(f"--claims: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return given_claims(identity, door.policy.issuers, door.clock.now())


def _json(text: str) -> dict[str, object]:
    try:
        said = json.loads(Path(text[1:]).read_text() if text.startswith("@") else text)
    except (OSError, ValueError) as wrong:
        raise ConfigError(f"--claims: {wrong}") from None
    if not isinstance(said, dict):
        raise ConfigError('--claims: write a JSON object, such as \'{"user": "alice", "roles": ["infer"]}\'')
    return said


def _unverified(token: str) -> Claims:
    """Never repeats the token in an error."""
    try:
        claims: Claims = jwt.decode(token, options={"verify_signature": False})
    except (jwt.InvalidTokenError, ValueError):
        raise ConfigError("--token: standard input holds no JWT") from None
    return claims


def written(
    method: str,
    path: str,
    host: str,
    given: dict[str, str],
    source: str,
    model: str | None,
    version: str | None,
    *,
    grpc: bool,
) -> Request:
    """The request of a command line, without a credential."""
    path, _, query = path.partition("?")
    found = {"content-type": GRPC, **given} if grpc else given
    return Request(
        method=method.upper(),
        host=host,
        path=path,
        query=query,
        content_type=content_type(found),
        headers=found,
        source=source,
        models=() if model is None else (model,),
        versions=() if version is None else (version,),
    )


def headers(pairs: Sequence[str]) -> dict[str, str]:
    """`name: value` as on a command line."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, colon, value = pair.partition(":")
        if not colon:
            raise ConfigError("--header: write name:value")
        if name.strip().lower() == "authorization":
            raise ConfigError("--header: a token goes through --token - (standard input), where nobody sees it")
        found[name.strip().lower()] = value.strip()
    return found
