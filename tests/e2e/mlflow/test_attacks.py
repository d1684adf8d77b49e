"""What one tries who has a project of their own and wants another's: over HTTP, through the door, at a real MLflow."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.e2e.mlflow.world import World, token

pytestmark = [pytest.mark.mlflow, pytest.mark.timeout(400)]

API = "/api/2.0/mlflow"
FILES = "/api/2.0/mlflow-artifacts/artifacts"
GRAPHQL = 'query { mlflowSearchRuns(input: {experimentIds: ["{experiment}"]}) { runs { info { runId } } } }'
SECRET = "secret of the project vault"


@pytest.fixture(scope="module")
def secret(world: World) -> dict[str, str]:
    """A run of vault that says it everywhere, with a version of a model, and a run of attack for who attacks."""
    made = {"experiment": world.past("experiments/create", name="vault/secret", tags=[{"key": "s", "value": SECRET}])}
    number = made["experiment"]["experiment_id"]
    run = world.past("runs/create", experiment_id=number)["run"]["info"]["run_id"]
    world.past("runs/log-parameter", run_id=run, key="s", value=SECRET)
    file = f"{number}/{run}/artifacts/s.txt"
    httpx.put(f"{world.mlflow}{FILES}/{file}", content=SECRET.encode()).raise_for_status()
    world.past("registered-models/create", name="vault.secret", description=SECRET)
    source = f"mlflow-artifacts:/{number}/{run}/artifacts"
    world.past("model-versions/create", name="vault.secret", source=source, run_id=run, description=SECRET)
    own = world.past("experiments/create", name="attack/own")["experiment_id"]
    mine = world.past("runs/create", experiment_id=own)["run"]["info"]["run_id"]
    world.past("registered-models/create", name="attack.own")
    return {"experiment": number, "run": run, "file": file, "source": source, "own": own, "mine": mine}


CALLS: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", "/graphql", {}),
    ("POST", "/graphql", {"json": {"query": GRAPHQL}}),
    ("GET", f"{API}/experiments/get", {"params": {"experiment_id": "{experiment}"}}),
    ("GET", f"{API}/experiments/get", {"params": [("experiment_id", "{own}"), ("experiment_id", "{experiment}")]}),
    ("GET", f"{API}/experiments/get", {"params": {"experiment_id": "0{experiment}"}}),
    ("GET", f"{API}/experiments/get", {"params": {"experiment_id": "{own}"}, "content": b'{"experiment_id": "1"}'}),
    ("POST", f"{API}/experiments/search", {"json": {"filter": "name LIKE 'vault/%'"}}),
    ("POST", f"{API}/experiments/search", {"json": {"filter": "name ILIKE 'VAULT/%'", "max_results": 1}}),
    ("POST", f"{API}/experiments/search", {"json": {"filter": "name != 'x' OR name LIKE 'vault/%'"}}),
    ("POST", f"{API}/experiments/search", {"json": {"filter": "name = 'x') OR (name LIKE 'vault/%'"}}),
    ("POST", f"{API}/experiments/search", {"json": {"filter": "name != 'x'; name LIKE 'vault/%'"}}),
    ("POST", f"{API}/experiments/search", {"json": {"filter": "tags.s = '" + SECRET + "'"}}),
    ("POST", f"{API}/experiments/search", {"json": {"page_token": "vault."}}),
    ("POST", f"{API}/experiments/search", {"json": {"page_token": "attack.eyJvZmZzZXQiOiAwfQ=="}}),
    ("POST", f"{API}/experiments/search", {"json": {"max_results": 1, "filter": "-- "}}),
    ("GET", f"{API}/registered-models/search", {"params": {"filter": "name = 'vault.secret'"}}),
    ("GET", f"{API}/model-versions/search", {"params": {"filter": "run_id = '{run}'"}}),
    ("GET", f"{API}/model-versions/search", {"params": {"filter": "run_id IN ('{run}','x')", "page_token": "*."}}),
    ("POST", f"{API}/runs/search", {"json": {"experiment_ids": ["{own}", "{experiment}"]}}),
    ("POST", f"{API}/runs/search", {"json": {"experiment_ids": ["{own}"], "filter": "params.s LIKE '%secret%'"}}),
    ("POST", f"{API}/runs/search", {"json": {"experimentIds": ["{experiment}"], "experiment_ids": ["{own}"]}}),
    ("POST", f"{API}/runs/search", {"content": '{{"experiment_ids": ["{own}"], "experiment_ids": ["{experiment}"]}}'}),
    ("POST", f"{API}/logged-models/search", {"json": {"experiment_ids": ["{experiment}"]}}),
    ("GET", f"{API}/runs/get", {"params": {"run_id": "{run}"}}),
    ("GET", f"{API}/runs/get", {"params": {"run_uuid": "{run}", "run_id": "{mine}"}}),
    ("GET", f"{API}/runs/get", {"params": {"run_id": "{run}", "run_uuid": "{mine}"}}),
    ("GET", f"{API}/metrics/get-history", {"params": {"run_id": "{run}", "metric_key": "s"}}),
    ("GET", f"{API}/artifacts/list", {"params": {"run_id": "{run}"}}),
    ("GET", f"{API}/artifacts/list", {"params": {"run_id": "{mine}", "path": "../../../{experiment}/{run}/artifacts"}}),
    ("GET", "/get-artifact", {"params": {"run_uuid": "{run}", "path": "s.txt"}}),
    ("GET", "/get-artifact", {"params": {"run_id": "{mine}", "run_uuid": "{run}", "path": "s.txt"}}),
    ("GET", "/get-artifact", {"params": {"run_id": "{mine}", "path": "../../../{file}"}}),
    ("GET", "/get-artifact", {"params": {"run_id": "{mine}", "path": "%2e%2e/%2e%2e/%2e%2e/{file}"}}),
    ("GET", f"{FILES}/{{file}}", {}),
    ("GET", f"{FILES}/{{own}}/%2e%2e/{{file}}", {}),
    ("GET", f"{FILES}/{{own}}/..%2f{{file}}", {}),
    ("GET", f"{FILES}/{{own}}/%252e%252e/{{file}}", {}),
    ("GET", f"{FILES}/./{{file}}", {}),
    ("GET", f"{FILES}//{{file}}", {}),
    ("GET", f"{FILES}", {"params": {"path": "{experiment}/{run}/artifacts"}}),
    ("GET", f"{FILES}", {"params": {"path": "{own}/../{experiment}/{run}/artifacts"}}),
    ("GET", f"{FILES}", {"params": {"path": ""}}),
    ("GET", f"{FILES}", {}),
    ("PUT", f"{FILES}/{{file}}", {"content": b"mine"}),
    ("DELETE", f"{FILES}/{{file}}", {}),
    ("DELETE", f"{FILES}/{{own}}", {}),
    ("GET", f"{API}/model-versions/get", {"params": {"name": "vault.secret", "version": "1"}}),
    ("GET", f"{API}/model-versions/get-download-uri", {"params": {"name": "vault.secret", "version": "1"}}),
    ("GET", "/model-versions/get-artifact", {"params": {"name": "vault.secret", "version": "1", "path": "s.txt"}}),
    *(
        ("POST", f"{API}/model-versions/create", {"json": {"name": "attack.own", "source": source, "run_id": run}})
        for source in ("{source}", "models:/vault.secret/1", "runs:/{run}/x", "file:///", "{source}/../../../{own}")
        for run in ("", "{run}", "{mine}")
    ),
    ("POST", f"{API}/registered-models/rename", {"json": {"name": "vault.secret", "new_name": "attack.mine"}}),
    ("POST", f"{API}/experiments/update", {"json": {"experiment_id": "{experiment}", "new_name": "attack/mine"}}),
    ("POST", f"{API}/experiments/create", {"json": {"name": "attack/x", "artifact_location": "mlflow-artifacts:/1"}}),
    ("POST", f"{API}/experiments/create", {"json": {"name": "attack/x", "artifactLocation": "mlflow-artifacts:/1"}}),
    ("POST", f"{API}/runs/log-batch", {"json": {"run_id": "{run}", "params": [{"key": "x", "value": "y"}]}}),
    ("POST", f"{API}/runs/log-batch", {"json": {"run_id": "{mine}", "runId": "{run}"}}),
    ("POST", f"{API}/runs/delete", {"json": {"run_id": "{run}"}}),
    ("POST", f"{API}/experiments/delete", {"json": {"experiment_id": "{experiment}"}}),
    ("POST", f"{API}/artifacts/presigned-download-url", {"json": {"run_id": "{mine}", "path": "x"}}),
]  # fmt: skip


def _filled(value: Any, known: dict[str, str]) -> Any:  # noqa: ANN401 - of any form
    if isinstance(value, str):
        for name, text in known.items():
            value = value.replace(f"{{{name}}}", text)
        return value.replace("{{", "{").replace("}}", "}")
    if isinstance(value, dict):
        return {key: _filled(each, known) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_filled(each, known) for each in value)
    return value


def _state(world: World, secret: dict[str, str]) -> str:
    """Everything of vault that can be changed."""
    with httpx.Client(base_url=f"{world.mlflow}") as past:
        parts = [
            past.get(f"{API}/experiments/get", params={"experiment_id": secret["experiment"]}),
            past.get(f"{API}/runs/get", params={"run_id": secret["run"]}),
            past.get(f"{API}/registered-models/get", params={"name": "vault.secret"}),
            past.get(f"{FILES}/{secret['file']}"),
        ]
    return "\n".join(part.raise_for_status().text for part in parts)


def test_nothing_of_another_project_is_seen_or_changed(world: World, secret: dict[str, str]) -> None:
    """Each call with every right in attack; most are refused, and searches find what is one's own."""
    before = _state(world, secret)
    hidden = (SECRET, "vault/secret", "vault.secret", secret["run"])
    for method, path, given in CALLS:
        asked = _filled({"path": path, **given}, secret)
        said = str(asked)
        answer = world.call("mallory", method, asked.pop("path"), **asked)
        assert [text for text in hidden if text in answer.text and text not in said] == [], (method, path, given)
        assert answer.status_code < 500, (method, path, given, answer.text)
    assert _state(world, secret) == before


def test_who_has_the_right_to_it_sees_it_by_the_same_calls(world: World, secret: dict[str, str]) -> None:
    """So they are calls that would show it."""
    shown = 0
    for method, path, given in CALLS:
        if method == "GET" or path.endswith("/search"):
            asked = _filled({"path": path, **given}, secret)
            shown += SECRET in world.call("audit", method, asked.pop("path"), **asked).text
    assert shown >= 10


def test_an_or_in_a_filter_is_no_way_out(world: World, secret: dict[str, str]) -> None:
    """MLflow joins conditions by AND only: what the searches rely on, before the filter looks at the answer."""
    asked = {"filter": "name LIKE 'attack/%' AND name != 'x' OR name LIKE 'vault/%'"}
    answer = httpx.post(f"{world.mlflow}{API}/experiments/search", json={**asked, "max_results": 10})
    assert answer.status_code == 400
    models = httpx.get(f"{world.mlflow}{API}/registered-models/search", params=asked)
    versions = httpx.get(f"{world.mlflow}{API}/model-versions/search", params=asked)
    assert {models.status_code, versions.status_code} == {400}


def test_headers_of_a_caller_make_nobody_somebody(world: World, secret: dict[str, str]) -> None:
    forged = {"x-user-id": "bob", "x-user-roles": "mlflow:*:*", "x-authz-upstream": "mlflow"}
    sent = {"params": {"run_id": secret["run"]}, "headers": forged}
    assert world.call("mallory", "GET", f"{API}/runs/get", **sent).status_code == 404
    assert world.call("erin", "GET", f"{API}/runs/get", **sent).status_code == 403
    without = httpx.get(f"{world.url}/mlflow{API}/runs/get", params=sent["params"], headers=forged)
    assert without.status_code == 401


def test_a_large_artifact_goes_through_whole(world: World, secret: dict[str, str]) -> None:
    """Just below what Envoy lets through, in both directions."""
    content = bytes(range(256)) * 32_000
    path = f"{FILES}/{secret['own']}/{secret['mine']}/artifacts/large.bin"
    assert world.call("mallory", "PUT", path, content=content).status_code == 200
    assert world.call("mallory", "GET", path).content == content
    chunked = world.call("mallory", "PUT", path, content=iter([b"a" * 1000, b"b" * 1000]))
    assert chunked.status_code == 200
    assert world.call("mallory", "GET", path).content == b"a" * 1000 + b"b" * 1000


def test_artifacts_are_in_a_bucket_that_nobody_else_reaches(world: World, secret: dict[str, str]) -> None:
    """Neither with no credentials nor with wrong ones, and nothing that the door answers says where it is."""
    [stored] = (world.directory / "s3").rglob("s.txt")
    assert (stored.read_text(), str(stored).endswith(f"mlflow/artifacts/{secret['file']}")) == (SECRET, True)
    place = f"{world.store}/mlflow/artifacts/{secret['file']}"
    assert httpx.get(place).is_client_error
    path = f"{FILES}/{secret['own']}/{secret['mine']}/artifacts/x.txt"
    assert world.call("mallory", "PUT", path, content=b"x").status_code == 200
    listed, presigned = f"{API}/artifacts/list?run_id={secret['mine']}", f"{API}/artifacts/presigned-"
    named = {"run_id": secret["mine"], "path": "x.txt"}
    for method, where, body, status in (
        ("GET", path, None, 200),
        ("GET", listed, None, 200),
        ("GET", path.replace("/artifacts/", "/presigned/", 1), None, 403),
        ("POST", path.replace("/artifacts/", "/mpu/create/", 1), {"path": "x.txt", "num_parts": 2}, 403),
        ("POST", f"{presigned}upload-url", named, 403),
        ("POST", f"{presigned}download-url", named, 403),
    ):
        answer = world.call("mallory", method, where, json=body)
        assert answer.status_code == status, (where, answer.text)
        assert world.store.rpartition(":")[2] not in f"{answer.text}{answer.headers}"


def test_no_token_reaches_mlflow_or_a_log(world: World, secret: dict[str, str]) -> None:
    credential = token("mallory")
    headers = {"authorization": f"Bearer {credential}"}
    httpx.get(f"{world.url}/mlflow{API}/runs/get", params={"run_id": secret["run"]}, headers=headers)
    logs = "".join((world.directory / name).read_text() for name in ("filter.log", "mlflow.log", "access.log"))
    assert '"call refused"' in logs.replace("'", '"')
    assert credential[-40:] not in logs
