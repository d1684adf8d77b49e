"""TLS on every connection of a real Envoy: from callers, to the authorizer, to Triton."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import httpx
import pytest
from click.testing import CliRunner
from tritonclient.grpc import service_pb2

from ext_authz.render.commands import render
from ext_authz.render.endpoints import LOOPBACK, Address, Endpoints
from tests.e2e.render.world import Authorizer, Model, running_envoy, serving
from tests.e2e.server.certificates import Authority
from tests.services import free_port
from tests.unit.render.policies import DEMO, ENVIRONMENT, demo

REST = "/v2/models/sentiment/infer"
RPC = "/inference.GRPCInferenceService/ModelInfer"
MESSAGE = service_pb2.ModelInferRequest(model_name="sentiment").SerializeToString()


class Files:
    """Two authorities, and what the first one has signed for each party."""

    def __init__(self, directory: Path) -> None:
        self.ours, self.other = Authority(directory, "ours"), Authority(directory, "other")
        self.envoy, self.caller = self.ours.issue("envoy"), self.ours.issue("caller")

    def server(self, by: Authority, name: str) -> grpc.ServerCredentials:
        """A gRPC server with a certificate by this authority, whose clients need one by ours."""
        cert, key = by.issue(name)
        pair = (key.read_bytes(), cert.read_bytes())
        return grpc.ssl_server_credentials([pair], self.ours.certificate.read_bytes(), require_client_auth=True)

    def options(self, *connections: str) -> list[str]:
        cert, key = self.envoy
        files = {"ca": self.ours.certificate, "cert": cert, "key": key}
        return [f"--{each}-{kind}={file}" for each in connections for kind, file in files.items()]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@contextmanager
def running(files: Files, directory: Path, authorizer_by: Authority, triton_by: Authority) -> Iterator[int]:
    """The port of an Envoy from `tollgate policy render envoy`."""
    model = Model("stable")
    with ExitStack() as stack:
        checks = stack.enter_context(serving(Authorizer(demo()), files.server(authorizer_by, "authorizer")))
        stack.enter_context(model.running(files.server(triton_by, "triton")))
        port, out = free_port(), directory / "rendered.json"
        rest, rpc = model.place.http, model.place.grpc
        assert isinstance(rest, Address)
        assert isinstance(rpc, Address)
        where = ["--port", f"{port}", "--authorizer", f"{LOOPBACK}:{checks}"]
        where += ["--triton", f"{LOOPBACK}:{rest.port}:{rpc.port}", "--triton-plain-rest"]
        where += ["--access-log", f"{directory / 'access.log'}", "--format", "json", "--out", f"{out}"]
        options = files.options("listen", "authorizer", "triton")
        CliRunner().invoke(render, ["envoy", str(DEMO), *where, *options], env=ENVIRONMENT, catch_exceptions=False)
        endpoints = Endpoints(listen=Address(LOOPBACK, port))
        stack.enter_context(running_envoy(json.loads(out.read_text()), endpoints, directory))
        yield port


def rest(files: Files, port: int) -> httpx.Response:
    context = ssl.create_default_context(cafile=str(files.ours.certificate))
    context.load_cert_chain(*files.caller)
    with httpx.Client(verify=context, http2=False, timeout=10) as client:
        return client.post(f"https://{LOOPBACK}:{port}{REST}", json={}, headers={"authorization": "Bearer alice"})


def rpc(files: Files, port: int) -> bytes:
    cert, key = files.caller
    credentials = grpc.ssl_channel_credentials(files.ours.certificate.read_bytes(), key.read_bytes(), cert.read_bytes())
    with grpc.secure_channel(f"{LOOPBACK}:{port}", credentials) as channel:
        method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(RPC)
        return method(MESSAGE, timeout=10, metadata=(("authorization", "Bearer alice"),))


def test_all_that_hold_a_certificate_of_the_authority_are_served(files: Files, tmp_path: Path) -> None:
    with running(files, tmp_path, files.ours, files.ours) as port:
        assert rest(files, port).json()["model"] == "stable"
        assert rpc(files, port) == b"stable"


def test_a_caller_without_a_certificate_is_refused(files: Files, tmp_path: Path) -> None:
    trusting = ssl.create_default_context(cafile=str(files.ours.certificate))
    with running(files, tmp_path, files.ours, files.ours) as port:
        with pytest.raises(httpx.TransportError), httpx.Client(verify=trusting) as client:
            client.post(f"https://{LOOPBACK}:{port}{REST}")
        with pytest.raises(httpx.TransportError):
            httpx.post(f"http://{LOOPBACK}:{port}{REST}")


def test_an_authorizer_of_another_authority_is_not_believed(files: Files, tmp_path: Path) -> None:
    with running(files, tmp_path, files.other, files.ours) as port:
        assert rest(files, port).status_code == httpx.codes.SERVICE_UNAVAILABLE


def test_a_triton_of_another_authority_gets_no_call(files: Files, tmp_path: Path) -> None:
    with running(files, tmp_path, files.ours, files.other) as port, pytest.raises(grpc.RpcError) as refused:
        rpc(files, port)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
