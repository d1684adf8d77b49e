"""HTTP/2 by hand, for what no gRPC library would send."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass, field
from pathlib import Path

import h2.config
import h2.connection
import h2.events

from ext_authz.server.rpc import CHECK


@dataclass
class Answer:
    """What came back on one stream."""

    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    reset: int | None = None
    """Error code of RST_STREAM, if there was one."""

    @property
    def status(self) -> int:
        return int(self.headers.get(":status", 0))

    @property
    def grpc_status(self) -> int:
        return int(self.headers.get("grpc-status", -1))


def frame(message: bytes, *, flag: int = 0, size: int | None = None) -> bytes:
    """A length-prefixed message; `size` lies about its length."""
    return bytes([flag]) + (len(message) if size is None else size).to_bytes(4, "big") + message


class RawCall:
    """One stream on one connection: headers at once, then whatever the test sends. `ca`: over TLS, to `localhost`."""

    def __init__(
        self,
        port: int,
        *,
        method: str = "POST",
        path: str = CHECK,
        authority: str = "tollgate",
        ca: Path | None = None,
        more: list[tuple[str, str]] = [],  # noqa: B006 - only read
        **headers: str,
    ) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        if ca:
            tls = ssl.create_default_context(cafile=ca)
            tls.set_alpn_protocols(["h2"])
            self._socket = tls.wrap_socket(self._socket, server_hostname="localhost")
        self._http2 = h2.connection.H2Connection(
            h2.config.H2Configuration(header_encoding="utf-8", validate_outbound_headers=False)
        )
        self._http2.initiate_connection()
        named = {"content-type": "application/grpc", "te": "trailers"}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        pseudo = [
            (":method", method),
            (":path", path),
            (":scheme", "https" if ca else "http"),
            (":authority", authority),
        ]
        self._http2.send_headers(1, [*pseudo, *named.items(), *more], end_stream=False)
        self._flush()

    def send(self, data: bytes, *, end: bool = False) -> RawCall:
        """In one DATA frame; nothing here is larger than a window."""
        self._http2.send_data(1, data, end_stream=end)
        self._flush()
        return self

    def end_with(self, trailers: list[tuple[str, str]]) -> RawCall:
        self._http2.send_headers(1, trailers, end_stream=True)
        self._flush()
        return self

    def answer(self) -> Answer:
        """Read until the stream ends one way or the other."""
        answer = Answer()
        with self._socket:
            while data := self._socket.recv(65_536):
                over = [_take(event, answer) for event in self._http2.receive_data(data)]
                if any(over):
                    return answer
                self._flush()
        return answer

    def hang_up(self) -> None:
        self._socket.close()

    def _flush(self) -> None:
        self._socket.sendall(self._http2.data_to_send())


def _take(event: h2.events.Event, answer: Answer) -> bool:
    """Add the event to the answer. True if it was the last."""
    if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
        answer.headers |= {str(name): str(value) for name, value in event.headers}
    elif isinstance(event, h2.events.DataReceived):
        answer.body += event.data
    elif isinstance(event, h2.events.StreamReset):
        answer.reset = int(event.error_code)
    return isinstance(event, h2.events.StreamEnded | h2.events.StreamReset | h2.events.ConnectionTerminated)
