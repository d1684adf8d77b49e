"""What an issuer says about a token that does not say it itself (RFC 7662): opaque ones, and Keycloak's lightweight.

- The answer is read as strictly as a token: `claims.identify` verifies the claims that are made of it here.
- Checks that have the same token at the same time share one question; the number of questions at once is bounded.
- No answer, or one that cannot be used, is an outage (503), never a refusal: the token may be good.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import sha256

from ext_authz.clock import Clock
from ext_authz.errors import Denied, Unavailable
from ext_authz.identity.cache import Verified
from ext_authz.identity.claim_values import Claims
from ext_authz.identity.claims import claimed
from ext_authz.identity.fetch import shown
from ext_authz.identity.identity import RefusedToken, invalid
from ext_authz.identity.keys import SigningKey
from ext_authz.identity.strict_json import encode_base64url, parse_object
from ext_authz.identity.tokens import COMPACT, identified
from ext_authz.observability.metrics import INTROSPECTIONS
from ext_authz.policy.issuers import Introspection, Issuer

logger = logging.getLogger(__name__)

Ask = Callable[[str, Mapping[str, str], tuple[str, str]], Awaitable[bytes]]
"""`fetch.HttpFetch.ask`: URL, form, id and secret of the client. It times out by itself, and may raise anything."""

MAX_AT_ONCE = 64
"""Questions to one issuer from one worker: whoever sends invented tokens must not take all of its time, nor ours."""

MAX_OPAQUE = 4096
"""Characters."""

_OPAQUE = re.compile(r"[A-Za-z0-9._~+/-]+=*", re.ASCII)
_TYPES = {"bearer": "Bearer", "dpop": "DPoP"}
"""`token_type` (RFC 6749 section 7.1: without case), as the claim `typ` has it."""
_ALIKE = ("iss", "jti", "sub", "azp", "client_id", "sid", "iat", "exp", "nbf", "typ", "cnf")
"""Claims of a signed token that an answer about it must repeat."""


def is_opaque(token: str) -> bool:
    """A bearer token (RFC 6750 section 2.1) that is no JWT."""
    return len(token) <= MAX_OPAQUE and _OPAQUE.fullmatch(token) is not None and COMPACT.fullmatch(token) is None


class Introspector:
    """Asks one issuer. For one event loop."""

    def __init__(self, issuer: Issuer, rules: Introspection, ask: Ask, whose: str = "") -> None:
        """`whose`: before the name of the issuer in metrics and logs."""
        self.issuer = issuer
        self.rules = rules
        self._named = whose + issuer.name
        self._ask = ask
        self._asking: dict[str, asyncio.Task[Claims | None]] = {}
        self._warned = ""
        for result in ("active", "inactive", "error"):
            INTROSPECTIONS.labels(self._named, result)

    async def verified(self, token: str, signed: Claims, key: SigningKey, clock: Clock) -> Verified:
        """The caller, for as long as the answer is believed. `signed`: the claims of a JWT, whose signature is valid.

        Raises:
            Denied: the issuer does not know the token, it has ended, or what the issuer says of it is not accepted.
            Unavailable: "introspection".
        """
        try:
            claims = await self._claims(token)
            _ensure_alike(signed, claims)
        except Denied as refusal:
            raise RefusedToken(refusal, claimed(signed, self.issuer)) from None
        now = clock.now()
        identity = identified(claims, self.issuer, now, introspected=True)
        return Verified(identity, min(identity.expires_at + self.issuer.leeway, now + self.rules.cache), key)

    async def _claims(self, token: str) -> Claims:
        """As if they had been in the token."""
        # A task of its own: the request that started it may be cancelled while others wait for it.
        task = self._asking.get(token) or self._start(token)
        await asyncio.wait({task})
        if task.cancelled() or (answer := task.result()) is None:
            raise Unavailable("introspection", f"issuer {self._named}: {self._warned or 'stopped'}")
        if answer.get("active") is not True:
            raise invalid(
                "token_inactive", "the issuer says that the token is not valid, or not any more: get a new one"
            )
        return _as_claims(answer, token, self.issuer.issuer)

    async def close(self) -> None:
        """Cancel the questions under way."""
        tasks = [*self._asking.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _start(self, token: str) -> asyncio.Task[Claims | None]:
        if len(self._asking) >= MAX_AT_ONCE:
            raise Unavailable("introspection", f"issuer {self._named}: {MAX_AT_ONCE} questions at once")
        task = asyncio.create_task(self._answer(token), name=f"introspection:{self._named}")
        self._asking[token] = task
        task.add_done_callback(lambda _: self._asking.pop(token))
        return task

    async def _answer(self, token: str) -> Claims | None:
        """None: there is none that can be used."""
        rules = self.rules
        client = rules.client_id, rules.client_secret.get_secret_value()
        try:
            body = await self._ask(rules.url, {"token": token, "token_type_hint": "access_token"}, client)
            answer = _read(body)
        except Exception as failure:  # noqa: BLE001 - whatever an issuer does wrong, the token may be good
            self._fail(failure)
            return None
        self._warned = ""
        INTROSPECTIONS.labels(self._named, "active" if answer["active"] else "inactive").inc()
        return answer

    def _fail(self, failure: Exception) -> None:
        """Each cause is logged once. The messages of `Ask` have neither the token nor the secret; others may."""
        INTROSPECTIONS.labels(self._named, "error").inc()
        what = str(failure) if isinstance(failure, ValueError) else type(failure).__name__
        error = f"{shown(self.rules.url)}: {what}"
        if error != self._warned:
            self._warned = error
            logger.warning("introspection failed", extra={"issuer": self._named, "error": error})


def introspectors(issuers: Sequence[Issuer], ask: Ask | None, whose: str) -> dict[str, Introspector]:
    """By `iss`, of those that may be asked."""
    rules = ((issuer, issuer.introspection) for issuer in issuers)
    return {issuer.issuer: Introspector(issuer, rule, ask, whose) for issuer, rule in rules if rule and ask}


def _read(body: bytes) -> Claims:
    try:
        answer = parse_object(body)
    except ValueError:
        raise ValueError("status 200, but no plain JSON object") from None
    if not isinstance(answer.get("active"), bool):
        raise ValueError("status 200, but `active` is not true or false (RFC 7662 section 2.2)")  # noqa: TRY004 - as Ask
    return answer


def _as_claims(answer: Claims, token: str, issuer: str) -> Claims:
    """What RFC 7662 section 2.2 names otherwise than tokens do, or leaves out."""
    kind = answer.get("token_type")
    named: Claims = {"typ": _TYPES.get(kind.lower(), kind)} if isinstance(kind, str) else {}
    named |= {"iss": issuer, "jti": f"opaque:{encode_base64url(sha256(token.encode()).digest())}"}
    if "username" in answer:  # of a person, who must not become the client
        named |= {"sub": None, "preferred_username": answer["username"]}
    return named | {name: value for name, value in answer.items() if value is not None}


def _ensure_alike(signed: Claims, answer: Claims) -> None:
    """The answer is about this token.

    Raises:
        Denied: it contradicts what the issuer signed.
    """
    for name in _ALIKE:
        if signed.get(name) is not None and signed[name] != answer.get(name):
            raise invalid("claim_invalid", f"the issuer says something else about the token than its claim {name}")
