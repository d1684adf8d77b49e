"""What both servers promise a caller. Envoy is such a caller; so is whoever else reaches the port."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from ext_authz.server.rpc import CHECK, HEALTH
from tests.e2e.server.raw import Answer, RawCall, frame
from tests.e2e.server.serving import Serving, serving, unary
from tests.services import wait_for

MAX_MESSAGE = 65_536


@pytest.fixture(scope="module", params=["h2corn", "grpcio"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    directory: Path = tmp_path_factory.mktemp(request.param)
    with serving(directory, request.param, max_message_bytes=MAX_MESSAGE) as running:
        yield running


@pytest.fixture(scope="module")
def h2corn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("strict"), "h2corn", max_message_bytes=MAX_MESSAGE) as running:
        yield running


def failure(call: Callable[[], object]) -> tuple[grpc.StatusCode, str | None]:
    with pytest.raises(grpc.RpcError) as refused:
        call()
    return refused.value.code(), refused.value.details()


def health(server: Serving, service: str) -> HealthCheckResponse:
    with server.channel() as channel:
        stub = HealthStub(channel)
        answer: HealthCheckResponse = stub.Check(HealthCheckRequest(service=service), timeout=5)  # type: ignore[attr-defined]  # its stubs forget the methods
        return answer


class TestCheck:
    def test_answers_with_the_bytes_of_the_service(self, server: Serving) -> None:
        assert server.call(b"what the service echoes") == b"what the service echoes"

    @pytest.mark.parametrize("message", [b"", b"\xff\xff\xff\xff", b"\0" * 100], ids=["empty", "not protobuf", "zeros"])
    def test_leaves_the_meaning_of_bytes_to_the_service(self, server: Serving, message: bytes) -> None:
        assert server.call(message) == message

    def test_takes_the_largest_message(self, server: Serving) -> None:
        message = b"x" * MAX_MESSAGE
        assert server.call(message) == message

    def test_keeps_a_thousand_calls_apart(self, server: Serving) -> None:
        messages = [b"call %d" % number * 100 for number in range(1000)]
        with server.channel() as channel:
            calls = [unary(channel).future(message, timeout=20) for message in messages]
            assert [call.result() for call in calls] == messages

    def test_takes_a_message_in_pieces(self, server: Serving) -> None:
        data = frame(b"in pieces")
        call = RawCall(server.port).send(data[:3]).send(data[3:7]).send(data[7:]).send(b"", end=True)
        assert call.answer().body == data

    def test_takes_the_content_type_with_its_encoding(self, server: Serving) -> None:
        call = RawCall(server.port, content_type="application/grpc+proto").send(frame(b"hello"), end=True)
        assert call.answer().grpc_status == 0

    def test_a_bug_is_internal_without_details(self, server: Serving) -> None:
        assert failure(lambda: server.call(b"raise")) == (grpc.StatusCode.INTERNAL, "internal error")
        wait_for(lambda: "RuntimeError" in server.log)


class TestBadCalls:
    def test_larger_than_allowed(self, server: Serving) -> None:
        code, _ = failure(lambda: server.call(b"x" * (MAX_MESSAGE + 1)))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED

    def test_announced_larger_than_allowed_is_refused_before_it_comes(self, server: Serving) -> None:
        answer = RawCall(server.port).send(frame(b"a start", size=10_000_000)).answer()
        assert answer.grpc_status == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]

    def test_compressed(self, server: Serving) -> None:
        message = b"compressible " * 100
        code, _ = failure(lambda: server.call(message, compression=grpc.Compression.Gzip))
        assert code is grpc.StatusCode.UNIMPLEMENTED

    def test_unknown_method(self, server: Serving) -> None:
        with server.channel() as channel:
            call = unary(channel, "/envoy.service.auth.v3.Authorization/Chekc")
            assert failure(lambda: call(b"", timeout=5))[0] is grpc.StatusCode.UNIMPLEMENTED

    def test_malformed_timeout(self, server: Serving) -> None:
        answer = RawCall(server.port, grpc_timeout="soon").send(frame(b"hello"), end=True).answer()
        assert answer.grpc_status == grpc.StatusCode.INTERNAL.value[0]

    def test_http_1_gets_nowhere(self, server: Serving) -> None:
        with pytest.raises(httpx.TransportError):
            httpx.post(f"http://127.0.0.1:{server.port}{CHECK}", content=frame(b"hello"))

    def test_a_caller_that_hangs_up_affects_no_other(self, server: Serving) -> None:
        for _ in range(20):
            RawCall(server.port).send(frame(b"sleep 0.1"), end=True).hang_up()
            RawCall(server.port).send(frame(b"half", size=100)).hang_up()
        assert server.call(b"still here") == b"still here"


class TestStrictFraming:
    """Under h2corn the framing is ours, so it is exact. grpc's core reads the first message and ignores the rest."""

    @pytest.mark.parametrize(
        ("data", "code"),
        [
            (b"", grpc.StatusCode.UNIMPLEMENTED),
            (b"\0\0", grpc.StatusCode.INTERNAL),
            (frame(b"hello", size=100), grpc.StatusCode.INTERNAL),
            (frame(b"one") + frame(b"two"), grpc.StatusCode.UNIMPLEMENTED),
            (frame(b"hello", flag=1), grpc.StatusCode.UNIMPLEMENTED),
            (frame(b"hello", flag=255), grpc.StatusCode.UNIMPLEMENTED),
        ],
        ids=["no message", "half a prefix", "truncated", "two messages", "compressed", "reserved flags"],
    )
    def test_wrong_frame(self, h2corn: Serving, data: bytes, code: grpc.StatusCode) -> None:
        answer = RawCall(h2corn.port).send(data, end=True).answer()
        assert (answer.status, answer.grpc_status, answer.body) == (200, code.value[0], b"")

    def test_compressed_names_what_is_accepted(self, h2corn: Serving) -> None:
        answer = RawCall(h2corn.port, grpc_encoding="gzip").send(frame(b"hello", flag=1), end=True).answer()
        assert answer.headers["grpc-accept-encoding"] == "identity"

    def test_wrong_http_method(self, h2corn: Serving) -> None:
        answer = RawCall(h2corn.port, method="PUT").send(frame(b"hello"), end=True).answer()
        assert (answer.status, answer.headers["allow"]) == (405, "POST")

    @pytest.mark.parametrize("content_type", ["application/json", "application/grpc-web", "application/grpc+json"])
    def test_wrong_content_type(self, h2corn: Serving, content_type: str) -> None:
        answer = RawCall(h2corn.port, content_type=content_type).send(frame(b"hello"), end=True).answer()
        assert (answer.status, answer.headers["accept-post"]) == (415, "application/grpc")


class TestDeadline:
    def answer(self, server: Serving, data: bytes, *, end: bool) -> Answer:
        return RawCall(server.port, grpc_timeout="100m").send(data, end=end).answer()

    def test_bounds_the_check(self, server: Serving) -> None:
        answer = self.answer(server, frame(b"sleep 60"), end=True)
        assert answer.grpc_status == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
        wait_for((server.directory / "cancelled").exists)

    def test_bounds_the_wait_for_the_message(self, server: Serving) -> None:
        answer = self.answer(server, frame(b"never whole", size=100), end=False)
        assert answer.grpc_status == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]

    def test_is_not_in_the_way_of_a_check_in_time(self, server: Serving) -> None:
        assert server.call(b"sleep 0.05", seconds=2) == b"slept"


class TestHealth:
    @pytest.mark.parametrize("service", ["", "envoy.service.auth.v3.Authorization", "redis", "postgres"])
    def test_serving(self, server: Serving, service: str) -> None:
        assert health(server, service).status == HealthCheckResponse.SERVING

    def test_a_dependency_that_is_down_is_reported_and_the_server_serves(self, server: Serving) -> None:
        server.set_down('["redis"]')
        try:
            assert health(server, "redis").status == HealthCheckResponse.NOT_SERVING
            assert health(server, "postgres").status == HealthCheckResponse.SERVING
            assert health(server, "").status == HealthCheckResponse.SERVING
            wait_for(lambda: server.get("/readyz").json()["dependencies"] == {"postgres": True, "redis": False})
            assert server.get("/readyz").status_code == 200
        finally:
            server.set_down("[]")

    def test_unknown_service(self, server: Serving) -> None:
        assert failure(lambda: health(server, "mysql"))[0] is grpc.StatusCode.NOT_FOUND

    def test_malformed_request(self, server: Serving) -> None:
        with server.channel() as channel:
            call = unary(channel, HEALTH)
            assert failure(lambda: call(b"\xff", timeout=5))[0] is grpc.StatusCode.INTERNAL

    def test_watch_is_not_offered(self, server: Serving) -> None:
        with server.channel() as channel:
            watch = HealthStub(channel).Watch(HealthCheckRequest(), timeout=5)  # type: ignore[attr-defined]  # likewise
            assert failure(lambda: list(watch))[0] is grpc.StatusCode.UNIMPLEMENTED


def test_both_kinds_of_calls_at_once(server: Serving) -> None:
    """Slow checks do not hold up quick ones, nor health."""
    with ThreadPoolExecutor(4) as pool, server.channel() as channel:
        slow = [unary(channel).future(b"sleep 0.5", timeout=10) for _ in range(200)]
        quick = pool.submit(server.call, b"quick")
        assert quick.result(timeout=10) == b"quick"
        assert health(server, "").status == HealthCheckResponse.SERVING
        assert not any(call.done() for call in slow)
        assert {call.result() for call in slow} == {b"slept"}
