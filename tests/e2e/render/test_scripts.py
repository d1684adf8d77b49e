"""Scripts of Envoy that fail: Envoy itself would pass what they were to read, as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import quote

import grpc
import httpx
import pytest
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelStreamInferResponse

from ext_authz.edge.request import TARGET
from ext_authz.render import filters
from tests.e2e.render.world import FAILS, World, running_world
from tests.unit.render.policies import EVERYDAY, of_kinds
from tests.unit.render.test_answers import TRACEBACK, broken_at

INFER = "/v2/models/sentiment/infer"
SERVICE = "/inference.GRPCInferenceService/"
MESSAGE = ModelInferRequest(model_name="sentiment").SerializeToString()
FAILING = {FAILS: quote(TRACEBACK)}


def running(function: str, directory: Any) -> Iterator[World]:  # noqa: ANN401  # a factory of pytest
    """With one function of the scripts failing."""
    whole = filters._lua  # what all of them go through

    def broken(name: str, code: str) -> Any:  # noqa: ANN401  # JSON
        return whole(name, broken_at(function, code) if f"local function {function}(" in code else code)

    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(filters, "_lua", broken)
            world = stack.enter_context(running_world("envoy", of_kinds(*EVERYDAY), directory.mktemp(function)))
        yield world


@pytest.fixture(scope="module")
def unread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    yield from running("byte", tmp_path_factory)


@pytest.fixture(scope="module")
def unsaid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    yield from running("said", tmp_path_factory)


@pytest.fixture(scope="module")
def unnamed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    yield from running("field", tmp_path_factory)


def called(world: World, **headers: str) -> tuple[grpc.StatusCode, str]:
    with grpc.insecure_channel(world.address) as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(f"{SERVICE}ModelInfer")(MESSAGE, timeout=10, metadata=tuple(headers.items()))
    call = refused.value
    assert isinstance(call, grpc.Call)
    return call.code(), str(call.details())


def streamed(world: World, **headers: str) -> list[bytes]:
    with grpc.insecure_channel(world.address) as channel:
        call: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(f"{SERVICE}ModelStreamInfer")
        return list(call(iter([MESSAGE] * 3), timeout=10, metadata=tuple(headers.items())))


def test_a_call_that_cannot_be_read_is_refused(unread: World) -> None:
    status, message = called(unread)
    assert status is grpc.StatusCode.UNAVAILABLE
    assert message.startswith("proxy_failed: the proxy could not read the request, try again (decision ")
    assert unread.reached() == []


def test_of_a_stream_that_cannot_be_read_no_message_passes(unread: World) -> None:
    unread.forget()
    assert streamed(unread) == []
    assert unread.stable.heard + unread.canary.heard == []


def test_an_error_that_cannot_be_read_is_replaced(unsaid: World) -> None:
    answer = httpx.post(unsaid.url + INFER, json={}, headers=FAILING)
    assert (answer.status_code, answer.json()["code"]) == (502, "proxy_failed")
    assert answer.headers["content-type"] == "application/problem+json"
    assert "srv" not in answer.text
    unread = "proxy_failed: the answer of the model server could not be read, try again"
    assert called(unsaid, **FAILING) == (grpc.StatusCode.INTERNAL, unread)
    assert streamed(unsaid, **FAILING) == []
    assert httpx.post(unsaid.url + INFER, json={}).status_code == 200


def test_a_message_whose_model_cannot_be_read_names_none(unnamed: World) -> None:
    """So the authorizer refuses it: `model_missing`."""
    with grpc.insecure_channel(unnamed.address) as channel:
        channel.unary_unary(f"{SERVICE}ModelInfer")(MESSAGE, timeout=10)
    (check,) = unnamed.authorizer.asked
    assert TARGET not in check.metadata_context.filter_metadata


def test_errors_of_a_stream_have_no_traceback(unnamed: World) -> None:
    found = [ModelStreamInferResponse.FromString(each) for each in streamed(unnamed, **FAILING)]
    assert [each.error_message for each in found] == ["ValueError: boom"] * 3
