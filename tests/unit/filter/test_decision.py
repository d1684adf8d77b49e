"""Whose things a call names, whatever field names them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from ext_authz.filter.mlflow import ANSWER_BYTES
from tests.unit.filter.server import API, FILES, A, B, C, Server

BOTH = ["mlflow:forecast:*", "mlflow:vision:*"]

FOREIGN: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", f"{API}/experiments/get", {"params": {"experiment_id": "2"}}),
    ("POST", f"{API}/experiments/delete", {"json": {"experiment_id": "2"}}),
    ("POST", f"{API}/experiments/update", {"json": {"experiment_id": "2", "new_name": "forecast/mine"}}),
    ("POST", f"{API}/runs/create", {"json": {"experiment_id": "2"}}),
    ("POST", f"{API}/runs/search", {"json": {"experiment_ids": ["1", "2"]}}),
    ("POST", f"{API}/logged-models/search", {"json": {"experiment_ids": ["1", "2"]}}),
    ("GET", f"{API}/runs/get", {"params": {"run_id": B}}),
    ("GET", f"{API}/runs/get", {"params": {"run_id": A, "run_uuid": B}}),
    ("POST", f"{API}/runs/log-metric", {"json": {"run_uuid": B, "run_id": A, "key": "a"}}),
    ("POST", f"{API}/runs/log-metric", {"json": {"run_id": A, "model_id": f"m-{B}"}}),
    ("POST", f"{API}/runs/log-batch", {"json": {"run_id": A, "metrics": [{"model_id": f"m-{B}"}]}}),
    ("POST", f"{API}/runs/log-batch", {"json": {"run_id": A, "metrics": [{"run_id": B}]}}),
    ("POST", f"{API}/runs/log-inputs", {"json": {"run_id": A, "models": [{"model_id": f"m-{B}"}]}}),
    ("POST", f"{API}/runs/outputs", {"json": {"run_id": A, "models": [{"model_id": f"m-{B}"}]}}),
    ("GET", f"{API}/metrics/get-history-bulk-interval", {"params": [("run_ids", A), ("run_ids", B)]}),
    ("GET", "/mlflow/ajax-api/2.0/mlflow/metrics/get-history-bulk", {"params": [("run_id", A), ("run_id", B)]}),
    ("GET", f"{API}/artifacts/list", {"params": {"run_id": B}}),
    ("GET", "/mlflow/get-artifact", {"params": {"run_uuid": B, "path": "x"}}),
    ("POST", "/mlflow/ajax-api/2.0/mlflow/upload-artifact", {"params": {"run_uuid": B, "path": "x"}, "content": b"x"}),
    ("POST", f"{API}/logged-models", {"json": {"experiment_id": "1", "source_run_id": B}}),
    ("GET", f"{API}/logged-models/m-{B}", {}),
    ("PATCH", f"{API}/logged-models/m-{A}/tags", {"json": {"model_id": f"m-{B}"}}),
    ("POST", f"{API}/model-versions/create", {"json": {"name": "forecast.x", "source": f"models:/m-{B}"}}),
    ("POST", f"{API}/model-versions/create", {"json": {"name": "forecast.x", "source": f"runs:/{B}/model"}}),
    ("POST", f"{API}/model-versions/create", {"json": {"name": "forecast.x", "source": f"runs:/{A}/x", "run_id": B}}),
    (
        *("POST", f"{API}/model-versions/create"),
        {"json": {"name": "forecast.x", "source": f"mlflow-artifacts:/2/{B}/artifacts/x"}},
    ),
    ("POST", f"{API}/model-versions/create", {"json": {"name": "forecast.x", "source": "models:/vision.x/1"}}),
    ("GET", FILES, {"params": {"path": f"2/{B}/artifacts"}}),
    ("GET", f"{FILES}/2/{B}/artifacts/x", {}),
    ("PUT", f"{FILES}/2/{B}/artifacts/x", {"content": b"x"}),
    ("DELETE", f"{FILES}/2/{B}/artifacts/x", {}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "given"), FOREIGN)
async def test_what_is_in_another_project_is_not_there(
    server: Server, method: str, path: str, given: dict[str, Any]
) -> None:
    answer = await server.call(method, path, **given)
    assert (answer.status_code, answer.json()["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST"), answer.text
    assert server.calls == []


@pytest.mark.parametrize(("method", "path", "given"), FOREIGN)
async def test_what_there_is_not_is_answered_alike(
    server: Server, method: str, path: str, given: dict[str, Any]
) -> None:
    """Once by its id in another project, once with this id of nothing."""
    hidden = await server.call(method, path, **given)
    server.experiments.pop("2")
    server.clock.advance(60)
    absent = await server.call(method, path, **given)
    assert (hidden.status_code, hidden.content, hidden.headers) == (absent.status_code, absent.content, absent.headers)


@pytest.mark.parametrize(
    ("method", "path", "given"),
    [
        ("POST", "/experiments/create", {"json": {"name": "vision/x"}}),
        ("GET", "/experiments/get-by-name", {"params": {"experiment_name": "vision/first"}}),
        ("POST", "/registered-models/create", {"json": {"name": "vision.x"}}),
        ("POST", "/registered-models/rename", {"json": {"name": "forecast.x", "new_name": "vision.x"}}),
        ("POST", "/registered-models/rename", {"json": {"name": "vision.x", "new_name": "forecast.x"}}),
        ("GET", "/model-versions/get", {"params": {"name": "vision.x", "version": "1"}}),
    ],
)
async def test_a_name_with_another_project_is_refused(
    server: Server, method: str, path: str, given: dict[str, Any]
) -> None:
    answer = await server.call(method, API + path, **given)
    assert (answer.status_code, answer.json()["error_code"]) == (403, "PERMISSION_DENIED")
    assert "this takes the role mlflow:vision:" in answer.json()["message"]
    assert (server.calls, server.looked_up) == ([], [])


@pytest.mark.parametrize(
    ("method", "path", "given"),
    [
        ("POST", "/experiments/update", {"json": {"experiment_id": "2", "new_name": "forecast/mine"}}),
        ("POST", "/registered-models/rename", {"json": {"name": "forecast.x", "new_name": "vision.x"}}),
        ("POST", "/runs/log-batch", {"json": {"run_id": A, "metrics": [{"model_id": f"m-{B}"}]}}),
        ("POST", "/model-versions/create", {"json": {"name": "forecast.x", "source": f"models:/m-{B}"}}),
    ],
)
async def test_nothing_moves_from_one_project_to_another(
    server: Server, method: str, path: str, given: dict[str, Any]
) -> None:
    """Not even by who has both: readers of the one would read the other."""
    answer = await server.call(method, API + path, BOTH, **given)
    assert answer.status_code == 403
    assert "things of two projects" in answer.json()["message"]
    assert server.calls == []


async def test_who_reads_two_projects_reads_both_at_once(server: Server) -> None:
    answer = await server.call("POST", f"{API}/runs/search", BOTH, json={"experiment_ids": ["1", "2", "3"]})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "given", "action"),
    [
        ("GET", f"{API}/runs/get", {"params": {"run_id": A}}, "read"),
        ("POST", f"{API}/runs/create", {"json": {"experiment_id": "1"}}, "create"),
        ("POST", f"{API}/runs/set-tag", {"json": {"run_id": A}}, "update"),
        ("PUT", f"{FILES}/1/{A}/artifacts/x", {"content": b"x"}, "update"),
        ("POST", f"{API}/runs/delete", {"json": {"run_id": A}}, "delete"),
        ("DELETE", f"{FILES}/1/{A}/artifacts/x", {}, "delete"),
    ],
)
async def test_each_action_takes_its_own_role(
    server: Server, method: str, path: str, given: dict[str, Any], action: str
) -> None:
    for has in ("read", "create", "update", "delete"):
        for project in ("forecast", "*"):
            answer = await server.call(method, path, [f"mlflow:{project}:{has}"], **given)
            assert answer.status_code == (200 if has == action else 403), (has, answer.text)


@pytest.mark.parametrize("number", ["0", "01", "-1", "1 ", "", "1e0", "9" * 40, "1/../2", "\uff14"])
async def test_an_experiment_without_a_project_is_nobodys(server: Server, number: str) -> None:
    answer = await server.call("POST", f"{API}/runs/create", ["mlflow:*:*"], json={"experiment_id": number})
    assert answer.status_code == (404 if number else 400)
    assert server.calls == []


async def test_a_new_name_of_an_experiment_is_known_soon(server: Server) -> None:
    sent: dict[str, Any] = {"json": {"experiment_id": "1"}}
    assert (await server.call("POST", f"{API}/runs/create", **sent)).status_code == 200
    server.experiments["1"] = "vision/moved"
    server.clock.advance(11)
    assert (await server.call("POST", f"{API}/runs/create", **sent)).status_code == 404
    assert len(server.looked_up) == 2


async def test_lookups_are_remembered(server: Server) -> None:
    for _ in range(3):
        assert (await server.call("POST", f"{API}/runs/set-tag", json={"run_id": A})).status_code == 200
    assert len(server.looked_up) == 2


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        (500, b'{"message": "Traceback"}', {}),
        (200, b"<html>", {}),
        (200, b"[1]", {}),
        (200, b" " * (ANSWER_BYTES + 1), {}),
        (200, b'{"run": {"info": 1}}', {"content-encoding": "gzip"}),
    ],
)
async def test_while_a_project_cannot_be_looked_up_nothing_is_allowed(
    server: Server, monkeypatch: pytest.MonkeyPatch, failure: tuple[int, bytes, dict[str, str]] | Exception
) -> None:
    monkeypatch.setattr(server, "_known", lambda _: None)
    server.answer = failure
    answer = await server.call("POST", f"{API}/runs/set-tag", json={"run_id": C})
    assert (answer.status_code, answer.json()["error_code"]) == (503, "TEMPORARILY_UNAVAILABLE")
    assert "Traceback" not in answer.text
    assert [request.method for request in server.calls] == ["GET"]
