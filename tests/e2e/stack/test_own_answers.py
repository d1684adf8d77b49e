"""What Tollgate answers itself, through a real Envoy, to the clients that callers have."""

from __future__ import annotations

import json
import subprocess
from typing import Any
from urllib.request import parse_http_list, parse_keqv_list

import httpx
import jwt
import psycopg
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from devstack.demo.participants import EXAMPLES
from devstack.stack.stack import Stack
from tests.e2e.stack.conftest import token_of
from tests.e2e.stack.test_models import post
from tests.services import wait_for

QUOTA = "/.tollgate/quota"


def curl(stack: Stack, user: str, path: str, *options: str) -> str:
    command = ["curl", "--silent", "--show-error", "-H", f"Authorization: Bearer {token_of(stack, user)}", *options]
    return subprocess.run([*command, stack.addresses.envoy + path], capture_output=True, text=True, check=True).stdout


def quotas(stack: Stack, user: str, query: str = "") -> list[dict[str, Any]]:
    limits: list[dict[str, Any]] = json.loads(curl(stack, user, QUOTA + query))["limits"]
    return limits


def test_curl_reads_quotas_and_spends_none(stack: Stack) -> None:
    calls = [post(stack, "load09") for _ in range(2)]
    assert [call.status_code for call in calls] == [200, 200]
    for _ in range(3):
        (user, *paths) = quotas(stack, "load09")
        assert (user["name"], user["used"], user["remaining"]) == ("user-minute", 2, 8)
        assert 0 < user["reset"] <= 60
    by_path = {limit["by"]["path"]: limit["used"] for limit in paths}
    assert by_path["/v2/models/sentiment/infer"] >= 2
    assert "/v2/models/cancer/infer" in by_path
    assert "r=7" in post(stack, "load09").headers["ratelimit"]
    assert [limit["name"] for limit in quotas(stack, "load09", "?model=sentiment")][:1] == ["user-minute"]


def test_curl_lists_models(stack: Stack) -> None:
    both = {"call": True, "see": True}
    found = json.loads(curl(stack, "alice", "/.tollgate/models"))
    assert {"name": "sentiment", **both} in found["models"]
    assert json.loads(curl(stack, "carol", "/.tollgate/models")) == {"models": []}


def test_what_the_answer_looks_like(stack: Stack) -> None:
    head = httpx.head(stack.addresses.envoy + QUOTA, headers={"authorization": f"Bearer {token_of(stack, 'load09')}"})
    assert (head.status_code, head.headers["content-type"], head.content) == (200, "application/json", b"")
    assert (head.headers["cache-control"], len(head.headers["x-decision-id"])) == ("no-store", 36)


def test_nobody_reads_without_a_token_or_below_another_path(stack: Stack) -> None:
    assert httpx.get(stack.addresses.envoy + QUOTA).json()["code"] == "credential_missing"
    headers = {"authorization": f"Bearer {token_of(stack, 'load09')}"}
    for path, status in ((f"{QUOTA}/", 404), ("/.tollgate", 404), ("/.tollgate/x", 404), (f"{QUOTA}?x=1", 400)):
        assert httpx.get(stack.addresses.envoy + path, headers=headers).status_code == status, path
    for path in (QUOTA, "/", "/.well-known/oauth-protected-resource"):
        assert httpx.post(stack.addresses.envoy + path, headers=headers).headers["allow"] == "GET, HEAD, OPTIONS"
        options = httpx.options(stack.addresses.envoy + path)
        assert (options.status_code, options.headers["allow"]) == (204, "GET, HEAD, OPTIONS")


def test_reads_are_not_in_the_ledger(stack: Stack) -> None:
    subject = jwt.decode(token_of(stack, "load08"), options={"verify_signature": False})["sub"]
    quotas(stack, "load08")
    post(stack, "load08")
    with psycopg.connect(stack.addresses.database_url, autocommit=True) as database:

        def paths() -> set[str]:
            query = "SELECT path FROM usage_events WHERE subject = %s"
            return {path for (path,) in database.execute(query, (subject,)).fetchall()}

        wait_for(lambda: paths() != set())  # the worker writes in order: when the call is there, the read would be
        assert paths() == {"/v2/models/sentiment/infer"}


def test_a_refusal_leads_to_a_token(stack: Stack) -> None:
    """RFC 9728: from the challenge to the issuer, and from there to the token's endpoint."""
    model = f"{stack.addresses.envoy}/v2/models/sentiment"
    challenge = httpx.get(model).headers["www-authenticate"]
    resource = httpx.get(
        parse_keqv_list(parse_http_list(challenge.removeprefix("Bearer ")))["resource_metadata"]
    ).json()
    assert resource["resource"] == stack.addresses.envoy
    (issuer,) = resource["authorization_servers"]
    endpoint = httpx.get(f"{issuer}/.well-known/openid-configuration").json()["token_endpoint"]
    form = {"grant_type": "client_credentials", "client_id": "batch-job", "client_secret": "batch-job-secret"}
    token = httpx.post(endpoint, data=form).json()["access_token"]
    assert httpx.get(model, headers={"authorization": f"Bearer {token}"}).status_code == 200


def test_tritonclient_over_http_gets_metadata_configuration_and_the_index(stack: Stack) -> None:
    headers = {"authorization": f"Bearer {token_of(stack, 'alice')}"}
    with tritonclient.http.InferenceServerClient(stack.addresses.envoy.removeprefix("http://")) as client:
        assert client.get_server_metadata(headers)["name"] == "triton"
        assert client.get_model_metadata("sentiment", headers=headers)["name"] == "sentiment"
        assert client.get_model_config("sentiment", headers=headers)["name"] == "sentiment"
        assert {row["name"] for row in client.get_model_repository_index(headers)} == {*EXAMPLES}
        assert client.is_model_ready("sentiment", headers=headers)


def test_tritonclient_over_grpc_gets_metadata_and_configuration(stack: Stack) -> None:
    headers = {"authorization": f"Bearer {token_of(stack, 'alice')}"}
    with tritonclient.grpc.InferenceServerClient(stack.addresses.envoy_grpc) as client:
        assert client.get_server_metadata(headers).name == "triton"
        assert client.get_model_config("sentiment", headers=headers).config.name == "sentiment"
        with pytest.raises(InferenceServerException, match="route_unknown"):  # the demo's policy has it over HTTP only
            client.get_model_repository_index(headers)


def test_who_may_see_nothing_gets_an_empty_index_and_no_configuration(stack: Stack) -> None:
    headers = {"authorization": f"Bearer {token_of(stack, 'carol')}"}
    with tritonclient.http.InferenceServerClient(stack.addresses.envoy.removeprefix("http://")) as client:
        assert client.get_model_repository_index(headers) == []
        with pytest.raises(InferenceServerException, match=r"this token may not see the model 'sentiment' .*decision"):
            client.get_model_config("sentiment", headers=headers)
