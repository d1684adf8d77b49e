"""What a flow asks of the outside. A flow is a generator: it decides, and whoever runs it does the I/O.

So there is one implementation of everything for both clients (`clients.py` has the two ways to run it).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any, TypeVar

import httpx
from msgspec import Struct


class Rpc(Struct, frozen=True):
    """One unary gRPC call; answered by a `Reply`."""

    method: str
    """Of `inference.GRPCInferenceService`."""
    message: Any
    """A protobuf message."""
    metadata: Mapping[str, str]


class Reply(Struct, frozen=True):
    """What came of an `Rpc`: a message, or why there is none."""

    status: str
    """Name of the gRPC code."""
    detail: str = ""
    message: Any = None
    metadata: Mapping[str, str] = {}
    """Initial and trailing."""


class Pause(Struct, frozen=True):
    """Wait so long; answered by nothing."""

    seconds: float


class Tell(Struct, frozen=True):
    """Call this, and wait for it if it is a coroutine; answered by nothing."""

    call: Callable[[], object]


class NeedToken(Struct, frozen=True):
    """Answered by a token that is accepted for some time; only one flow fetches one."""

    refused: str = ""
    """One that was refused: never this one again."""


Step = httpx.Request | Rpc | Pause | Tell | NeedToken
_T = TypeVar("_T")
Flow = Generator[Step, Any, _T]
"""Each step is answered by what its class says."""
