"""What the supervisor and a worker send each other, over a pair of SOCK_SEQPACKET sockets: one JSON object a packet.

A packet arrives whole or not at all, and a file descriptor may travel with it: the listening socket goes from a worker
to its successor this way. A packet that is no message costs a log line.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from typing import Generic, TypeVar

import msgspec
from msgspec import Struct

logger = logging.getLogger(__name__)

MAX_BYTES = 131_072
"""Of one message. Reports name what the policy names; this is far more than any needs."""


class Drain(Struct, frozen=True, tag="drain"):
    """To a worker: the process is about to end; report not serving."""


class HandOver(Struct, frozen=True, tag="hand_over"):
    """To a worker: send the listening socket, and accept from it until the end."""


class Listen(Struct, frozen=True, tag="listen"):
    """To a worker that is ready: accept connections, from the socket that comes with this message if there is one."""


SupervisorMessage = Drain | HandOver | Listen


class CandidateReport(Struct, frozen=True):
    """What became of the candidate policy."""

    hash: str = ""
    faults: tuple[str, ...] = ()


class Report(Struct, frozen=True, tag="report"):
    """From a worker, every second and whenever something changed. The first one says that it is ready to listen."""

    serving: bool = False
    listening: bool = False
    policy: str = ""
    """Hash."""
    candidate: CandidateReport | None = None
    up: dict[str, bool] = {}
    """By dependency."""
    lacking: tuple[str, ...] = ()
    """The dependencies without which no check gets a verdict."""
    causes: dict[str, str] = {}
    """By dependency that does not work: why."""
    degraded: dict[str, str] = {}
    """By dependency that is away: the failure mode in force."""


class Failed(Struct, frozen=True, tag="failed"):
    """From a worker: it cannot start or continue, and ends."""

    sentence: str
    misconfigured: bool = False
    """A setting, a TLS file or the policy is wrong."""
    policy_faults: tuple[str, ...] = ()


class Listener(Struct, frozen=True, tag="listener"):
    """From a worker: the listening socket comes with this message."""


class Difference(Struct, frozen=True):
    """A decision that the candidate policy would have taken otherwise. No credential is in it."""

    at: float
    decision_id: str
    subject: str
    client: str
    route: str
    model: str
    reason: str
    code: str
    policy: str
    candidate_route: str
    candidate_reason: str
    candidate_code: str
    candidate_policy: str


class Differences(Struct, frozen=True, tag="differences"):
    """From a worker: the latest ones that it has not sent yet."""

    differences: tuple[Difference, ...]


WorkerMessage = Report | Failed | Listener | Differences

M = TypeVar("M")

encode = msgspec.json.encode


class Line(Generic[M]):
    """One end of the pair. Nothing here waits."""

    def __init__(self, end: socket.socket, kind: object, sender: str) -> None:
        """`kind`: the union of messages that `sender`, at the other end, may send."""
        end.settimeout(0)
        self.end = end
        self._decoder: msgspec.json.Decoder[M] = msgspec.json.Decoder(kind)
        self._sender = sender

    def send(self, message: SupervisorMessage | WorkerMessage, descriptor: int | None = None) -> bool:
        """False when it was not sent: the queue is full, the message too long, or nobody reads any more."""
        try:
            socket.send_fds(self.end, [encode(message)], [] if descriptor is None else [descriptor])
        except OSError as failure:
            logger.debug("a message was not sent", extra={"error": failure.strerror})
            return False
        return True

    def receive(self) -> Iterator[tuple[M, int | None]]:
        """The messages that are there, each with its descriptor, which is the caller's to close.

        Raises:
            EOFError: the other end is closed.
        """
        while True:
            try:
                data, descriptors, flags, _ = socket.recv_fds(self.end, MAX_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return
            except ConnectionResetError:  # it was killed with a message unread
                raise EOFError from None
            if not data:
                raise EOFError
            message = self._message(data, too_long=bool(flags & socket.MSG_TRUNC))
            if message is not None:
                yield message, descriptors[0] if descriptors else None
                continue
            for descriptor in descriptors:
                os.close(descriptor)

    def _message(self, data: bytes, *, too_long: bool) -> M | None:
        if too_long:
            logger.error("a message is too long", extra={"detail": self._sender})
            return None
        try:
            return self._decoder.decode(data)
        except Exception as wrong:  # noqa: BLE001 - invalid UTF-8, no JSON, too deep, no such message
            logger.warning("a message was not understood", extra={"detail": self._sender, "error": str(wrong)})
            return None
