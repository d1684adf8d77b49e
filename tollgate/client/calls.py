"""What a client can ask, as flows: with a token, again when the refusal says when, and otherwise not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
from msgspec import Struct
from numpy.typing import ArrayLike, NDArray

from tollgate.client import tensors
from tollgate.client.errors import Refused, Unreachable, refused, refused_over_grpc
from tollgate.client.steps import Flow, NeedToken, Pause, Reply, Rpc

Inputs = Mapping[str, ArrayLike]
_NOT_ACCEPTED = (401, "UNAUTHENTICATED")
_NO_ANSWER = ("UNAVAILABLE", "DEADLINE_EXCEEDED")
"""What gRPC says where nothing came from the other side; and then there is no metadata."""


class Access(Struct, frozen=True):
    """What the caller may do with a version."""

    call: bool
    see: bool


class Model(Struct, frozen=True):
    """What the caller may do with a model; docs/http-api.md has the members."""

    name: str
    call: bool
    see: bool
    versions: Mapping[str, Access] = {}


class _Listing(Struct, frozen=True):
    models: tuple[Model, ...]


class Answer(Struct, frozen=True, eq=False):
    """A prediction."""

    outputs: Mapping[str, NDArray[Any]]
    model: str
    version: str
    """As the model server says it."""
    variant: str
    """Of an experiment; empty without one."""
    decision_id: str
    ratelimit: str
    """What is left of the quotas, as the header says it; empty where the policy hides it."""


class Calls:
    """The flows of one client."""

    def __init__(self, origin: str, *, grpc: bool, can_renew: bool, attempts: int, longest_wait: float) -> None:
        """`origin`: of the models, over HTTP. `grpc`: how to infer. `longest_wait`: seconds."""
        self._origin = origin
        self._grpc = grpc
        self._can_renew = can_renew
        self._attempts = attempts
        self._longest_wait = longest_wait

    def infer(self, model: str, inputs: Inputs, version: str = "") -> Flow[Answer]:
        """Arrays by name, or what numpy makes an array of; strings become BYTES."""
        arrays = {name: tensors.array(value) for name, value in inputs.items()}
        if self._grpc:
            message = tensors.message(model, version, arrays)
            reply = yield from self._answered(lambda token: Rpc("ModelInfer", message, {"authorization": token}))
            (outputs, served), headers = tensors.outputs_of_message(reply.message), reply.metadata
        else:
            body, size = tensors.body(arrays)
            of_version = f"/versions/{quote(version, safe='')}" if version else ""
            url = f"{self._origin}/v2/models/{quote(model, safe='')}{of_version}/infer"
            headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(size)}
            response = yield from self._answered(_request("POST", url, headers, body))
            outputs, served = tensors.outputs_of_body(response)
            headers = response.headers
        variant, decision_id = headers.get("x-model-variant", ""), headers.get("x-decision-id", "")
        return Answer(outputs, model, served, variant, decision_id, headers.get("ratelimit", ""))

    def models(self) -> Flow[tuple[Model, ...]]:
        response = yield from self._answered(_request("GET", f"{self._origin}/.tollgate/models"))
        return msgspec.json.decode(response.content, type=_Listing).models

    def metadata(self, model: str, version: str = "") -> Flow[Mapping[str, Any]]:
        """KServe's document: `inputs` and `outputs` with name, datatype and shape."""
        of_version = f"/versions/{quote(version, safe='')}" if version else ""
        url = f"{self._origin}/v2/models/{quote(model, safe='')}{of_version}"
        response = yield from self._answered(_request("GET", url))
        return msgspec.json.decode(response.content, type=dict[str, Any])

    def _answered(self, call: Callable[[str], httpx.Request | Rpc]) -> Flow[Any]:
        """The answer to a call, which is made with the value of `authorization`.

        A token that is not accepted is replaced once. What else is refused is tried again only after the time that the
        refusal names.

        Raises:
            Refused
        """
        left, old = self._attempts, ""
        while True:
            token = yield NeedToken(old)
            answer = yield call(f"Bearer {token}")
            refusal = _refusal(answer)
            if refusal is None:
                return answer
            if refusal.status in _NOT_ACCEPTED and self._can_renew and not old:
                old = token
                continue
            left -= 1
            if left < 1 or refusal.retry_after is None or refusal.retry_after > self._longest_wait:
                raise refusal
            yield Pause(refusal.retry_after)


def _request(
    method: str, url: str, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> Callable[[str], httpx.Request]:
    def with_token(token: str) -> httpx.Request:
        return httpx.Request(method, url, headers={**(headers or {}), "authorization": token}, content=body)

    return with_token


def _refusal(answer: httpx.Response | Reply) -> Refused | None:
    """Raises Unreachable where gRPC got no answer from the other side."""
    if isinstance(answer, httpx.Response):
        return None if answer.is_success else refused(answer)
    if answer.status == "OK":
        return None
    if answer.status in _NO_ANSWER and not answer.metadata:
        raise Unreachable(answer.detail)
    return refused_over_grpc(answer)
