"""An experiment on a whole stack: who gets which version, over both protocols and on every replica, and the copies."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import httpx
import jwt
import numpy as np
import psycopg
import pytest
import tritonclient.grpc as triton

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

pytestmark = pytest.mark.timeout(300)

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


def rest(stack: Stack, user: str, **more: str) -> httpx.Response:
    sent = {"authorization": f"Bearer {token_of(stack, user)}"} | {name.replace("_", "-"): more[name] for name in more}
    return httpx.post(f"{stack.addresses.envoy}/v2/models/sentiment/infer", json=TEXT, headers=sent).raise_for_status()


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


def _over_grpc(stack: Stack, user: str) -> str:
    text = triton.InferInput("text", [1, 1], "BYTES")
    text.set_data_from_numpy(np.array([["I love it"]], dtype=object))
    client = triton.InferenceServerClient(stack.addresses.envoy_grpc)
    try:
        answer = client.infer("sentiment", [text], headers={"authorization": f"Bearer {token_of(stack, user)}"})
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
    copied, calls = _answers(stack), _calls(stack, subject)
    answer = rest(stack, user)
    assert label(answer) == LABELS["1"], "nobody gets the answer to a copy"
    _over_grpc(stack, user)
    wait_for(lambda: _answers(stack) == copied + 2)
    wait_for(lambda: _calls(stack, subject) == calls + 2)
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


def _calls(stack: Stack, subject: str) -> int:
    with psycopg.connect(stack.addresses.database_url) as connection:
        (found,) = (
            connection.execute("SELECT count(*) FROM usage_events WHERE subject = %s", (subject,)).fetchone() or ()
        )
    return int(found)


def test_growth_keeps_who_is_in_the_canary(stack: Stack) -> None:
    before = {user: variant_of(stack, user) for user in USERS}
    environ = stack.child("authorizer").environment
    write(changed(stack.settings.policy, "sentiment-v2", {"stable": 10, "canary": 90}, environ))
    others = [user for user in USERS if before[user] == "stable"]
    wait_for(lambda: any(variant_of(stack, user) == "canary" for user in others))
    assert {variant_of(stack, user) for user in USERS if before[user] == "canary"} == {"canary"}
