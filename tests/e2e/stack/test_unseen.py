"""Through a real Envoy: who may not see a model gets of it what they get of none, whatever they ask, in every
byte, and as soon."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from http import HTTPStatus
from http.client import HTTPConnection
from itertools import product
from random import Random

import grpc
import pytest

from devstack.stack.stack import Stack
from tests.e2e.stack.conftest import token_of
from tests.e2e.stack.test_models import post
from tests.services import wait_for

pytestmark = pytest.mark.alone

THERE, NOT_THERE = "sentiment", "sentimemt"
"""As long as the other, so that all lengths are the same."""
PAIRS = 300
"""Of calls whose times are compared."""
METHODS = ("GET", "HEAD", "POST", "PUT", "OPTIONS")
PATHS = (
    *(f"/v2/models/MODEL{rest}" for rest in ("", "/", "?x=1", "/ready", "/config", "/stats", "/infer", "/infer/")),
    *(
        f"/v2/models/MODEL{rest}"
        for rest in ("/generate", "/generate_stream", "/trace/setting", "/nothing", "/%69nfer")
    ),
    *(f"/v2/models/MODEL/versions/{version}" for version in ("1", "2/ready", "2/infer", "9/infer", "01/infer", "x")),
    *("//v2/models/MODEL", "/V2/models/MODEL", "/v2/models/%20MODEL", "/v2/repository/models/MODEL/load"),
    *("/v1/models/MODEL", "/v1/models/MODEL:predict", "/tollgate/models/MODEL/try"),
    *("/tollgate/catalogue/ai-model/MODEL", "/tollgate/catalogue?q=MODEL"),
    *("/tollgate/api/stac/collections/ai-model/items/MODEL", "/tollgate/api/stac/search?ids=MODEL"),
    *("/tollgate/api/check/MODEL", "/tollgate/api/check/MODEL?info=true"),
    *("/.tollgate/quota?model=MODEL", "/.tollgate/quota?method=POST&path=/v2/models/MODEL/infer"),
)
HEADERS: dict[str, dict[str, str]] = {
    "plain": {},
    "a page": {"accept": "text/html", "origin": "https://page.example", "access-control-request-method": "POST"},
    "an experimenter": {"x-experiment": "canary", "x-model-variant": "canary", "x-authz-model": "MODEL"},
}
RPCS = ("ModelInfer", "ModelMetadata", "ModelReady", "ModelConfig", "ModelStatistics", "ModelStreamInfer")
OTHER_RPCS = ("RepositoryModelLoad", "TraceSetting", "Nothing")
_OF_ONE_ANSWER = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""A decision, or a request."""


@pytest.fixture(scope="module")
def unseeing(stack: Stack) -> dict[str, str]:
    """Carol has no role; others use the model meanwhile."""
    assert post(stack, "load35").status_code == 200
    return {"authorization": f"Bearer {token_of(stack, 'carol')}"}


def test_over_rest(stack: Stack, unseeing: dict[str, str]) -> None:
    statuses: set[int] = set()
    for method, path, headers in product(METHODS, PATHS, HEADERS.values()):
        one, other = (_rest(stack, method, path, model, unseeing | headers) for model in (THERE, NOT_THERE))
        assert one == other, (method, path)
        statuses.add(one[0])
    assert statuses >= {204, 400, 403, 404, 405}
    assert max(statuses) < 500, "what fails fails alike, and says nothing"


def test_over_rest_without_a_token(stack: Stack) -> None:
    for method, path in product(METHODS, PATHS):
        one, other = (_rest(stack, method, path, model, {}) for model in (THERE, NOT_THERE))
        assert one == other, (method, path)


def test_over_grpc(stack: Stack, unseeing: dict[str, str]) -> None:
    codes: set[grpc.StatusCode] = set()
    with grpc.insecure_channel(stack.addresses.envoy_grpc) as channel:
        for rpc, version in product((*RPCS, *OTHER_RPCS), ("", "2", "9", "01")):
            one, other = (_grpc(channel, rpc, model, version, unseeing) for model in (THERE, NOT_THERE))
            assert one == other, (rpc, version)
            codes.add(one[0])
    assert codes >= {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED}
    assert not codes & {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE}


def test_the_time_of_a_refusal_does_not_tell_either(stack: Stack, unseeing: dict[str, str]) -> None:
    """One after the other in pairs, so that a busy machine slows both: the one model is not the slower one more often
    than a coin would have it (4.3 standard deviations). Half a millisecond more for one of them is seen."""
    with grpc.insecure_channel(stack.addresses.envoy_grpc) as channel:
        connection = HTTPConnection(stack.addresses.envoy.removeprefix("http://"), timeout=30)

        def over_rest(model: str) -> None:
            connection.request("POST", f"/v2/models/{model}/infer", headers=unseeing)
            connection.getresponse().read()

        ways: dict[str, Callable[[str], object]] = {
            "REST": over_rest,
            "gRPC": lambda model: _grpc(channel, "ModelInfer", model, "", unseeing),
        }
        slower = {way: _slower(call) for way, call in ways.items()}
        connection.close()
    assert all(abs(share - 0.5) < 4.3 * 0.5 / PAIRS**0.5 for share in slower.values()), slower


def _slower(call: Callable[[str], object]) -> float:
    """The share of pairs in which the model that is there took longer. Which comes first is drawn."""
    random, count = Random(1), 0
    for _ in range(PAIRS):
        taken = {model: _seconds(call, model) for model in random.sample((THERE, NOT_THERE), 2)}
        count += taken[THERE] > taken[NOT_THERE]
    return count / PAIRS


def _seconds(call: Callable[[str], object], model: str) -> float:
    began = time.perf_counter()
    call(model)
    return time.perf_counter() - began


Answered = tuple[int, list[str], str]
"""Status, headers in their order, and body."""


def _rest(stack: Stack, method: str, path: str, model: str, headers: dict[str, str]) -> Answered:
    """Not that quotas are read too often: that may begin between two calls."""
    answers: list[Answered] = []

    def is_answered() -> bool:
        answers.append(_answer(stack, method, path, model, headers))
        return answers[-1][0] != HTTPStatus.TOO_MANY_REQUESTS

    wait_for(is_answered)
    return answers[-1]


def _answer(stack: Stack, method: str, path: str, model: str, headers: dict[str, str]) -> Answered:
    connection = HTTPConnection(stack.addresses.envoy.removeprefix("http://"), timeout=30)
    written = {name: value.replace("MODEL", model) for name, value in headers.items()}
    connection.request(method, path.replace("MODEL", model), headers=written)
    answer = connection.getresponse()
    got = _plain(model, [f"{name}: {value}" for name, value in answer.getheaders() if name.lower() != "date"])
    (body,) = _plain(model, [answer.read().decode()])
    connection.close()
    return answer.status, got, body


def _grpc(
    channel: grpc.Channel, rpc: str, model: str, version: str, headers: dict[str, str]
) -> tuple[grpc.StatusCode, list[str], str]:
    """Code, metadata at the beginning and the end, and the sentence."""
    call: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(f"/inference.GRPCInferenceService/{rpc}")
    answers = call(iter([_named(model, version)]), metadata=tuple(headers.items()), timeout=30)
    with pytest.raises(grpc.RpcError):
        list(answers)
    metadata = (*answers.initial_metadata(), *answers.trailing_metadata())
    got = _plain(model, [f"{name}: {value!r}" for name, value in metadata if name != "date"])
    (details,) = _plain(model, [answers.details()])
    return answers.code(), got, details


def _named(model: str, version: str) -> bytes:
    """A message whose fields 1 and 2 are model and version, as in all of these but two."""
    texts = ((b"\x0a", model), (b"\x12", version))
    return b"".join(tag + bytes([len(text)]) + text.encode() for tag, text in texts)


def _plain(model: str, texts: list[str]) -> list[str]:
    """Without the name, and what is different in each answer."""
    return [_OF_ONE_ANSWER.sub("ID", text.replace(model, "MODEL")) for text in texts]
