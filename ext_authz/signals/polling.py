"""Looks after the stream of security events: asks for them (RFC 8936), obeys them, and replaces a stream that is gone.

An event is acknowledged after it is in force, with the next poll. A process that dies in between finds it again, and so
does another one that takes over; it was obeyed then, and is only acknowledged.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from hashlib import sha256

from msgspec.structs import replace

from ext_authz.clock import Clock
from ext_authz.db.backoff import pause
from ext_authz.decision import Reason
from ext_authz.errors import Denied, TollgateError, Unavailable
from ext_authz.identity.messages import SignedMessages
from ext_authz.signals.messages import EVENT_TYPES, Signal, security_event
from ext_authz.signals.metrics import SIGNALS, SIGNALS_POLLED, UNREAD
from ext_authz.signals.obedience import Obedience
from ext_authz.signals.stream import Stream, Streams
from ext_authz.signals.transmitter import StreamGone, Transmitter

log = logging.getLogger(__name__)

_LOOK = 30.0
"""Seconds between two looks at the state of a stream."""
_MAY_CHANGE = frozenset({"key_unknown", "token_not_yet_valid"})
"""The same event may be valid a moment later: after a change of keys, or by a clock that differs."""
_PATIENCE = 60.0
"""Seconds for that. Then it is refused: events that stay take the places of others in every poll."""


class Polling:
    """One background task. `cause` says why it cannot do its work now; empty: it can, or another process does."""

    def __init__(
        self,
        streams: Streams,
        transmitter: Transmitter,
        messages: SignedMessages,
        obedience: Obedience,
        clock: Clock,
        period: float,
    ) -> None:
        self.cause = ""
        self._streams = streams
        self._transmitter = transmitter
        self._messages = messages
        self._obedience = obedience
        self._clock = clock
        self._period = period
        self._acks: list[str] = []
        self._errors: dict[str, dict[str, str]] = {}
        self._first_seen: dict[str, float] = {}
        self._looked_at = -_LOOK
        self._state = "enabled"
        self._polled = SIGNALS_POLLED.labels(transmitter.issuer.name)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; survives every failure."""
        while not stop.is_set():
            more = False
            try:
                more = await self._once()
                self._report("")
            except TollgateError as failure:
                self._report(str(failure))
            except Exception as bug:
                log.exception("stream of security events failed")
                self._report(type(bug).__name__)
            if not more:
                await pause(stop, self._period)
        try:
            await self._streams.release()
        except Unavailable as failure:
            log.info("lease not released", extra={"error": failure.detail})

    async def _once(self) -> bool:
        """Whether more events wait."""
        stream = await self._streams.taken()
        if stream is None:
            self._polled.set(0)
            return False
        try:
            more = False if stream.push else await self._poll(stream)
            await self._ensure_enabled(stream)
        except StreamGone:
            await self._again(stream)
            return False
        self._polled.set(self._clock.now())
        return more

    async def _poll(self, stream: Stream) -> bool:
        acks, errors = self._acks, self._errors
        polled = await self._transmitter.poll(stream, acks, errors)
        self._acks, self._errors = [], {}
        self._first_seen = {jti: at for jti, at in self._first_seen.items() if jti in polled.sets}
        for jti, text in polled.sets.items():
            try:
                await self._obedience.obey(await self._read(jti, text, stream))
                self._acks.append(jti)
            except Denied as refusal:
                self._refuse(jti, refusal)
        return polled.more_available and bool(self._acks or self._errors)

    async def _read(self, jti: str, text: str, stream: Stream) -> Signal:
        message = await self._messages.read(text, EVENT_TYPES)
        signal = security_event(message, stream.audience, self._clock.now())
        if (signal.issuer, signal.id) != (stream.issuer, jti):
            raise Denied(Reason.INVALID_CREDENTIAL, "claim_invalid", "the event is not the one that its key names")
        return signal

    def _refuse(self, jti: str, refusal: Denied) -> None:
        since = self._first_seen.setdefault(jti, self._clock.monotonic())
        if refusal.code in _MAY_CHANGE and self._clock.monotonic() - since < _PATIENCE:
            return
        SIGNALS.labels(UNREAD, "refused").inc()
        log.error("signal refused", extra={"kind": UNREAD, "code": refusal.code, "detail": refusal.detail})
        self._errors[jti] = {"err": "invalid_request", "description": refusal.detail}

    async def _ensure_enabled(self, stream: Stream) -> None:
        """A stream that is paused is empty; one whose events are sent may be gone as well."""
        now = self._clock.monotonic()
        if now - self._looked_at >= _LOOK:
            self._state = await self._transmitter.status(stream.id)
            self._looked_at = now
        if self._state != "enabled":
            raise Unavailable("ssf", f"Keycloak says that the stream is {self._state}: enable it there")

    async def _again(self, gone: Stream) -> None:
        """Somebody deleted it, or the client, or restored the realm: what happened meanwhile was not recorded there."""
        log.error("stream of security events is gone, making a new one", extra={"issuer": gone.issuer})
        stream = await connect(self._transmitter, gone, gone.push)
        if not await self._streams.replaced(gone, stream):  # somebody disconnected meanwhile
            await self._transmitter.delete(stream.id)
        self._acks, self._errors, self._looked_at = [], {}, -_LOOK

    def _report(self, cause: str) -> None:
        if cause and cause != self.cause:
            log.error("stream of security events not asked", extra={"error": cause})
        self.cause = cause


async def connect(transmitter: Transmitter, known: Stream | None, push: str = "") -> Stream:
    """A stream that delivers in this way: the present one where it does and we can accept its events, else a new one.

    `known`: that we were connected to.
    """
    for stream in await transmitter.streams():
        if known and (known.id, known.push) == (stream.id, push) and stream.push == push:
            return replace(stream, authorization=known.authorization)
        if not (push or stream.push):
            return stream
        await transmitter.delete(stream.id)
    authorization = f"Bearer {secrets.token_urlsafe(32)}" if push else ""
    stream = await transmitter.create(push, authorization)
    return replace(stream, authorization=sha256(authorization.encode()).hexdigest() if push else "")
