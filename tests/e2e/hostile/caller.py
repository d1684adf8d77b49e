"""A caller who sends any bytes, and sees who served them and for whom they were authorised."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

import grpc
import httpx

from ext_authz.render.endpoints import LOOPBACK
from tests.e2e.server.raw import RawCall

SERVICE = "/inference.GRPCInferenceService/"


class Served(NamedTuple):
    """What came of one call."""

    grpc: int
    said: str
    body: bytes
    decision: str

    @property
    def who(self) -> str:
        """The model and version that answered; empty: none did."""
        found = re.search(rb"(plain|staged|guarded|secret)/[12]", self.body)
        return found[0].decode() if found else ""

    @property
    def authorised(self) -> str:
        """As the model was told."""
        found = re.search(rb"\{.*\}", self.body)
        forwarded = json.loads(found[0]) if found else {}
        return f"{forwarded.get('x-authz-model')}/{forwarded.get('x-authz-version')}"


class Caller:
    """Someone with a token at one front."""

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._token = token
        self._channel = grpc.insecure_channel(
            f"{LOOPBACK}:{port}", [("grpc.max_send_message_length", -1), ("grpc.enable_http_proxy", 0)]
        )
        headers = {"authorization": f"Bearer {token}"}
        self.rest = httpx.Client(base_url=f"http://{LOOPBACK}:{port}", headers=headers, timeout=30)

    def send(self, message: bytes, rpc: str = "ModelInfer") -> Served:
        """Any bytes as one message."""
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(f"{SERVICE}{rpc}")
        made = call.future(message, metadata=(("authorization", f"Bearer {self._token}"),), timeout=30)
        body = b"" if made.exception() else made.result()
        metadata = [*(made.initial_metadata() or ()), *(made.trailing_metadata() or ())]
        decision = _decision(metadata)
        return Served(made.code().value[0], _without(decision, str(made.details())), body, decision)

    def send_raw(self, body: bytes, *more: tuple[str, str]) -> Served:
        """Any bytes as a whole body."""
        call = RawCall(
            self._port,
            path=f"{SERVICE}ModelInfer",
            authorization=f"Bearer {self._token}",
            more=[*more],
        )
        answer = call.send(body, end=True).answer()
        decision, said = answer.headers.get("x-decision-id", ""), answer.headers.get("grpc-message", "")
        return Served(answer.grpc_status, _without(decision, said), answer.body, decision)

    def close(self) -> None:
        self._channel.close()
        self.rest.close()


def _without(decision: str, said: str) -> str:
    """Every message of a refusal ends with the id of its decision."""
    return said.removesuffix(f" (decision {decision})")


def _decision(metadata: Any) -> str:  # noqa: ANN401 - grpc's metadata
    return next((str(value) for key, value in metadata if key == "x-decision-id"), "")
