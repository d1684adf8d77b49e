"""The way to the console: what reaches it and what does not, and that what it answers is left as it is."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import httpx
import pytest
from msgspec.structs import replace

from ext_authz.policy.model import Cors, Route
from ext_authz.render.endpoints import LOOPBACK, Address, Triton
from tests.e2e.render.world import LOST, RENDERERS, SHOP, World, running_world, sent, serving
from tests.http_server import answering
from tests.services import wait_for
from tests.unit.render.policies import EVERYDAY, TOKENS, of_kinds

SHOPPING = Route("shop", f"/{SHOP}/{{rest=**}}", frozenset({"GET", "POST"}), public=True, upstream=SHOP)
_MODELS = of_kinds(*EVERYDAY, tokens=TOKENS, cors=Cors(("https://app.example",), credentials=True))
FILES = Route("files", f"/{LOST}/files/{{rest=**}}", frozenset({"POST"}))
POLICY = replace(_MODELS, routes=(*_MODELS.routes, SHOPPING, FILES))
PAGE = b"<!doctype html><title>wrong</title>"
OF_PAGE = {
    "content-type": "text/html; charset=utf-8",
    "content-security-policy": "default-src 'none'",
    "cache-control": "no-store",
    "set-cookie": "__Host-tollgate=1; Path=/; Secure; HttpOnly; SameSite=Lax",
}
FORGED = {"x-user-id": "root", "x-user-roles": "tollgate-admin"}
FORGED |= {"x-forwarded-host": "evil.example", "x-forwarded-for": "8.8.8.8"}
CREATE = "/tollgate.tokens.v1.TokenService/CreateToken"


class Console:
    """Keeps what reaches it. A page for GET, an OAuth error for POST, over gRPC the message or an error."""

    def __init__(self) -> None:
        self.reached: list[tuple[str, dict[str, str], bytes]] = []

    @contextmanager
    def running(self) -> Iterator[Triton]:
        with ThreadingHTTPServer((LOOPBACK, 0), self._handler()) as http, serving(_Rpc(self)) as rpc:
            http.daemon_threads = True
            with answering(http):
                yield Triton(Address(LOOPBACK, http.server_port), Address(LOOPBACK, rpc))

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        console = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer(404, OF_PAGE, PAGE)

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_POST(self) -> None:
                self._answer(401, {"content-type": "application/json"}, b'{"error": "invalid_client"}')

            def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                given = self.rfile.read(int(self.headers.get("content-length", "0")))
                got = {name.lower(): value for name, value in self.headers.items()}
                console.reached.append((self.path, got, given))
                self.send_response(status)
                for name, value in {**headers, "content-length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(b"" if self.command == "HEAD" else body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
                """Quiet."""

        return Handler


class _Rpc(grpc.GenericRpcHandler):
    def __init__(self, console: Console) -> None:
        self._console = console

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        path = handler_call_details.method
        metadata = {name: str(value) for name, value in handler_call_details.invocation_metadata}

        def answer(message: bytes, context: grpc.ServicerContext) -> bytes:
            self._console.reached.append((path, metadata, message))
            if message == b"fail":
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no file /etc/tollgate/x for you")
            return message

        return grpc.unary_unary_rpc_method_handler(answer)


def call(world: World, message: bytes, *metadata: tuple[str, str]) -> bytes:
    with grpc.insecure_channel(world.address) as channel:
        method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(CREATE)
        return method(message, metadata=metadata, timeout=5)


@pytest.fixture(scope="module")
def console() -> Console:
    return Console()


@pytest.fixture(scope="module", params=RENDERERS)
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, console: Console
) -> Iterator[World]:
    with (
        console.running() as place,
        running_world(request.param, POLICY, tmp_path_factory.mktemp("console"), console=place) as world,
    ):
        yield world


@pytest.fixture
def world(running: World, console: Console) -> World:
    running.forget()
    console.reached.clear()
    return running


def test_a_page_comes_as_the_console_made_it(world: World, caller: httpx.Client, console: Console) -> None:
    answer = caller.get("/tollgate/tokens?of=a", headers={"cookie": "__Host-tollgate=1", **FORGED})
    assert (answer.status_code, answer.content) == (404, PAGE)
    assert {name: answer.headers[name] for name in OF_PAGE} == OF_PAGE
    [(path, got, _)] = console.reached
    assert path == "/tollgate/tokens?of=a"
    assert got["cookie"] == "__Host-tollgate=1"
    assert (got["x-user-id"], got["x-user-roles"]) == ("-", "-"), "of nobody: a public route"
    assert got["host"] == world.address
    assert got["x-forwarded-proto"] == "http"
    assert got["x-forwarded-for"].count(",") == 1, "what the caller wrote, and its address behind that"
    assert not got.keys() & {"x-forwarded-host", "x-envoy-attempt-count", "x-envoy-decorator-operation"}
    [check] = world.authorizer.asked
    assert "cookie" not in sent(check)
    assert world.reached() == []


@pytest.mark.parametrize("path", ["/tollgate", "/tollgate/", "/tollgate/.well-known/openid-configuration"])
def test_every_path_below_the_prefix_is_its_own(caller: httpx.Client, console: Console, path: str) -> None:
    assert caller.head(path).status_code == httpx.codes.NOT_FOUND
    assert [reached for reached, *_ in console.reached] == [path]


def test_a_credential_and_a_form_arrive_and_an_error_of_oauth_returns(caller: httpx.Client, console: Console) -> None:
    form = {"token": "tgl_000000~a.b.c", "token_type_hint": "access_token"}
    answer = caller.post("/tollgate/oauth/revoke", data=form, auth=("client", "secret"))
    assert (answer.status_code, answer.json()) == (401, {"error": "invalid_client"})
    assert answer.headers["content-type"] == "application/json"
    [(_, got, body)] = console.reached
    assert got["authorization"].startswith("Basic ")
    assert got["content-type"] == "application/x-www-form-urlencoded"
    assert body.startswith(b"token=tgl_")


def test_a_call_over_grpc_arrives_and_returns(world: World, console: Console) -> None:
    assert call(world, b"hello", ("authorization", "Bearer tgl_x"), ("x-user-id", "root")) == b"hello"
    [(path, got, _)] = console.reached
    assert (path, got["authorization"]) == (CREATE, "Bearer tgl_x")
    assert got["x-user-id"] != "root"
    with pytest.raises(grpc.RpcError) as failed:
        call(world, b"fail")
    assert failed.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert failed.value.details() == "no file /etc/tollgate/x for you"
    with pytest.raises(grpc.RpcError) as large:
        call(world, b"x" * 4_000_000)
    assert large.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(large.value.details()).startswith("too_large: the body is larger than 65536 bytes")


def test_a_large_body_is_refused_before_the_check_or_after_it(
    world: World, caller: httpx.Client, console: Console
) -> None:
    announced = caller.post("/tollgate/signals/events", content=b"x" * 65_537)
    assert (announced.status_code, world.authorizer.asked) == (413, [])
    chunked = caller.post("/tollgate/signals/events", content=iter([b"x" * 400_000] * 10))
    assert chunked.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE
    for answer in (announced, chunked):
        assert answer.json()["detail"] == "the body is larger than 65536 bytes"
    assert console.reached == []
    assert caller.post("/tollgate/signals/events", content=b"x" * 65_536).status_code == httpx.codes.UNAUTHORIZED


def test_no_page_of_another_origin_reads_the_console(world: World, caller: httpx.Client) -> None:
    origin = {"origin": "https://app.example"}
    preflight = origin | {"access-control-request-method": "POST"}
    model = caller.options("/v2/models/sentiment/infer", headers=preflight)
    assert model.headers["access-control-allow-origin"] == "https://app.example"
    assert world.authorizer.asked == []
    for answer in (
        caller.options("/tollgate/api/v1/tokens", headers=preflight),
        caller.get("/tollgate/api/v1/tokens", headers=origin),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert len(world.authorizer.asked) == 2


def test_cookies_of_the_console_reach_no_model(world: World, caller: httpx.Client) -> None:
    answer = caller.post("/v2/models/sentiment/infer", json={}, headers={"cookie": "__Host-tollgate=1"})
    assert answer.status_code == httpx.codes.OK
    assert "cookie" not in answer.json()["headers"]


def test_an_application_has_its_own_cookies_and_a_caller_cannot_choose_it(
    world: World, caller: httpx.Client, console: Console
) -> None:
    """Its server is here that of the console, which sets the cookie of a session: not through this way."""
    answer = caller.get("/shop/a?b=c", headers={"cookie": "__Host-tollgate=1; shop=2; shop.x=3", **FORGED})
    assert (answer.status_code, answer.content) == (404, PAGE)
    assert "set-cookie" not in answer.headers
    [(path, got, _)] = console.reached
    assert (path, got["cookie"]) == ("/shop/a?b=c", "shop=2; shop.x=3")
    assert (got["x-authz-upstream"], got["x-user-id"]) == ("shop", "-")
    forged = caller.post(
        "/v2/models/sentiment/infer", json={}, headers={"x-authz-upstream": "shop", "cookie": "shop=1"}
    )
    assert not forged.json()["headers"].keys() & {"x-authz-upstream", "cookie"}
    assert caller.post("/shop", headers={"x-authz-upstream": "shop"}).status_code == httpx.codes.NOT_FOUND
    assert len(console.reached) == 1
    assert len(world.authorizer.asked) == 3


def test_what_is_allowed_for_an_application_reaches_no_model(world: World, caller: httpx.Client) -> None:
    """The authorizer has a newer policy, or nobody said where the application is; and models have this path too."""
    answer = caller.post("/lost/files/a", json={})
    assert (answer.status_code, len(world.authorizer.asked)) == (404, 1)
    assert world.reached() == []


@pytest.mark.parametrize("request_line", ["CONNECT /tollgate/ HTTP/1.1", "GET /tollgate/ HTTP/1.1"])
def test_there_are_no_tunnels(world: World, console: Console, request_line: str) -> None:
    upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: YQ==\r\n"
    with socket.create_connection((LOOPBACK, world.port), timeout=5) as wire:
        wire.sendall(f"{request_line}\r\nhost: a\r\n{upgrade}\r\n".encode())
        status = wire.recv(64).split(b" ")[1]
    assert status in (b"400", b"403", b"404")
    assert console.reached == []


@pytest.mark.parametrize("renderer", RENDERERS)
def test_without_the_console_its_paths_say_so(renderer: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    with running_world(renderer, POLICY, tmp_path_factory.mktemp("gone")) as world:

        def answer() -> httpx.Response:
            return httpx.get(f"{world.url}/tollgate/tokens?x=1", timeout=10)

        wait_for(lambda: answer().json()["code"] == "console_unavailable")
        wait_for(lambda: httpx.get(f"{world.url}/shop/a").json()["code"] == "application_unavailable")
        problem = answer().json()
        assert (problem["status"], problem["detail"]) == (503, "the console does not answer, try again")
        assert problem["decision_id"]
        with pytest.raises(grpc.RpcError) as refused:
            call(world, b"")
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert str(refused.value.details()).startswith("console_unavailable: ")
