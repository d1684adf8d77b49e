"""Both clients over real sockets: what a flow asks for is done, once, and by one caller at a time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
import tritonclient.grpc

from tests.e2e.server.certificates import Authority
from tests.http_server import running_http_server
from tests.services import free_port
from tollgate.client import AsyncClient, Client, ClientCredentials, Device, Prompt, Refused, Unreachable

service_pb2 = tritonclient.grpc.service_pb2
service_pb2_grpc = tritonclient.grpc.service_pb2_grpc
_Servicer: Any = service_pb2_grpc.GRPCInferenceServiceServicer
JOB = ClientCredentials(client_id="job", client_secret="secret")
TEXT = {"text": ["good"]}
MODELS = {"models": [{"name": "a", "call": True, "see": True}]}


class Mesh:
    """The models' address and its issuer. Says once that it is busy."""

    def __init__(self) -> None:
        self.busy = False
        self.signed_in = 0

    def answer(self, origin: str, path: str, authorization: str) -> tuple[int, dict[str, Any]]:
        if path == "/.well-known/oauth-protected-resource":
            return 200, {"resource": origin, "authorization_servers": [origin]}
        if path == "/.well-known/openid-configuration":
            endpoints = {"token_endpoint": f"{origin}/token", "device_authorization_endpoint": f"{origin}/device"}
            return 200, {"issuer": origin, **endpoints}
        if path == "/device":
            return 200, {"device_code": "d", "user_code": "AB", "verification_uri": f"{origin}/d", "interval": 0.01}
        if path == "/token":
            self.signed_in += 1
            return 200, {"access_token": f"t{self.signed_in}", "expires_in": 300}
        if self.busy:
            self.busy = False
            return 503, {"code": "unavailable"}
        return (200, MODELS) if authorization.startswith("Bearer t") else (401, {"code": "credential_missing"})

    def handler(self) -> type[BaseHTTPRequestHandler]:
        mesh = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                origin = f"http://{self.headers['host']}"
                self.rfile.read(int(self.headers.get("content-length", 0)))
                status, document = mesh.answer(origin, self.path, self.headers.get("authorization", ""))
                body = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                if status == 503:
                    self.send_header("retry-after", "0")
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Quiet."""

        return Handler


@pytest.fixture
def mesh() -> Mesh:
    return Mesh()


@pytest.fixture
def url(mesh: Mesh) -> Iterator[str]:
    with running_http_server(mesh.handler()) as port:
        yield f"http://127.0.0.1:{port}"


def test_many_threads_sign_in_once(mesh: Mesh, url: str) -> None:
    mesh.busy = True
    with Client(url, JOB) as client, ThreadPoolExecutor(8) as threads:
        found = [*threads.map(lambda _: client.models()[0].name, range(16))]
    assert (found, mesh.signed_in) == (["a"] * 16, 1)


async def test_many_tasks_sign_in_once(mesh: Mesh, url: str) -> None:
    mesh.busy = True
    async with AsyncClient(url, JOB) as client:
        found = await asyncio.gather(*(client.models() for _ in range(16)))
        assert await client.token() == "t1"
    assert ([models[0].name for models in found], mesh.signed_in) == (["a"] * 16, 1)


async def test_a_prompt_may_be_a_coroutine_and_may_be_none(url: str) -> None:
    prompts: list[Prompt] = []

    async def prompt(found: Prompt) -> None:
        await asyncio.sleep(0)
        prompts.append(found)

    async with AsyncClient(url, Device(client_id="cli", prompt=prompt)) as client:
        await client.token()
    async with AsyncClient(url, Device(client_id="cli", prompt=prompts.append)) as client:
        await client.token()
    with Client(url, Device(client_id="cli", prompt=prompts.append)) as blocking:
        blocking.token()
    assert [found.code for found in prompts] == ["AB"] * 3


async def test_nobody_there() -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    with Client(f"http://{nowhere}", "t") as client, pytest.raises(Unreachable, match=nowhere):
        client.models()
    with Client(f"grpc://{nowhere}", "t", timeout=5) as client, pytest.raises(Unreachable):
        client.infer("a", TEXT)
    async with AsyncClient(f"http://{nowhere}", "t") as other:
        with pytest.raises(Unreachable, match=nowhere):
            await other.models()
    async with AsyncClient(f"grpc://{nowhere}", "t", timeout=5) as other:
        with pytest.raises(Unreachable):
            await other.infer("a", TEXT)


class Servicer(_Servicer):  # type: ignore[misc]  # without types
    """Refuses every other call for ten milliseconds."""

    def __init__(self) -> None:
        self.calls = 0

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802, ANN401 - of the service
        self.calls += 1
        if self.calls % 2:
            context.set_trailing_metadata((("grpc-retry-pushback-ms", "10"), ("x-decision-id", "d")))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "over_limit: wait")
        context.send_initial_metadata((("x-decision-id", "e"),))
        response = service_pb2.ModelInferResponse(model_name=request.model_name, model_version="1")
        response.outputs.add(name="label", datatype="BYTES", shape=[1])
        response.raw_output_contents.append(request.raw_input_contents[0])
        return response


class Place(NamedTuple):
    """Where a server is, and whom to trust."""

    url: str
    ca: str


@pytest.fixture(params=["grpc", "grpcs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    server = grpc.server(ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Servicer(), server)
    authority = Authority(tmp_path, "ca")
    if request.param == "grpcs":
        certificate, key = (path.read_bytes() for path in authority.issue("server"))
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield Place(f"{request.param}://127.0.0.1:{port}", str(authority.certificate))
    server.stop(None).wait()


async def test_an_inference_over_grpc_is_tried_again_when_it_says_so(place: Place) -> None:
    with Client(place.url, "t", ca=place.ca) as client:
        found = client.infer("a", TEXT)
    assert (found.outputs["label"].tolist(), found.decision_id) == ([b"good"], "e")
    async with AsyncClient(place.url, "t", ca=place.ca) as other:
        assert (await other.infer("a", TEXT)).decision_id == "e"
    with Client(place.url, "t", ca=place.ca, attempts=1) as once, pytest.raises(Refused) as failure:
        once.infer("a", TEXT)
    assert (failure.value.status, failure.value.code) == ("RESOURCE_EXHAUSTED", "over_limit")
    assert (failure.value.decision_id, failure.value.retry_after) == ("d", 0.01)


@pytest.mark.parametrize("place", ["grpcs"], indirect=True)
def test_a_server_that_is_not_trusted_gets_no_token(place: Place, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger").certificate
    with Client(place.url, "t", ca=str(stranger), timeout=5) as client, pytest.raises(Unreachable):
        client.infer("a", TEXT)
