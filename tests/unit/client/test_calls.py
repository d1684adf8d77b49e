"""What is tried again and when, and what an error says."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc

from tests.unit.client.flows import Script, answer
from tollgate.client import tensors
from tollgate.client.calls import Access, Calls, Model
from tollgate.client.clients import Client
from tollgate.client.errors import Refused, Unreachable, pushback, retry_after
from tollgate.client.steps import Reply, Rpc

ID = "01980000-0000-7000-8000-000000000000"
ORIGIN = "https://models.example"
TEXT = {"text": [["I love it"]]}
REST: dict[str, Any] = {
    "model_version": "2",
    "outputs": [{"name": "label", "datatype": "BYTES", "shape": [1], "data": ["good"]}],
}


def calls(*, grpc: bool = False, can_renew: bool = True, attempts: int = 3) -> Calls:
    return Calls(ORIGIN, grpc=grpc, can_renew=can_renew, attempts=attempts, longest_wait=60)


def problem(status: int, code: str, reason: str, **headers: str) -> httpx.Response:
    """As `edge/refusals.py` writes it."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    detail = f"because of {code}"
    text = f"{detail} (decision {ID})"
    return answer(
        status, names, type=f"urn:tollgate:problem:{reason}", detail=detail, code=code, decision_id=ID, error=text
    )


def refused(script: Script, of: Calls) -> Refused:
    with pytest.raises(Refused) as failure:
        script.run(of.models())
    return failure.value


def test_an_inference_over_rest() -> None:
    headers = {"x-decision-id": ID, "x-model-variant": "stable", "ratelimit": '"user";r=9;t=60'}
    script = Script(answer(200, headers, **REST))
    found = script.run(calls().infer("a b", TEXT, "2"))
    assert found.outputs["label"].tolist() == ["good"]
    assert (found.model, found.version, found.variant, found.decision_id) == ("a b", "2", "stable", ID)
    assert found.ratelimit == '"user";r=9;t=60'
    (request,) = script.sent
    assert isinstance(request, httpx.Request)
    assert request.url.raw_path == b"/v2/models/a%20b/versions/2/infer"
    assert request.headers["authorization"] == "Bearer t1"
    head, tail = (int(request.headers[name]) for name in ("inference-header-content-length", "content-length"))
    assert tail - head == len("I love it") + 4


def test_an_inference_over_grpc() -> None:
    response = tritonclient.grpc.service_pb2.ModelInferResponse(model_version="1")
    response.outputs.add(name="y", datatype="FP32", shape=[2])
    response.raw_output_contents.append(np.array([1, 2], np.float32).tobytes())
    script = Script(Reply("OK", "", response, {"x-decision-id": ID}))
    found = script.run(calls(grpc=True).infer("cars", {"x": np.ones((1, 2), np.float32), "text": ["é"]}))
    assert (found.outputs["y"].tolist(), found.version, found.decision_id) == ([1, 2], "1", ID)
    (rpc,) = script.sent
    assert isinstance(rpc, Rpc)
    assert [(each.name, each.datatype, [*each.shape]) for each in rpc.message.inputs] == [
        ("x", "FP32", [1, 2]),
        ("text", "BYTES", [1]),
    ]
    assert rpc.message.raw_input_contents[1] == b"\x02\0\0\0\xc3\xa9"


def test_binary_outputs_over_rest() -> None:
    output = {"name": "y", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}}
    said = json.dumps({"model_version": "1", "outputs": [output]}).encode()
    raw = np.array([7], np.float32).tobytes()
    response = httpx.Response(200, headers={"inference-header-content-length": str(len(said))}, content=said + raw)
    assert tensors.outputs_of_body(response)[0]["y"].tolist() == [7]


def test_an_array_that_triton_does_not_take() -> None:
    with pytest.raises(ValueError, match=r"the input x is an array of complex128.*convert it"):
        Script().run(calls().infer("m", {"x": [1j]}))


def test_models_and_metadata() -> None:
    both = {"call": True, "see": True}
    listed = answer(models=[{"name": "a", **both}, {"name": "b", "call": False, "see": False, "versions": {"*": both}}])
    assert Script(listed).run(calls().models()) == (
        Model("a", call=True, see=True),
        Model("b", call=False, see=False, versions={"*": Access(call=True, see=True)}),
    )
    assert Script(answer(name="a")).run(calls().metadata("a", "3")) == {"name": "a"}


def test_a_refusal_says_all() -> None:
    failure = refused(Script(problem(403, "model_forbidden", "forbidden")), calls())
    assert (failure.status, failure.code, failure.reason) == (403, "model_forbidden", "forbidden")
    assert (failure.detail, failure.decision_id, failure.retry_after) == ("because of model_forbidden", ID, None)
    assert str(failure) == f"403 model_forbidden: because of model_forbidden (decision {ID})"


@pytest.mark.parametrize(
    ("response", "code", "detail"),
    [
        (answer(400, error="bad shape"), "", "bad shape"),
        (httpx.Response(502, content=b"upstream"), "", "upstream"),
        (httpx.Response(502), "", "Bad Gateway"),
        (httpx.Response(404, content=b"[1]"), "", "[1]"),
        (answer(403, code=1, detail=[]), "", '{"code": 1, "detail": []}'),
    ],
)
def test_what_others_answer(response: httpx.Response, code: str, detail: str) -> None:
    failure = refused(Script(response), calls())
    assert (failure.code, failure.detail, failure.reason, failure.decision_id) == (code, detail, "", "")


def test_a_refusal_over_grpc_says_all() -> None:
    reply = Reply("RESOURCE_EXHAUSTED", f"over_limit: wait (decision {ID})", None, {"grpc-retry-pushback-ms": "-1"})
    with pytest.raises(Refused) as failure:
        Script(reply).run(calls(grpc=True).infer("m", TEXT))
    found = failure.value
    assert (found.status, found.code, found.detail, found.decision_id) == (
        "RESOURCE_EXHAUSTED",
        "over_limit",
        "wait",
        ID,
    )
    assert found.retry_after is None


def test_an_error_of_a_model_over_grpc_has_no_code() -> None:
    with pytest.raises(Refused) as failure:
        Script(Reply("INVALID_ARGUMENT", "shape: wrong")).run(calls(grpc=True).infer("m", TEXT))
    assert (failure.value.code, failure.value.detail) == ("", "shape: wrong")


def test_no_answer_over_grpc() -> None:
    with pytest.raises(Unreachable, match="refused"):
        Script(Reply("UNAVAILABLE", "connection refused")).run(calls(grpc=True).infer("m", TEXT))


def test_it_waits_as_it_is_told() -> None:
    busy = [
        problem(429, "over_limit", "over_limit", retry_after="7"),
        problem(503, "x", "unavailable", retry_after="1"),
    ]
    script = Script(*busy, answer(models=[]))
    assert script.run(calls().models()) == ()
    assert script.waited == [7.0, 1.0]
    over_grpc = Script(
        Reply("UNAVAILABLE", "unavailable: x", None, {"grpc-retry-pushback-ms": "1500"}), Reply("INTERNAL", "no")
    )
    with pytest.raises(Refused, match="INTERNAL"):
        over_grpc.run(calls(grpc=True).infer("m", TEXT))
    assert over_grpc.waited == [1.5]


@pytest.mark.parametrize(
    ("attempts", "headers", "waited"),
    [(3, {}, 0), (3, {"retry_after": "61"}, 0), (3, {"retry_after": "soon"}, 0), (1, {"retry_after": "1"}, 0)],
)
def test_it_does_not_try_again(attempts: int, headers: dict[str, str], waited: int) -> None:
    script = Script(problem(503, "x", "unavailable", **headers))
    assert refused(script, calls(attempts=attempts)).status == 503
    assert len(script.waited) == waited


def test_it_tries_three_times_at_most() -> None:
    script = Script(*(problem(429, "over_limit", "over_limit", retry_after="1") for _ in range(3)))
    assert refused(script, calls()).retry_after == 1.0
    assert len(script.waited) == 2


def test_a_token_that_is_not_accepted_is_replaced_once() -> None:
    expired = [problem(401, "token_expired", "invalid_credential") for _ in range(2)]
    script = Script(expired[0], answer(models=[]))
    script.run(calls().models())
    assert script.refused_tokens == ["", "t1"]
    twice = Script(*expired)
    assert refused(twice, calls()).code == "token_expired"
    assert refused(Script(problem(401, "x", "y")), calls(can_renew=False)).status == 401


NOW = datetime(2026, 11, 29, 20, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("", None),
        ("5", 5.0),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("Sun, 29 Nov 2026 20:00:30 GMT", 30.0),
        ("Sun, 29 Nov 2026 19:00:30 -0000", 0.0),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    assert retry_after(value, NOW) == seconds


@pytest.mark.parametrize(("value", "seconds"), [("", None), ("-1", None), ("250", 0.25), ("x", None)])
def test_pushback(value: str, seconds: float | None) -> None:
    assert pushback(value) == seconds


@pytest.mark.parametrize(
    "url",
    ["models.example", "ftp://models.example", "https://", "https://models.example/v2", "https://a:b@models.example"],
)
def test_an_address_of_models(url: str) -> None:
    with pytest.raises(ValueError, match="write an address of models as https://HOST"):
        Client(url, "t")


def test_a_file_of_certificates(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("none")
    for name in ("ca.pem", "nothing.pem"):
        with pytest.raises(ValueError, match=rf"write ca as a file of certificates in PEM: .*{name}"):
            Client(ORIGIN, "t", ca=str(tmp_path / name))


def test_at_least_one_attempt() -> None:
    with pytest.raises(ValueError, match="attempts"):
        Client(ORIGIN, "t", attempts=0)
