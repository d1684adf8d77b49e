"""An experiment on a whole stack: who gets which version, over both protocols and on every replica, and the copies."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, LiteralString

import grpc
import httpx
import jwt
import numpy as np
import psycopg
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from devstack.stack import services
from devstack.stack.child import Child
from devstack.stack.settings import load_stack_settings
from devstack.stack.stack import Stack, running_stack
from devstack.stack.triton import triton_metrics
from ext_authz.experiment.step import changed, write
from ext_authz.server.rpc import CHECK
from tests.e2e.stack.conftest import token_of
from tests.requests import check_request
from tests.services import free_port, over, wait_for
from tests.unit.edge.answers import headers, read

EXPERIMENT = """
experiments:
  sentiment-v2:
    model: sentiment
    weights: {stable: 50, canary: 50}
    versions: {stable: "1", canary: "2"}
    override: {header: x-experiment, values: {canary: canary, stable: stable}, permission: {role: experimenter}}
    mirror: {to: canary, percent: 100}
"""
USERS = [f"load{number:02}" for number in range(1, 13)]
TEXT = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["I love it"]}]}
TWO = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [2, 1], "data": ["I love it", "It is terrible"]}]}
LABELS = {"1": "positive", "2": "neutral"}


def _models(directory: Path) -> Path:
    """The project with a second version of sentiment, to which nothing is positive enough."""
    real = load_stack_settings().models
    directory.mkdir()
    for part in real.iterdir():
        if part.name != "repository":
            (directory / part.name).symlink_to(part)
    shutil.copytree(real / "repository", directory / "repository")
    sentiment = directory / "repository" / "sentiment"
    shutil.rmtree(sentiment / "2", ignore_errors=True)
    shutil.copytree(sentiment / "1", sentiment / "2")
    model = sentiment / "2" / "model.py"
    model.write_text(model.read_text().replace("score >= 0.05", "score >= 2"))
    return directory


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Without limits: every user calls more often than the demo allows."""
    directory = tmp_path_factory.mktemp("experiment")
    policy = directory / "policy.yaml"
    without = re.sub(r"\nexperiments:\n(?:  .*\n)+", "\n", load_stack_settings().policy.read_text())
    policy.write_text(re.sub(r"\d+/minute", "1000/minute", without) + EXPERIMENT)
    with running_stack(directory / "state", policy=policy, models=_models(directory / "models")) as running:
        yield running


def posted(stack: Stack, user: str, body: object = TEXT, version: str = "", **more: str) -> httpx.Response:
    sent = {"authorization": f"Bearer {token_of(stack, user)}"} | {name.replace("_", "-"): more[name] for name in more}
    path = f"/v2/models/sentiment{version and f'/versions/{version}'}/infer"
    return httpx.post(stack.addresses.envoy + path, json=body, headers=sent, timeout=30)


def rest(stack: Stack, user: str, **more: str) -> httpx.Response:
    return posted(stack, user, **more).raise_for_status()


def label(answer: httpx.Response) -> str:
    (found,) = (output["data"][0] for output in answer.json()["outputs"] if output["name"] == "label")
    return str(found)


def variant_of(stack: Stack, user: str) -> str:
    return rest(stack, user).headers["x-model-variant"]


def test_a_caller_has_one_version_over_both_protocols(stack: Stack) -> None:
    variants = set()
    for user in USERS:
        answer = rest(stack, user)
        variant, version = (answer.headers[name] for name in ("x-model-variant", "x-model-version"))
        assert {"stable": "1", "canary": "2"}[variant] == version
        assert label(answer) == LABELS[version], "that version answered"
        assert _over_grpc(stack, user) == LABELS[version]
        variants.add(variant)
    assert variants == {"stable", "canary"}


def _over_grpc(stack: Stack, user: str, version: str = "", **more: str) -> str:
    text = triton.InferInput("text", [1, 1], "BYTES")
    text.set_data_from_numpy(np.array([["I love it"]], dtype=object))
    client = triton.InferenceServerClient(stack.addresses.envoy_grpc)
    try:
        sent = {"authorization": f"Bearer {token_of(stack, user)}", **more}
        answer = client.infer("sentiment", [text], version, headers=sent)
        found = answer.as_numpy("label")
        assert found is not None
        return str(found.item().decode())
    finally:
        client.close()


def test_only_who_has_the_role_chooses(stack: Stack) -> None:
    for variant in ("stable", "canary"):
        assert rest(stack, "heidi", x_experiment=variant).headers["x-model-variant"] == variant
    for user in USERS[:4]:
        own = variant_of(stack, user)
        assert {rest(stack, user, x_experiment=each).headers["x-model-variant"] for each in ("stable", "canary")} == {
            own
        }
        assert rest(stack, user, x_model_variant="canary").headers["x-model-variant"] == own, "a forged one"


def test_a_named_version_is_answered_by_the_variant_that_serves_it(stack: Stack) -> None:
    for user, version in (*((user, "1") for user in USERS[:4]), ("heidi", "1"), ("heidi", "2")):
        answer = posted(stack, user, version=version).raise_for_status()
        assert (answer.json()["model_version"], answer.headers["x-model-version"]) == (version, version)
        assert label(answer) == _over_grpc(stack, user, version) == LABELS[version]
    other = next(user for user in USERS if variant_of(stack, user) == "stable")
    assert posted(stack, other, version="2").status_code == 404, "nobody gets a version before its time"
    wait_for(lambda: _counted_by_envoy(stack, "active") == 0)
    copied = _counted_by_envoy(stack, "completed")
    posted(stack, other, version="1").raise_for_status()
    rest(stack, other)  # the copy of this one comes later
    wait_for(lambda: _counted_by_envoy(stack, "completed") > copied)
    assert _counted_by_envoy(stack, "completed") == copied + 1, "a copy would name a version that is not there"


def test_every_replica_decides_alike(stack: Stack) -> None:
    with _another_authorizer(stack) as other:
        for user in USERS:
            message = check_request(token=token_of(stack, user))
            answers = [_check(port, message) for port in (stack.settings.listen_port, other)]
            assert answers[0] == answers[1] == variant_of(stack, user)


def _check(port: int, message: bytes) -> str:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(CHECK)
        return headers(read(call(message)).ok_response.headers)["x-model-variant"]


class _another_authorizer:  # noqa: N801 - used as a function
    """A second `tollgate serve` beside the first, on the same stores."""

    def __init__(self, stack: Stack) -> None:
        ports = {"listen_port": free_port(), "admin_port": free_port()}
        settings = stack.settings.model_copy(update=ports)
        admin, own = f"http://127.0.0.1:{ports['admin_port']}", stack.state.root / "other.sock"
        addresses = replace(stack.addresses, admin=admin, admin_socket=own)
        child = services.authorizer(settings, stack.state, addresses)
        assert isinstance(child, Child)
        self._child, self._port = child, ports["listen_port"]

    def __enter__(self) -> int:
        self._child.start()
        return self._port

    def __exit__(self, *_: object) -> None:
        self._child.stop()


def test_a_copy_reaches_the_other_version_and_nothing_else(stack: Stack) -> None:
    user = next(user for user in USERS if variant_of(stack, user) == "stable")
    subject = jwt.decode(token_of(stack, user), options={"verify_signature": False})["sub"]
    wait_for(lambda: _counted_by_envoy(stack, "active") == 0)  # no copy of an earlier call is still on its way
    copied, counted = _answers(stack), _counted_by_envoy(stack, "completed")
    answer = rest(stack, user)
    first = answer.headers["x-decision-id"]
    assert label(answer) == LABELS["1"], "nobody gets the answer to a copy"
    _over_grpc(stack, user)
    wait_for(lambda: _answers(stack) == copied + 2)
    wait_for(lambda: _calls(stack, subject, first) == 2)
    # What the dashboard `canary` shows is with copies; Envoy adds times to its statistics every five seconds.
    wait_for(lambda: _counted_by_envoy(stack, "completed") == counted + 2)
    wait_for(lambda: _counted_by_envoy(stack, "time_count") == counted + 2, 20)
    left = [_left(rest(stack, user)) for _ in range(2)]
    assert left[0] - left[1] == 1, "a copy takes no quota"


def _left(answer: httpx.Response) -> int:
    """Of the calls of this user."""
    (found,) = re.findall(r'"user-minute";r=(\d+)', answer.headers["ratelimit"])
    return int(found)


def _answers(stack: Stack) -> int:
    """Of the Triton of the canary, for its calls and for copies."""
    with over(triton_metrics(stack.state, "triton-canary")) as client:
        text = client.get("/metrics").text
    lines = [line for line in text.splitlines() if line.startswith("tollgate_model_labels_total{")]
    assert not [line for line in lines if 'variant="stable"' in line], (
        "a copy is no call of the variant that was called"
    )
    of = [line for line in lines if 'variant="canary"' in line and 'version="2"' in line]
    return sum(int(float(line.rpartition(" ")[2])) for line in of)


def _calls(stack: Stack, subject: str, first: str) -> int:
    """From that decision on: their ids are in the order of time, and the ledger is a little behind."""
    return _count(stack, "usage_events WHERE subject = %s AND decision_id >= %s::uuid", subject, first)


def _count(stack: Stack, rows: LiteralString, *values: object) -> int:
    with psycopg.connect(stack.addresses.database_url) as connection:
        (found,) = connection.execute(f"SELECT count(*) FROM {rows}", values).fetchone() or ()
    return int(found)


def _counted_by_envoy(stack: Stack, what: str) -> int:
    """Of requests to the Triton of the canary, by both protocols."""
    with over(stack.addresses.envoy_admin) as envoy:
        text = envoy.get("/stats/prometheus?filter=^cluster.triton_(http|grpc)_canary.upstream_rq_").text
    return sum(map(int, re.findall(rf"^envoy_cluster_upstream_rq_{what}{{.*}} (\d+)$", text, re.MULTILINE)))


def test_the_report_is_right_about_what_both_versions_answered(stack: Stack) -> None:
    """To copies too. They are in no other record: neither the ledger, nor the access log, nor the usage."""
    variants = {user: variant_of(stack, user) for user in USERS}
    wait_for(lambda: _counted_by_envoy(stack, "active") == 0)  # no copy of an earlier call is still on its way
    since = datetime.now(UTC)
    answers = [posted(stack, user, TWO).raise_for_status() for user in USERS]
    chosen = rest(stack, "heidi", x_experiment="stable")
    stable, canary = (sum(variant == name for variant in variants.values()) for name in ("stable", "canary"))
    wait_for(lambda: _count(stack, "predictions WHERE at >= %s", since) == 2 * (stable + canary) + 1 + 2 * stable + 1)
    found = _report(stack, since)
    sides = found["variants"]
    assert [(side["version"], side["calls"], side["callers"], side["errors"]["total"]) for side in sides.values()] == [
        ("1", stable, stable, stable),
        ("2", canary, canary, canary),
    ]
    assert sides["stable"]["labels"] == {"positive": stable + 1, "negative": stable}
    assert sides["canary"]["labels"] == {"neutral": canary, "negative": canary}
    assert found["copies"]["labels"] == {"neutral": stable + 1, "negative": stable}
    assert (found["copies"]["agreement"]["hits"], found["copies"]["agreement"]["total"]) == (stable, 2 * stable + 1)
    assert found["left_aside"] == 1
    decisions = [answer.headers["x-decision-id"] for answer in (*answers, chosen)]
    for table in ("usage_events", "call_outcomes"):
        assert _count(stack, f"{table} WHERE decision_id = ANY(%s::uuid[])", decisions) == len(decisions)
    assert _count(stack, "usage_events WHERE occurred_at >= %s", since) == len(decisions)


def _report(stack: Stack, since: datetime) -> Any:  # noqa: ANN401 - JSON
    """Of what came since then, as an operator gets it."""
    command = [sys.executable, "-m", "ext_authz", "experiment", "report", "sentiment-v2", "--format", "json"]
    environment = os.environ | stack.variables
    done = subprocess.run(
        [*command, "--since", since.isoformat()], env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_who_chose_a_version_gets_it_or_nothing(stack: Stack) -> None:
    """A page that is made for version 2 must never show what version 1 says."""
    for _ in range(3):
        answer = rest(stack, "heidi", x_experiment="canary")
        assert (label(answer), answer.headers["x-model-version"]) == (LABELS["2"], "2")
        assert _over_grpc(stack, "heidi", **{"x-experiment": "canary"}) == LABELS["2"]
    other = next(user for user in USERS if variant_of(stack, user) == "stable")
    stack.child("triton-canary").kill()
    try:
        assert posted(stack, "heidi", x_experiment="canary").status_code == 503
        with pytest.raises(InferenceServerException, match="UNAVAILABLE"):
            _over_grpc(stack, "heidi", **{"x-experiment": "canary"})
        assert label(rest(stack, other)) == LABELS["1"], "a copy that reaches nobody is no concern of the caller"
    finally:
        stack.child("triton-canary").start()
    wait_for(lambda: posted(stack, "heidi", x_experiment="canary").status_code == 200)


def test_growth_keeps_who_is_in_the_canary(stack: Stack) -> None:
    before = {user: variant_of(stack, user) for user in USERS}
    environ = stack.child("authorizer").environment
    write(changed(stack.settings.policy, "sentiment-v2", {"stable": 10, "canary": 90}, environ))
    others = [user for user in USERS if before[user] == "stable"]
    wait_for(lambda: any(variant_of(stack, user) == "canary" for user in others))
    assert {variant_of(stack, user) for user in USERS if before[user] == "canary"} == {"canary"}
