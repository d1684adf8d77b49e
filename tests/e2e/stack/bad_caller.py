"""Someone with quota who sends bad requests through Envoy, and how each was answered."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

import grpc
import httpx
import psycopg
from tritonclient.grpc.service_pb2 import ModelStreamInferResponse

from devstack.stack.stack import Stack
from tests.docs.bad_input import ROWS
from tests.e2e.server.raw import RawCall
from tests.e2e.stack.bad_requests import Call, Rest
from tests.e2e.stack.conftest import token_of
from tests.realm_admin import RealmAdmin
from tests.services import wait_for

Key = tuple[str, str]
"""What is sent, and over which protocol."""
SERVICE = "/inference.GRPCInferenceService/"
PATIENCE = 30.0
"""Seconds, by which everything is answered, also on a slow machine."""
HARMFUL = re.compile(
    r"Traceback|\bAt:|File \"|\.py\b|0x[0-9a-f]{6}|request id|/(?:tmp|home|usr|opt|work|root)/", re.ASCII
)
"""What no sentence has."""
_CALLS = 9
"""Of one user: the policy gives everyone ten a minute."""


class Found(NamedTuple):
    """An answer in the words of docs/bad-input.md."""

    answer: str
    sentence: str
    decision: str = ""


class BadCaller:
    """As many users as it takes."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._realm = RealmAdmin(stack.addresses.issuer.partition("/realms/")[0])
        options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        self._channel = grpc.insecure_channel(stack.addresses.envoy_grpc, options)
        self._http = httpx.Client(base_url=stack.addresses.envoy, timeout=PATIENCE)
        self._bearers = self._new_bearers()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._realm.__exit__()
        self._channel.close()
        self._http.close()

    def rest(self, sent: Rest) -> Found:
        """Every answer but a good one is a problem document of one form."""
        content = iter(sent.body) if isinstance(sent.body, list) else sent.body
        headers = {"authorization": next(self._bearers), **sent.headers}
        answer = self._http.post(sent.path, content=content, headers=headers)
        return found_in(answer)

    def grpc(self, sent: Call, seconds: float = PATIENCE) -> Found:
        """Any bytes as one message, or as a whole body."""
        if sent.raw is not None:
            port = int(self._stack.addresses.envoy_grpc.rpartition(":")[2])
            more = [("authorization", next(self._bearers)), *sent.headers.items()]
            answer = RawCall(port, path=SERVICE + sent.method, more=more).send(sent.raw, end=True).answer()
            status = next(code for code in grpc.StatusCode if code.value[0] == answer.grpc_status)
            return _of_grpc(status, answer.headers.get("grpc-message", ""))
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(SERVICE + sent.method)
        return _ended(call.future(sent.message, timeout=seconds, metadata=self._metadata(sent)))

    def stream(self, sent: Call) -> Found:
        """The first answer of a stream, or its end without one."""
        return self.streamed([sent.message], sent)[0]

    def streamed(self, messages: Sequence[bytes], sent: Call = Call(b"")) -> list[Found]:  # noqa: B008 - frozen
        """Every answer of a stream, and its end. `sent`: its headers."""
        open_stream: grpc.StreamStreamMultiCallable[bytes, bytes] = self._channel.stream_stream(
            f"{SERVICE}ModelStreamInfer"
        )
        call = open_stream(iter(messages), timeout=PATIENCE, metadata=self._metadata(sent))
        try:
            answers = [ModelStreamInferResponse.FromString(answer) for answer in call]
        except grpc.RpcError:
            return [_of_grpc(call.code(), str(call.details()))]
        decision = str(dict([*call.initial_metadata(), *call.trailing_metadata()]).get("x-decision-id", ""))
        return [*(Found("message", one.error_message, decision) for one in answers), Found("ends", "", decision)]

    def good(self) -> httpx.Response:
        """Metadata of a model, which costs no quota."""
        return self._http.get("/v2/models/cancer", headers={"authorization": next(self._bearers)})

    def _metadata(self, sent: Call) -> tuple[tuple[str, str], ...]:
        headers = {**sent.headers}
        # The library writes that header itself, and frames of that kind.
        headers.pop("grpc-encoding", None)
        compressed = (("grpc-internal-encoding-request", "gzip"),) if len(headers) < len(sent.headers) else ()
        return (("authorization", next(self._bearers)), *headers.items(), *compressed)

    def _new_bearers(self) -> Iterator[str]:
        while True:
            bearer = f"Bearer {token_of(self._stack, self._realm.user('infer'))}"
            yield from [bearer] * _CALLS


def ensure_in_ledger(stack: Stack, decisions: Mapping[Key, str]) -> None:
    """What the lines say, once each is settled: refused, or answered by whoever."""
    query = """
        SELECT decision_id::text, CASE reason WHEN 'allowed' THEN 'answered ' || answered ELSE reason END
        FROM usage_events LEFT JOIN call_outcomes USING (decision_id)
        WHERE decision_id = ANY(%s::uuid[]) AND (reason <> 'allowed' OR answered IS NOT NULL)
    """
    wanted = {decision: ROWS[key].ledger for key, decision in decisions.items()}
    with psycopg.connect(stack.addresses.database_url, autocommit=True) as database:
        wait_for(lambda: len(database.execute(query, (list(wanted),)).fetchall()) == len(wanted), 60)
        assert dict(database.execute(query, (list(wanted),)).fetchall()) == wanted


def found_in(answer: httpx.Response) -> Found:
    """Every answer but a good one is a problem document of one form, whoever made it."""
    decision = answer.headers.get("x-decision-id", "")
    if answer.status_code == httpx.codes.OK:
        return Found("200", "", decision)
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    named = f" (decision {decision})" if decision else ""
    assert problem["status"] == answer.status_code
    assert problem["error"] in (problem["detail"], problem["detail"] + named)
    return Found(f"{answer.status_code} {problem['code']}", problem["detail"], decision)


def _ended(call: Any) -> Found:  # noqa: ANN401  # grpc's own type of a future has none of this
    if call.exception() is None:
        return Found("OK", "", str(dict(call.initial_metadata()).get("x-decision-id", "")))
    return _of_grpc(call.code(), str(call.details()))


def _of_grpc(status: grpc.StatusCode, message: str) -> Found:
    sentence, _, decision = message.partition(" (decision ")
    return Found(status.name, sentence, decision.rstrip(")"))
