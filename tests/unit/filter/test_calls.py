"""Which calls are passed on, as what, and which are refused before MLflow sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from ext_authz.filter.calls import BODY_BYTES
from ext_authz.filter.decision import MENTIONS
from ext_authz.filter.rights import rights_of
from tests.unit.filter.server import API, FILES, A, B, Chunks, Server, sent

FORECAST, BOTH = ["mlflow:forecast:*"], ["mlflow:forecast:*", "mlflow:vision:*"]


@pytest.mark.parametrize(
    ("method", "path", "given", "target", "body"),
    [
        ("GET", "/runs/get", {"params": {"run_id": A, "run_uuid": A}}, f"/runs/get?run_id={A}&run_uuid={A}", None),
        ("POST", "/runs/create", {"json": {"experiment_id": "1"}}, "/runs/create", {"experiment_id": "1"}),
        (
            "POST",
            "/experiments/create",
            {"json": {"name": "forecast/x"}},
            "/experiments/create",
            {"name": "forecast/x"},
        ),
        (
            *("POST", "/runs/log-batch"),
            {"json": {"run_id": A, "metrics": [{"key": "a", "model_id": f"m-{A}", "value": 1.5}]}},
            "/runs/log-batch",
            {"run_id": A, "metrics": [{"key": "a", "model_id": f"m-{A}", "value": 1.5}]},
        ),
        ("DELETE", f"/logged-models/m-{A}/tags/a%20b", {}, f"/logged-models/m-{A}/tags/a%20b", {}),
        (
            "DELETE",
            "/registered-models/delete",
            {"json": {"name": "forecast.x"}},
            "/registered-models/delete",
            {"name": "forecast.x"},
        ),
    ],
)
async def test_mlflow_gets_what_was_checked(
    server: Server, method: str, path: str, given: dict[str, Any], target: str, body: object
) -> None:
    for prefix in ("/api", "/ajax-api"):
        answer = await server.call(method, f"/mlflow{prefix}/2.0/mlflow{path}", **given)
        assert answer.status_code == 200, answer.text
        got = sent(server.calls[-1], server.bodies[-1])
        assert got == (method, f"{prefix}/2.0/mlflow{target}", body)


async def test_of_headers_mlflow_gets_none_of_the_caller(server: Server) -> None:
    given = {"x-mlflow-workspace": "other", "cookie": "a=b", "authorization": "Basic x", "origin": "https://x.example"}
    assert (await server.call("POST", f"{API}/runs/create", json={"experiment_id": "1"}, headers=given)).is_success
    assert not {*given, "x-user-id", "x-user-roles"} & {*server.calls[-1].headers}


@pytest.mark.parametrize(
    ("method", "path", "given", "says"),
    [
        ("POST", "/runs/log-metric", {"content": b'{"run_id": "a", "run_id": "b"}'}, "without repeated names"),
        ("POST", "/runs/log-metric", {"json": {"runId": A}}, "lower-case letters"),
        ("POST", "/runs/log-batch", {"json": {"run_id": A, "metrics": [{"modelId": B}]}}, "lower-case letters"),
        ("POST", "/runs/log-batch", {"json": {"run_id": A, "[x.y]": 1}}, "lower-case letters"),
        ("POST", "/runs/log-metric", {"json": {"run_id": A}, "params": {"run_id": B}}, "send no query"),
        ("POST", "/runs/log-metric", {"json": {"run_id": [1]}}, "is not a text"),
        ("POST", "/runs/log-metric", {"json": {"run_id": {"a": 1}}}, "is not a text"),
        ("POST", "/runs/log-metric", {"json": {"key": "a"}}, "run_id or run_uuid is missing"),
        ("POST", "/runs/log-metric", {"json": {"run_id": ""}}, "run_id or run_uuid is missing"),
        ("POST", "/runs/log-metric", {"content": b""}, "run_id or run_uuid is missing"),
        ("POST", "/runs/log-metric", {"json": [1]}, "one JSON object"),
        ("POST", "/runs/log-metric", {"content": b'"{\\"run_id\\": 1}"'}, "one JSON object"),
        ("POST", "/runs/log-metric", {"content": b'{"a":' * 100_000}, "one JSON object"),
        ("POST", "/runs/search", {"json": {"experiment_ids": []}}, "experiment_ids is missing"),
        ("GET", "/runs/get", {"params": [("run_uuid", A), ("run_uuid", B)]}, "has run_uuid twice"),
        ("GET", "/runs/get", {"params": {"runId": A}}, "lower-case letters"),
        ("GET", "/runs/get?run_id", {}, "name=value"),
        ("GET", "/runs/get?run_id=%ff", {}, "name=value"),
        ("GET", "/runs/get?" + "a=1&" * 600, {}, "name=value"),
        ("GET", "/artifacts/list", {"params": {"run_id": A, "path": "../x"}}, "without . and .."),
        ("GET", "/artifacts/list", {"params": {"run_id": A, "path": "%2e%2e/x"}}, "without . and .."),
        ("GET", f"/logged-models/m-{A}/artifacts/directories?artifact_directory_path=/", {}, "without . and .."),
        ("GET", f"/logged-models/m-{A}%2Ftags", {}, "no escaped slashes"),
        ("POST", "/experiments/create", {"json": {"name": "first"}}, "begins with its project"),
        ("POST", "/experiments/create", {"json": {"name": "Forecast/x"}}, "begins with its project"),
        ("POST", "/experiments/create", {"json": {"name": "forecast/"}}, "begins with its project"),
        ("POST", "/registered-models/create", {"json": {"name": "forecast/x"}}, "begins with its project"),
        (
            *("POST", "/experiments/create"),
            {"json": {"name": "forecast/x", "artifact_location": "mlflow-artifacts:/2"}},
            "artifact_location may not be chosen",
        ),
    ],
)  # fmt: skip
async def test_what_can_be_read_in_two_ways_is_refused(
    server: Server, method: str, path: str, given: dict[str, Any], says: str
) -> None:
    answer = await server.call(method, API + path, BOTH, **given)
    assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE"), answer.text
    assert says in answer.json()["message"]
    assert server.calls == []


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("file:///etc", "is made of"),
        ("/etc/passwd", "is made of"),
        ("s3://bucket/x", "is made of"),
        ("mlflow-artifacts://host/1/x", "is made of"),
        ("models://host/forecast.x/1", "is made of"),
        (f"runs:/{A}/../../x", "without . and .."),
        (f"runs:/{A}//x", "without . and .."),
        ("mlflow-artifacts:/1/../2/x", "without . and .."),
        ("mlflow-artifacts:/1/%2e%2e/2/x", "without . and .."),
        ("models:/echo/1", "begins with its project"),
    ],
)
async def test_a_version_is_made_of_what_has_a_project(server: Server, source: str, says: str) -> None:
    given = {"name": "forecast.x", "source": source}
    answer = await server.call("POST", f"{API}/model-versions/create", BOTH, json=given)
    assert answer.status_code == 400, answer.text
    assert says in answer.json()["message"]
    assert server.calls == []


@pytest.mark.parametrize(
    "path",
    [
        "",
        "1",
        "1/",
        "/1/x",
        "1//x",
        "1/./x",
        "1/../2/x",
        "1/..",
        "1/a%2525",
        "1/a%5Cb",
        "1/a%23b",
        "1/a%3Fb",
        "1/" + "a" * 1100,
    ],
)
async def test_the_path_of_an_artifact_has_one_spelling(server: Server, path: str) -> None:
    for method in ("PUT", "DELETE"):
        assert await server.raw(method, f"{FILES}/{path}") in (400, 403)
    assert server.calls == []


async def test_an_artifact_has_any_name_that_is_a_name(server: Server) -> None:
    for name in ("a%20b.json", "%C3%A9.txt", "...", ".git", "a:b@c+d", "~"):
        assert await server.raw("PUT", f"{FILES}/1/{A}/artifacts/{name}") == 200, name


async def test_a_large_body_is_not_read(server: Server) -> None:
    body = Chunks(*[b" " * 65_536] * 100)
    answer = await server.call("POST", f"{API}/runs/log-metric", content=body)
    assert answer.status_code == 413
    assert str(BODY_BYTES) in answer.json()["message"]
    assert body.made <= 18


async def test_how_much_one_call_names_is_bounded(server: Server) -> None:
    ids = [str(number) for number in range(MENTIONS + 1)]
    answer = await server.call("POST", f"{API}/runs/search", BOTH, json={"experiment_ids": ids})
    assert answer.status_code == 400
    assert server.looked_up == []


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("x-user-id", "alice")],
        [("x-user-id", "-"), ("x-user-roles", "mlflow:*:*")],
        [("x-user-id", ""), ("x-user-roles", "mlflow:*:*")],
        [("x-user-id", "alice"), ("x-user-roles", "-"), ("x-user-roles", "mlflow:*:*")],
        [("x-user-id", "bob"), ("x-user-id", "alice"), ("x-user-roles", "mlflow:*:*")],
    ],
)
async def test_without_the_word_of_the_authorizer_nobody_is_anybody(
    server: Server, headers: Sequence[tuple[str, str]]
) -> None:
    answer = await server.caller.get(f"{API}/runs/get", params={"run_id": A}, headers=[*headers])
    assert answer.status_code == 403
    assert "nobody is signed in" in answer.json()["message"]


@pytest.mark.parametrize(
    ("roles", "readable"),
    [
        ("-", ()),
        ("infer,mlflow:forecast:read", ("forecast",)),
        ("mlflow:b:read,mlflow:a:%2A", ("a", "b")),
        ("mlflow:a:update", ()),
        ("mlflow:%2A:read,mlflow:a:read", ("*",)),
        ("mlflow:%2A:update", ()),
        ("mlflow:A:read,mlflow:a_b:read,mlflow::read,mlflow:a:reads,xmlflow:a:read,mlflow:a:read%0A", ()),
        ("mlflow:a%2Cmlflow:b:read", ()),
        (f"mlflow:{'a' * 33}:read", ()),
    ],
)
def test_roles_say_what_may_be_read(roles: str, readable: tuple[str, ...]) -> None:
    from starlette.datastructures import Headers

    assert rights_of(Headers({"x-user-id": "alice", "x-user-roles": roles})).readable() == readable
