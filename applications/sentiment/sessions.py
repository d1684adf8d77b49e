"""Who is signed in: sessions in the memory of this process, so that no token is ever written down.

After a restart everybody signs in again, which takes one redirect where the identity provider still knows them.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from hashlib import sha256

import jwt
from msgspec import Struct, field

from applications.sentiment.door import Prediction
from ext_authz.clock import Clock
from ext_authz.web.oidc import Tokens

IDLE, LONGEST = 30 * 60.0, 10 * 3600.0
"""Seconds that a session lives without a request, and altogether."""
MOST, MOST_OF_ONE, MOST_PREDICTIONS = 10_000, 10, 50
"""Sessions, those of one person, and predictions that a session remembers: the oldest go."""


class Session(Struct, eq=False):
    """One browser of one person. Holds tokens: never log it."""

    subject: str
    name: str
    tokens: Tokens
    started: float
    seen: float
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    predictions: OrderedDict[str, Prediction] = field(default_factory=OrderedDict)
    """By decision id: those that this browser asked for, and no others."""
    given: dict[tuple[str, int], str] = field(default_factory=dict)
    """What the person said of a row of them."""
    notice: str = ""
    """For the next page, once."""
    refreshing: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __repr__(self) -> str:
        return "Session(***)"

    @property
    def ends(self) -> float:
        """When its access token does, in seconds since the epoch; 0 where that cannot be read."""
        try:
            return float(jwt.decode(self.tokens.access_token, options={"verify_signature": False})["exp"])
        except (jwt.InvalidTokenError, LookupError, TypeError, ValueError):
            return 0.0

    def remember(self, prediction: Prediction) -> None:
        self.predictions[prediction.decision_id] = prediction
        while len(self.predictions) > MOST_PREDICTIONS:
            gone, _ = self.predictions.popitem(last=False)
            self.given = {key: label for key, label in self.given.items() if key[0] != gone}

    def taken_notice(self) -> str:
        notice, self.notice = self.notice, ""
        return notice


class Sessions:
    """By the hash of what the cookie holds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        """The one that was used last is the last."""

    def create(self, subject: str, name: str, tokens: Tokens) -> str:
        """The value of its cookie."""
        now = self._clock.now()
        of_one = [key for key, session in self._sessions.items() if session.subject == subject]
        for key in of_one[: max(0, len(of_one) - MOST_OF_ONE + 1)]:
            del self._sessions[key]
        while len(self._sessions) >= MOST:
            self._sessions.popitem(last=False)
        cookie = secrets.token_urlsafe(32)
        self._sessions[_key(cookie)] = Session(subject, name, tokens, now, now)
        return cookie

    def find(self, cookie: str) -> Session | None:
        key, now = _key(cookie), self._clock.now()
        session = self._sessions.get(key)
        if session is None:
            return None
        if now - session.seen > IDLE or now - session.started > LONGEST:
            del self._sessions[key]
            return None
        session.seen = now
        self._sessions.move_to_end(key)
        return session

    def end(self, cookie: str) -> None:
        self._sessions.pop(_key(cookie), None)


def _key(cookie: str) -> str:
    return sha256(cookie.encode()).hexdigest()
