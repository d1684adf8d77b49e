"""`tollgate.client` through a real Envoy, authorizer and Triton: both clients, over REST and gRPC."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from devstack.stack.stack import Stack
from tests.docs.blocks import matches, read
from tests.e2e.stack.conftest import token_of
from tests.services import free_port
from tollgate.client import AsyncClient, Client, ClientCredentials, Model, Refused, SignIn, SignInFailed, Unreachable

PAGE = Path(__file__).resolve().parents[3] / "docs/client.md"
JOB = ClientCredentials(client_id="batch-job", client_secret="batch-job-secret")
TEXT = {"text": [["I love it"]]}
Way = tuple[type[Client | AsyncClient], str]
WAYS: list[Way] = [(kind, scheme) for kind in (Client, AsyncClient) for scheme in ("http", "grpc")]


class Caller:
    """Awaits where there is something to await, so that each test is for both clients."""

    def __init__(self, kind: type[Client | AsyncClient], url: str, sign_in: SignIn | str, **options: Any) -> None:  # noqa: ANN401 - as they come
        self.client: Any = kind(url, sign_in, **options)

    async def __call__(self, what: str, *arguments: object) -> Any:  # noqa: ANN401 - whatever it is
        found = getattr(self.client, what)(*arguments)
        return await found if inspect.isawaitable(found) else found

    async def close(self) -> None:
        await self("aclose" if isinstance(self.client, AsyncClient) else "close")


@pytest.fixture(params=WAYS, ids=lambda way: f"{way[0].__name__} {way[1]}")
def way(request: pytest.FixtureRequest) -> Way:
    found: Way = request.param
    return found


@pytest.fixture
async def caller(stack: Stack, way: Way) -> AsyncIterator[Caller]:
    """The job, which has got no token yet."""
    kind, scheme = way
    calling = Caller(kind, stack.addresses.envoy.replace("http", scheme), JOB)
    yield calling
    await calling.close()


async def test_it_signs_in_and_calls(caller: Caller) -> None:
    found = await caller("infer", "sentiment", TEXT)
    assert found.outputs["label"].ravel().tolist() == [b"positive"]
    assert (found.model, len(found.decision_id)) == ("sentiment", 36)
    assert '"user-minute";r=' in found.ratelimit
    assert Model("sentiment", call=True, see=True) in await caller("models")
    assert (await caller("metadata", "sentiment"))["inputs"][0]["name"] == "text"


async def test_a_refusal_has_its_code_and_decision(caller: Caller) -> None:
    with pytest.raises(Refused) as failure:
        await caller("infer", "nothing", TEXT)
    refused = failure.value
    assert refused.status in (403, "PERMISSION_DENIED")
    assert (refused.code, len(refused.decision_id)) == ("model_forbidden", 36)
    assert refused.detail == "this token may not call the model 'nothing'"


async def test_an_error_of_the_model(stack: Stack, way: Way) -> None:
    kind, scheme = way
    calling = Caller(kind, stack.addresses.envoy.replace("http", scheme), token_of(stack, "load06"))
    with pytest.raises(Refused) as failure:
        await calling("infer", "sentiment", {"text": np.ones((1, 1), np.float32)})
    await calling.close()
    assert failure.value.status in (400, "INVALID_ARGUMENT")
    assert failure.value.retry_after is None


async def test_a_token_that_is_not_accepted_is_replaced(caller: Caller) -> None:
    await caller("token")
    caller.client._tokens._held = "no.token.atall"
    assert (await caller("metadata", "sentiment"))["name"] == "sentiment"  # takes nothing of the ten calls a minute
    assert caller.client._tokens._held != "no.token.atall"


async def test_over_a_limit_it_waits_only_as_long_as_it_may(stack: Stack, way: Way) -> None:
    """One user for all ways: the first uses up the minute."""
    kind, scheme = way
    calling = Caller(kind, stack.addresses.envoy.replace("http", scheme), token_of(stack, "load10"), longest_wait=0)
    with pytest.raises(Refused) as failure:
        await _call_until_refused(calling)
    await calling.close()
    refused = failure.value
    assert (refused.status in (429, "RESOURCE_EXHAUSTED"), refused.code) == (True, "over_limit")
    assert refused.retry_after is not None
    assert 0 < refused.retry_after <= 60


async def _call_until_refused(calling: Caller) -> None:
    for _ in range(11):
        await calling("infer", "sentiment", TEXT)


async def test_nobody_there_and_nobody_known(stack: Stack, way: Way) -> None:
    kind, scheme = way
    nobody = Caller(kind, f"{scheme}://127.0.0.1:{free_port()}", "t")
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1"):
        await nobody("infer", "sentiment", TEXT)
    await nobody.close()
    unknown = ClientCredentials(client_id="batch-job", client_secret="wrong")
    stranger = Caller(kind, stack.addresses.envoy, unknown)
    with pytest.raises(SignInFailed, match=r"invalid_client|unauthorized_client"):
        await stranger("infer", "sentiment", TEXT)
    await stranger.close()


def test_the_examples_of_the_documentation(stack: Stack, tmp_path: Path) -> None:
    """docs/client.md: each program prints what stands below it."""
    blocks = read(PAGE).blocks
    outputs = [block.text for block in blocks if block.kind == "output"]
    programs = [block for block in blocks if block.value in ("program.py", "tasks.py")]
    for block, expected in zip(programs, outputs, strict=True):
        program = tmp_path / block.value
        program.write_text(block.text.replace("127.0.0.1:8080", stack.addresses.envoy_grpc))
        done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True, timeout=90)
        assert matches(done.stdout, expected), done.stdout
