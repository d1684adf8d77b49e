"""Authorization codes: one minute, one use. In memory: a restart costs a login that was just under way."""

from __future__ import annotations

from dataclasses import dataclass

from authlib.oauth2.rfc6749 import AuthorizationCodeMixin

from devstack.realm.store import Session
from ext_authz.clock import Clock


@dataclass(frozen=True)
class Code(AuthorizationCodeMixin):
    """What the user agreed to, until the client comes for its tokens. Authlib reads the two challenge fields."""

    session: Session
    client_id: str
    redirect_uri: str
    scope: str
    nonce: str | None
    code_challenge: str | None
    code_challenge_method: str | None

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope


class Codes:
    """Hands each code out once and remembers it as used until it would have expired."""

    def __init__(self, lifespan: int, clock: Clock) -> None:
        self._lifespan = lifespan
        self._clock = clock
        self._codes: dict[str, tuple[float, Code]] = {}
        self._used: set[str] = set()

    def add(self, text: str, code: Code) -> None:
        self._forget_expired()
        self._codes[text] = (self._clock.monotonic() + self._lifespan, code)

    def take(self, text: str) -> tuple[Code | None, bool]:
        """The code, and whether somebody came with it before (RFC 6749 section 4.1.2: then all it gave is void)."""
        self._forget_expired()
        known = self._codes.get(text)
        used_before = text in self._used
        if known:
            self._used.add(text)
        return (known[1] if known else None), used_before

    def _forget_expired(self) -> None:
        now = self._clock.monotonic()
        self._codes = {text: entry for text, entry in self._codes.items() if entry[0] > now}
        self._used &= self._codes.keys()
