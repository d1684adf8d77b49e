"""Requests through real Envoy, checked by the real authorizer, served by real Triton models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import Any

import httpx
import jwt
import numpy as np
import psutil
import psycopg
import pytest
import redis
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from devstack.stack.stack import Stack
from ext_authz.render.endpoints import Pipe
from tests.e2e.stack.conftest import served, token_of
from tests.services import over, wait_for

# Each test takes a user of its own: the demo policy gives everyone ten calls a minute.
TUMOUR = [17.99, 10.38, 122.8, 1001, 0.1184, 0.2776, 0.3001, 0.1471, 0.2419, 0.07871, 1.095, 0.9053, 8.589, 153.4]
TUMOUR += [0.006399, 0.04904, 0.05373, 0.01587, 0.03003, 0.006193, 25.38, 17.33, 184.6, 2019, 0.1622, 0.6656, 0.7119]
TUMOUR += [0.2654, 0.4601, 0.1189]
TEXT = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["I love it"]}]}


def post(stack: Stack, user: str, model: str = "sentiment", body: object = None, **headers: str) -> httpx.Response:
    headers["authorization"] = f"Bearer {token_of(stack, user)}"
    url = f"{stack.addresses.envoy}/v2/models/{model}/infer"
    content = body if isinstance(body, bytes) else json.dumps(body or TEXT).encode()
    return httpx.post(url, content=content, headers={name.replace("_", "-"): value for name, value in headers.items()})


def outputs(answer: httpx.Response) -> dict[str, object]:
    return {output["name"]: output["data"][0] for output in answer.json()["outputs"]}


def test_rest_and_a_forged_identity_is_powerless(stack: Stack) -> None:
    answer = post(stack, "alice", x_user_id="mallory")
    assert answer.status_code == 200
    subject = jwt.decode(token_of(stack, "alice"), options={"verify_signature": False})["sub"]
    assert outputs(answer) == {"label": "positive", "score": pytest.approx(0.6369), "caller": subject}
    assert answer.headers["x-decision-id"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("accept", ["*/*", "text/html"])
def test_a_monitor_probes_its_health(stack: Stack, method: str, accept: str) -> None:
    answer = httpx.request(method, f"{stack.addresses.envoy}/v2/health/ready", headers={"accept": accept})
    assert (answer.status_code, answer.content) == (204 if method == "OPTIONS" else 200, b"")
    assert answer.headers.get("allow") == ("GET, HEAD, OPTIONS" if method == "OPTIONS" else None)


def test_head_says_of_a_model_what_get_says(stack: Stack) -> None:
    headers = {"authorization": f"Bearer {token_of(stack, 'alice')}"}
    with httpx.Client(base_url=stack.addresses.envoy, headers=headers) as caller:
        for path in ("/v2/models/sentiment", "/v2/models/nothing"):
            got, head = caller.get(path), caller.head(path)  # over one connection: nothing of a body is left in it
            assert (head.status_code, head.content) == (got.status_code, b"")
            names = ("content-type", "content-length")
            assert [head.headers[name] for name in names] == [got.headers[name] for name in names]


@pytest.mark.parametrize("body", [b"no json", b"{}", b'{"inputs": [{"name": "text", "datatype": "BYTES"'])
def test_a_malformed_body_is_a_mistake_of_the_caller(stack: Stack, body: bytes) -> None:
    answer = post(stack, "bob", body=body)
    problem = answer.json()
    assert (answer.status_code, problem["status"], problem["code"]) == (400, 400, "invalid_inference_request")
    assert problem["error"] == f"{problem['detail']} (decision {answer.headers['x-decision-id']})"
    with httpx.Client(base_url=stack.addresses.envoy) as caller:
        assert caller.get("/v2/health/live").status_code == 200


def test_an_error_of_triton_over_grpc_names_the_decision(stack: Stack) -> None:
    client = triton.InferenceServerClient(stack.addresses.envoy_grpc)
    wrong = triton.InferInput("nothing", [1, 1], "FP32")
    wrong.set_data_from_numpy(np.zeros((1, 1), np.float32))
    with pytest.raises(InferenceServerException, match=r"input 'nothing'.* \(decision [0-9a-f-]+\)"):
        client.infer("cancer", [wrong], headers={"authorization": f"Bearer {token_of(stack, 'bob')}"})


def test_grpc(stack: Stack) -> None:
    client = triton.InferenceServerClient(stack.addresses.envoy_grpc)
    features = triton.InferInput("features", [1, 30], "FP32")
    features.set_data_from_numpy(np.array([TUMOUR], dtype=np.float32))
    answer = client.infer("cancer", [features], headers={"authorization": f"Bearer {token_of(stack, 'load01')}"})
    assert answer.as_numpy("label").item() == b"malignant"
    client.close()


def test_a_stream_reaches_every_model_of_who_may_call_them_all(stack: Stack) -> None:
    answers: Queue[tuple[triton.InferResult, InferenceServerException | None]] = Queue()
    text = triton.InferInput("text", [1, 1], "BYTES")
    text.set_data_from_numpy(np.array([[b"I love it"]], dtype=object))
    features = triton.InferInput("features", [1, 30], "FP32")
    features.set_data_from_numpy(np.array([TUMOUR], dtype=np.float32))
    client = triton.InferenceServerClient(stack.addresses.envoy_grpc)
    bearer = {"authorization": f"Bearer {token_of(stack, 'load07')}"}
    client.start_stream(lambda result, error: answers.put((result, error)), headers=bearer)
    client.async_stream_infer("sentiment", [text])
    client.async_stream_infer("cancer", [features])
    found = [answers.get(timeout=30) for _ in range(2)]
    client.stop_stream()
    client.close()
    assert [error for _, error in found] == [None, None]
    assert {result.as_numpy("label").item() for result, _ in found} == {b"positive", b"malignant"}


@pytest.mark.parametrize(("rows", "said"), [(250_000, "batch-size must be <= 256"), (700_000, "larger than")])
def test_big_tensors_go_over_grpc(stack: Stack, rows: int, said: str) -> None:
    """30 MB reach Triton, whose own limit this one meets; 84 MB do not pass Envoy."""
    client = triton.InferenceServerClient(stack.addresses.envoy_grpc)
    features = triton.InferInput("features", [rows, 30], "FP32")
    features.set_data_from_numpy(np.ones((rows, 30), dtype=np.float32))
    with pytest.raises(InferenceServerException, match=said):
        client.infer("cancer", [features], headers={"authorization": f"Bearer {token_of(stack, 'load06')}"})
    client.close()


def test_several_rows_of_one_request(stack: Stack) -> None:
    texts = ["good", "terrible", "a table"]
    body = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [3, 1], "data": texts}]}
    answer = post(stack, "load02", body=body)
    assert answer.json()["outputs"][0]["data"] == ["positive", "negative", "neutral"]


def test_a_refusal_has_its_reason(stack: Stack) -> None:
    assert httpx.post(f"{stack.addresses.envoy}/v2/models/sentiment/infer", json=TEXT).status_code == 401
    assert post(stack, "carol").json()["code"] == "model_forbidden"


def test_what_is_not_routed_is_checked_nevertheless(stack: Stack) -> None:
    answer = httpx.post(f"{stack.addresses.envoy}/v2/logging")
    assert answer.status_code == 404
    assert answer.headers["x-decision-id"]


def test_a_body_over_the_limit_does_not_reach_triton(stack: Stack) -> None:
    assert post(stack, "load03", body=b"x" * 9_000_000).status_code == 413


def test_a_big_body_that_is_there_before_the_verdict_is_refused_too(stack: Stack) -> None:
    """Envoy holds what comes while the authorizer thinks; that must not slip past the limit as one piece. In chunks,
    since one that announces its length is refused before the check."""
    token = {"authorization": f"Bearer {token_of(stack, 'load05')}"}
    url = f"{stack.addresses.envoy}/v2/models/sentiment/infer"
    status = 0
    for _ in range(5):  # a slow machine makes Envoy lose patience with the authorizer: 503
        paused = _count(stack, "flow_control_paused_reading_total")
        whole = _count(stack, "cx_rx_bytes_total") + 9_000_000
        with ThreadPoolExecutor(1) as caller:
            with _suspended(_family(stack.child("authorizer").pid)):
                body = iter([b"x" * 9_000_000])
                answer = caller.submit(httpx.post, url, content=body, headers=token, timeout=30)
                wait_for(
                    lambda: (
                        _count(stack, "flow_control_paused_reading_total") > paused  # noqa: B023 - called right here
                        or _count(stack, "cx_rx_bytes_total") > whole  # noqa: B023
                    )
                )
            if (status := answer.result().status_code) != 503:
                break
    assert status == 413


def _count(stack: Stack, name: str) -> int:
    """One of Envoy's counters about callers."""
    with over(stack.addresses.envoy_admin) as envoy:
        return int(envoy.get(f"/stats?filter=^http.models.downstream_{name}$").text.rpartition(":")[2])


@contextmanager
def _suspended(processes: list[psutil.Process]) -> Iterator[None]:
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


def test_a_model_serves_only_what_was_authorised_for_it(stack: Stack) -> None:
    url = "/v2/models/sentiment/infer"
    with _triton(stack) as server:
        for headers in ({}, {"x-authz-model": "sentiment"}, {"x-authz-model": "cancer", "x-authz-version": "1"}):
            answer = server.post(url, json=TEXT, headers=headers)
            assert (answer.status_code, answer.json()) == (400, {"error": "not authorised for this model and version"})
        named = {"x-authz-model": "sentiment", "x-authz-version": "1"}
        assert server.post(url, json=TEXT, headers=named).status_code == 200


def _triton(stack: Stack) -> httpx.Client:
    """Past Envoy, as this user."""
    assert isinstance(stack.addresses.triton.http, Pipe)
    return over(stack.addresses.triton.http.path)


def test_tritons_own_administration_takes_a_secret(stack: Stack) -> None:
    secret = stack.state.secret("triton", "admin-secret")
    with _triton(stack) as server:
        assert server.post("/v2/repository/index").status_code == 403
        index = server.post("/v2/repository/index", headers={"x-triton-admin": secret}).json()
    assert {(model["name"], model["version"]) for model in index if model["state"] == "READY"} == {
        (name, version) for name, versions in served(stack).items() for version in versions
    }


def test_a_killed_redis_closes_the_door_until_it_is_back(stack: Stack) -> None:
    stack.child("redis").kill()
    try:
        assert post(stack, "load04").status_code == 503
    finally:
        stack.child("redis").start()
    deadline = 30
    while (answer := post(stack, "load04")).status_code == 503 and deadline:
        deadline -= 1
    assert answer.status_code == 200


def test_only_these_listen_and_none_beyond_loopback(stack: Stack) -> None:
    """The table of docs/adr/0018-what-listens-where.md."""
    listening = {
        (child.name, connection.laddr.ip, connection.laddr.port)
        for child in stack.children
        for process in _family(child.pid)
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    ports = stack.settings
    assert {(name, port) for name, _, port in listening} == {
        ("postgres", ports.postgres_port),
        ("redis", ports.redis_port),
        ("identity", ports.idp_port),
        ("authorizer", ports.listen_port),
        ("authorizer", ports.admin_port),
        ("console", ports.console_port),
        ("console", ports.console_grpc_port),
        ("console", ports.console_metrics_port),
        ("usage-worker", ports.usage_port),
        ("envoy", ports.envoy_port),
    }
    assert {address for _, address, _ in listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_every_socket_is_this_users_alone(stack: Stack) -> None:
    family = [process for child in stack.children for process in _family(child.pid)]
    paths = {str(connection.laddr) for process in family for connection in process.net_connections("unix")}
    sockets = [Path(path) for path in paths if path.startswith("/") and Path(path).is_socket()]
    assert len(sockets) >= 5  # Triton's three, Envoy's, the authorizer's
    for socket in sockets:
        closed = [place for place in (socket, *socket.parents) if not place.stat().st_mode & 0o077]
        assert closed, f"others can reach {socket}"


def test_shared_memory_is_readable_by_this_user_only(stack: Stack) -> None:
    regions = stack.state.shared_memory()
    assert regions
    assert {region.stat().st_mode & 0o777 for region in regions} == {0o600}


def test_users_of_this_machine_need_a_credential_too(stack: Stack) -> None:
    to, page = stack.addresses, {"origin": "https://evil.example"}
    for url in (f"{to.admin}/policy", f"{to.admin}/policy/candidate"):
        assert httpx.get(url).status_code == 404
    assert httpx.post(f"{to.admin}/policy/reload").status_code == 404
    for url in (f"{to.admin}/metrics", f"http://127.0.0.1:{stack.settings.usage_port}/metrics"):
        assert httpx.get(url).status_code == 200
        assert httpx.get(url, headers=page).status_code == 403
        assert httpx.get(url, headers={"host": "evil.example"}).status_code == 403
    rotate = f"{to.issuer.replace('/realms/', '/admin/realms/')}/keys/rotate"
    assert httpx.post(rotate, headers=page).status_code == 401
    assert httpx.get(to.issuer, headers={"host": "evil.example"}).status_code == 400
    with redis.Redis(port=stack.settings.redis_port) as client, pytest.raises(redis.AuthenticationError):
        client.get("x")
    where = f"postgresql://tollgate@127.0.0.1:{stack.settings.postgres_port}/tollgate"
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(where)


def _family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def test_what_a_model_answered_comes_to_its_owner(stack: Stack) -> None:
    """Written by the model, moved by the usage worker, of the caller that the ledger names, read by the owner."""
    decision = post(stack, "load11", x_user_id="mallory").headers["x-decision-id"]
    url = f"{stack.addresses.envoy}/tollgate/api/v1/models/sentiment/predictions?decision_id={decision}"
    owner, caller = ({"authorization": f"Bearer {token_of(stack, user)}"} for user in ("dave", "load11"))

    def answered() -> list[dict[str, Any]]:
        """Without that of a copy, which one call in ten has."""
        rows = httpx.get(url, headers=owner).raise_for_status().json()["predictions"]
        return [row for row in rows if not row["mirrored"]]

    wait_for(answered, 60)
    (found,) = answered()
    subject = jwt.decode(token_of(stack, "load11"), options={"verify_signature": False})["sub"]
    assert (found["subject"], found["client"], found["inputs"]) == (subject, "web-app", {"text": "I love it"})
    assert (found["outputs"]["label"], found["version"], found["mirrored"]) == ("positive", "1", False)
    assert httpx.get(url, headers=caller).status_code == 404
