"""What goes between the supervisor and a worker, over a socket pair: one JSON object a line, its kind in `type`.

Whoever reads takes what it understands. What is no message costs a log line, and the next one is heard.
"""

from __future__ import annotations

import logging
from typing import Generic, TypeVar

import msgspec
from msgspec import Struct

from ext_authz.reload.rollout import Holding, Order, Role

logger = logging.getLogger(__name__)

MAX_BYTES = 1_048_576
"""Of one message. Reports name what the policy names; this is far more than any needs."""


class Drain(Struct, frozen=True, tag="drain"):
    """To a worker: the drain begins."""


class Reload(Struct, frozen=True, tag="reload"):
    """To a worker: put another policy in force."""

    order: Order


SupervisorMessage = Drain | Reload


class Report(Struct, frozen=True, tag="report"):
    """From a worker, every second and whenever something changed."""

    serving: bool = False
    up: dict[str, bool] = {}
    """By dependency."""
    lacking: tuple[str, ...] = ()
    """Those without which no check gets a verdict."""
    causes: dict[str, str] = {}
    """By dependency that does not work: why."""
    degraded: dict[str, str] = {}
    """By dependency that is away: what the policy makes of that."""
    policies: dict[Role, Holding] = {}


class Misconfigured(Struct, frozen=True, tag="misconfigured"):
    """From a worker: it cannot start, and ends."""

    sentence: str


WorkerMessage = Report | Misconfigured

M = TypeVar("M")

encoder = msgspec.json.Encoder()


def encode(message: SupervisorMessage | WorkerMessage) -> bytes:
    return encoder.encode(message) + b"\n"


class Inbox(Generic[M]):
    """Makes messages of what arrives, in whatever pieces."""

    def __init__(self, kind: object, sender: str) -> None:
        """`kind`: the union of messages that `sender` may send."""
        self._decoder: msgspec.json.Decoder[M] = msgspec.json.Decoder(kind)
        self._sender = sender
        self._begun = bytearray()
        self._too_long = False

    def feed(self, data: bytes) -> list[M]:
        """The messages that are whole now. Never raises."""
        *lines, rest = data.split(b"\n")
        messages = [self._message(line) for line in lines]
        self._begin(rest)
        return [message for message in messages if message is not None]

    def _message(self, end: bytes) -> M | None:
        self._begin(end)
        line, too_long = bytes(self._begun), self._too_long
        self._begun, self._too_long = bytearray(), False
        try:
            return None if too_long else self._decoder.decode(line)
        except Exception as wrong:  # noqa: BLE001 - invalid UTF-8, no JSON, too deep, no such message
            logger.warning("a message was not understood", extra={"detail": self._sender, "error": str(wrong)})
        return None

    def _begin(self, data: bytes) -> None:
        if self._too_long or len(self._begun) + len(data) > MAX_BYTES:
            if not self._too_long:
                logger.error("a message is too long", extra={"detail": self._sender})
            self._begun, self._too_long = bytearray(), True
        else:
            self._begun += data
