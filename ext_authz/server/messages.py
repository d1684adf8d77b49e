"""What the supervisor and a worker send each other, over a pair of SOCK_SEQPACKET sockets: one JSON object a packet.

A packet arrives whole or not at all, and the listening socket may travel with it. A packet that is no message costs a
log line.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from typing import Generic, Literal, TypeVar

import msgspec
from msgspec import Struct

from ext_authz.errors import ConfigError
from ext_authz.policy.faults import PolicyFaults, rendered
from ext_authz.server.sources import Role

logger = logging.getLogger(__name__)

MAX_BYTES = 131_072
"""Of one message. Reports name what the policy names; this is far more than any needs."""
_MOST_FAULTS = 100


SupervisorMessage = Literal["listen", "drain"]
"""To a worker. When it is ready: accept connections, from the socket that comes with this message if there is one.
Before the process ends: report not serving."""


class Report(Struct, frozen=True, tag="report"):
    """From a worker, every second and whenever something changed. The first one says that it is ready to listen."""

    policies: dict[Role, str] = {}
    """Hash of each that it has."""
    candidate_faults: tuple[str, ...] = ()
    """Why the candidate policy has no hash."""
    up: dict[str, bool] = {}
    """By dependency."""
    lacking: tuple[str, ...] = ()
    """The dependencies without which no check gets a verdict."""
    causes: dict[str, str] = {}
    """By dependency that does not work: why, in one sentence, where that is known."""
    degraded: dict[str, str] = {}
    """By dependency that is away: the failure mode in force."""
    serving: bool = False
    listening: bool = False


class Failed(Struct, frozen=True, tag="failed"):
    """From a worker: it cannot start or continue, and ends. As `sources.Rejected`."""

    faults: tuple[str, ...]
    role: Role | None = None
    again: bool = False


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


WorkerMessage = Report | Failed | Differences

M = TypeVar("M")


def sentences(wrong: ConfigError) -> tuple[str, ...]:
    """What is wrong, fault by fault if it is a policy."""
    faults = wrong.faults[:_MOST_FAULTS] if isinstance(wrong, PolicyFaults) else ()
    return tuple(map(rendered, faults)) or (str(wrong),)


class Line(Generic[M]):
    """One end of the pair. Nothing here waits."""

    def __init__(self, end: socket.socket, kind: object, sender: str, *, descriptors: int = 0) -> None:
        """`kind`: the union of messages that `sender`, at the other end, may send, with so many descriptors each."""
        end.settimeout(0)
        self.end = end
        self._decoder: msgspec.json.Decoder[M] = msgspec.json.Decoder(kind)
        self._sender = sender
        self._descriptors = descriptors

    def send(self, message: SupervisorMessage | WorkerMessage, with_socket: socket.socket | None = None) -> None:
        """Not sent when the queue is full, the message too long, or nobody reads any more."""
        try:
            socket.send_fds(self.end, [msgspec.json.encode(message)], [with_socket.fileno()] if with_socket else [])
        except OSError as failure:
            logger.debug("a message was not sent", extra={"error": failure.strerror})

    def receive(self) -> Iterator[tuple[M, list[int]]]:
        """The messages that are there, each with its descriptors, which are the caller's to close.

        Raises:
            EOFError: the other end is closed.
        """
        while True:
            try:
                data, descriptors, flags, _ = socket.recv_fds(
                    self.end, MAX_BYTES, self._descriptors, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            except ConnectionResetError:  # it was killed with a message unread
                raise EOFError from None
            if not data:
                raise EOFError
            if flags & socket.MSG_TRUNC:
                logger.error("a message is too long", extra={"detail": self._sender})
                continue
            try:
                message = self._decoder.decode(data)
            except Exception as wrong:  # noqa: BLE001 - invalid UTF-8, no JSON, too deep, no such message
                logger.warning("a message was not understood", extra={"detail": self._sender, "error": str(wrong)})
                continue
            yield message, descriptors
