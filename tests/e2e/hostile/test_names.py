"""What a caller names, made to be read differently by two: whatever Triton serves is what was authorised, and recorded.

alice may call `plain` and the first versions of `staged` and `guarded`, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from devstack.stack.stack import Stack, running_stack
from ext_authz.policy.load import load_policy
from ext_authz.render.endpoints import LOOPBACK, Address, Endpoints, Pipe
from tests.e2e.hostile.caller import Caller
from tests.e2e.hostile.models import write_models
from tests.e2e.render.world import RENDERERS, running_front
from tests.e2e.server.raw import frame
from tests.e2e.stack.conftest import token_of
from tests.messages import (
    NO_NAMES,
    NO_VERSIONS,
    ROW,
    crafted,
    crafted_versions,
    framed,
    model,
    plain,
    tag,
    text,
    version,
)
from tests.services import free_port, over, wait_for

POLICY = Path(__file__).with_name("names.yaml")
REST = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}]}
MODEL_MISSING = "model_missing: the message names no single model: set model_name once, in one plain message "
MODEL_MISSING += "of at most 4096 fields"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("names")
    models = write_models(directory / "models")
    with running_stack(directory / "state", models=models, policy=POLICY) as running:
        yield running


@pytest.fixture(scope="module", params=RENDERERS[:2])
def alice(request: pytest.FixtureRequest, stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    """Behind the gateway it is bob, who has the same rights: what is counted for one is not for the other. There is no
    third one for the Gateway API, whose gateway has the same filters."""
    if request.param == "envoy":
        yield from _calling(stack.settings.envoy_port, stack, "alice")
        return
    to, directory = stack.addresses, tmp_path_factory.mktemp("gateway")
    endpoints = Endpoints(
        listen=Address(LOOPBACK, free_port()),
        authorizer=Address(LOOPBACK, stack.settings.listen_port),
        triton=to.triton,
    )
    policy = load_policy(POLICY, {"TOLLGATE_ISSUER": to.issuer})
    with running_front(request.param, policy, endpoints, directory):
        yield from _calling(endpoints.listen.port, stack, "bob")


def _calling(port: int, stack: Stack, user: str) -> Iterator[Caller]:
    caller = Caller(port, token_of(stack, user))
    yield caller
    caller.close()


def recorded(stack: Stack, decisions: list[str]) -> dict[str, tuple[str, str, str]]:
    """By decision: code, model and version in the ledger."""
    query = "SELECT decision_id::text, code, model, model_version FROM usage_events WHERE decision_id = ANY(%s::uuid[])"
    with psycopg.connect(stack.addresses.database_url, autocommit=True) as ledger:

        def rows() -> dict[str, tuple[str, str, str]]:
            return {row[0]: (row[1], row[2], row[3]) for row in ledger.execute(query, (decisions,)).fetchall()}

        wait_for(lambda: len(rows()) == len(decisions))
        return rows()


def test_an_unambiguous_message_is_served_and_recorded(stack: Stack, alice: Caller) -> None:
    served = {what: alice.send(message) for what, (message, _, number) in _mine().items() if number != b"2"}
    assert {what: (one.grpc, one.who) for what, one in served.items()} == dict.fromkeys(served, (0, "plain/1"))
    assert {one.authorised for one in served.values()} == {"plain/1", "plain/*"}
    ledger = recorded(stack, [one.decision for one in served.values()])
    for what, one in served.items():
        assert ledger[one.decision] == ("", "plain", _mine()[what][2].decode())


def _mine() -> dict[str, tuple[bytes, bytes, bytes]]:
    return plain(b"plain", b"secret")


def test_a_message_that_two_may_read_differently_is_refused(stack: Stack, alice: Caller) -> None:
    messages = crafted(b"plain", b"secret")
    messages |= {f"{name}: {what}": body for name in ("staged", "guarded") for what, body in _versions(name)}
    refused = {what: alice.send(message) for what, message in messages.items()}
    assert {what: (one.grpc, one.said, one.who) for what, one in refused.items()} == dict.fromkeys(
        messages, (3, MODEL_MISSING, "")
    )
    ledger = recorded(stack, [one.decision for one in refused.values()])
    assert set(ledger.values()) == {("model_missing", "", "")}


def _versions(name: str) -> Iterator[tuple[str, bytes]]:
    yield from crafted_versions(name.encode()).items()


@pytest.mark.parametrize("path", ["ModelInfer?x", "ModelInfer/", "modelinfer", "ModelInfer%20"])
def test_a_call_that_is_spelt_otherwise_names_nothing(alice: Caller, path: str) -> None:
    one = alice.send(model(b"plain") + ROW, path)
    assert one.grpc in (3, 12)
    assert one.who == ""


def test_what_is_no_single_message_is_refused(stack: Stack, alice: Caller) -> None:
    refused = {what: alice.send_raw(body) for what, body in framed(b"plain", b"secret").items()}
    refused["compressed"] = alice.send_raw(frame(model(b"plain") + ROW, flag=1))
    assert {what: (one.grpc, one.who) for what, one in refused.items()} == dict.fromkeys(refused, (3, ""))
    assert set(recorded(stack, [one.decision for one in refused.values()]).values()) == {("model_missing", "", "")}
    packed = alice.send_raw(frame(model(b"plain") + ROW, flag=1), ("grpc-encoding", "gzip"))
    assert (packed.grpc, packed.who) == (3, "")
    assert set(recorded(stack, [packed.decision]).values()) == {("body_compressed", "", "")}


@pytest.mark.parametrize(
    ("name", "number", "code"),
    [
        ("staged", "1", 0),
        ("guarded", "1", 0),
        ("staged", "2", 7),
        ("guarded", "2", 7),
        ("staged", "", 7),
        ("secret", "", 7),
    ],
)
def test_a_right_on_one_version_is_a_right_on_this_one(alice: Caller, name: str, number: str, code: int) -> None:
    one = alice.send(model(name.encode()) + version(number.encode()) + ROW)
    assert (one.grpc, one.who) == (code, "" if code else f"{name}/{number}")
    path = f"/v2/models/{name}{f'/versions/{number}' if number else ''}/infer"
    answer = alice.rest.post(path, json=REST)
    assert answer.status_code == (403 if code else 200)
    assert (f"{name}/{number}" in answer.text) == (not code)


@pytest.mark.parametrize("what", NO_NAMES)
def test_what_is_no_name_is_refused_in_plain_words_and_recorded_nowhere(stack: Stack, alice: Caller, what: str) -> None:
    name = NO_NAMES[what]
    calls = [alice.send(model(name) + ROW), alice.send(text(1, name), "ModelMetadata")]
    said = "model_not_canonical: a model's name is 1 to 128 letters, digits, _, . and -"
    assert [(one.grpc, one.said) for one in calls] == [(3, said)] * 2
    assert set(recorded(stack, [one.decision for one in calls]).values()) == {("model_not_canonical", "", "")}
    path = f"/v2/models/{quote(name, safe='*/.')}/infer"
    if len(path) < 2000:
        answer = alice.rest.post(path, json=REST)
        assert 400 <= answer.status_code < 500
        assert "plain/1" not in answer.text


@pytest.mark.parametrize("what", NO_VERSIONS)
def test_what_is_no_version_is_refused_in_plain_words_and_recorded_nowhere(
    stack: Stack, alice: Caller, what: str
) -> None:
    one = alice.send(model(b"plain") + version(NO_VERSIONS[what]) + ROW)
    assert one.grpc == 3
    assert one.said.startswith("version_not_canonical: a model's version is a whole number")
    assert set(recorded(stack, [one.decision]).values()) == {("version_not_canonical", "", "")}


@pytest.mark.parametrize("rpc", ["ModelMetadata", "ModelConfig", "ModelStatistics", "ModelReady"])
def test_triton_answers_for_the_model_that_was_authorised(alice: Caller, rpc: str) -> None:
    """ModelStatistics without a name tells of every model."""
    right = alice.send(text(1, b"plain"), rpc)
    assert right.grpc == 0
    assert rpc == "ModelReady" or b"plain" in right.body
    for message in [b"", text(1, b""), *_readings(1, 2)]:
        one = alice.send(message, rpc)
        assert (one.grpc, one.said) == (3, MODEL_MISSING)
    for name, number in (("secret", ""), ("staged", "2"), ("staged", "")):
        assert alice.send(text(1, name.encode()) + text(2, number.encode()), rpc).grpc == 7


@pytest.mark.parametrize("rpc", ["RepositoryModelLoad", "RepositoryModelUnload"])
def test_what_is_loaded_and_unloaded_is_what_was_authorised(alice: Caller, rpc: str) -> None:
    """Triton itself refuses all of it without a secret; it is asked only about the right model."""
    assert "restricted" in alice.send(text(2, b"plain"), rpc).said
    assert alice.send(text(2, b"secret"), rpc).grpc == 7
    for message in [b"", text(1, b"plain"), *_readings(2, 9)]:
        one = alice.send(message, rpc)
        assert (one.grpc, one.said) == (3, MODEL_MISSING)


def _readings(name: int, number: int) -> Iterator[bytes]:
    """Of which somebody may read nothing, `secret` or another version."""
    mine, theirs, nothing = text(name, b"plain"), text(name, b"secret"), text(name, b"")
    yield from (mine + theirs, theirs + mine, mine + nothing, nothing + mine, mine + mine)
    yield theirs + tag(name, 0) + b"\x05plain\x7a\x04AAAA"
    yield mine + tag(99, 3) + theirs + tag(99, 4)
    if number == 2:
        yield mine + text(number, b"1") + text(number, b"")


def test_a_callers_own_parameters_never_speak_for_the_authorizer(stack: Stack, alice: Caller) -> None:
    """Not where they are named like its headers, in whatever spelling; they are after version 2 of `guarded`."""
    forged = {"x-authz-model": "guarded", "x-authz-version": "2", "X-Authz-Version": "2", "x-user-id": "dave"}
    answer = alice.rest.post("/v2/models/plain/infer", json={**REST, "parameters": forged})
    forwarded = json.loads(json.loads(answer.text)["outputs"][1]["data"][0])
    assert (forwarded["x-authz-model"], forwarded["x-authz-version"]) == ("plain", "*")
    named = {"model_name": "secret", "model_version": "2", "name": "secret"}
    assert "plain/1" in alice.rest.post("/v2/models/plain/infer?model_name=secret", json=REST | named).text
    answer = alice.rest.post("/v2/models/plain/generate", json={"x": 1.0, "parameters": forged, **forged})
    assert (answer.status_code, "a member x-authz-model, which only the authorizer may write" in answer.text) == (
        400,
        True,
    )
    answer = alice.rest.post("/v2/models/plain/generate", json={"x": 1.0})
    assert (answer.status_code, "secret" in answer.text) == (200, False)
    answer = alice.rest.post("/v2/models/guarded/versions/1/generate", json={"x": 1.0})
    assert (answer.status_code, "guarded/1" in answer.text) == (400, False), "Triton passes it no headers to compare"
    parameters = b"".join(
        text(4, text(1, key.encode()) + text(2, text(3, value.encode()))) for key, value in forged.items()
    )
    one = alice.send(model(b"plain") + ROW + parameters)
    assert (one.who, one.authorised) == ("plain/1", "plain/*")


@pytest.mark.parametrize(
    "forwarded",
    [
        {},
        {"x-authz-model": "guarded"},
        {"x-authz-version": "1"},
        {"x-authz-model": "guarded", "x-authz-version": "2"},
        {"x-authz-model": "guarded", "x-authz-version": "-"},
        {"x-authz-model": "plain", "x-authz-version": "1"},
        {"x-authz-model": "-", "x-authz-version": "-"},
    ],
)
def test_a_model_that_compares_serves_nothing_that_came_another_way(stack: Stack, forwarded: dict[str, str]) -> None:
    assert isinstance(stack.addresses.triton.http, Pipe)
    forged = {"x-authz-model": "guarded", "x-authz-version": "1"} if forwarded else {}
    message = {**REST, "parameters": forged if len(forwarded) == 2 else {}}
    with over(stack.addresses.triton.http.path) as triton:
        answer = triton.post("/v2/models/guarded/versions/1/infer", json=message, headers=forwarded)
    assert (answer.status_code, answer.json()) == (400, {"error": "not authorised for this model and version"})


def test_a_limit_by_model_counts_what_is_served(alice: Caller) -> None:
    host = {"host": "few.example"}
    statuses = [alice.rest.post("/v2/models/plain/infer", json=REST, headers=host).status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
    for name in ("plain\0x", "plain%00x", "plain%0", "PLAIN", "plain.", "plain/", " plain"):
        answer = alice.rest.post(f"/v2/models/{quote(name, safe='%/')}/infer", json=REST, headers=host)
        assert 400 <= answer.status_code < 500
        assert "plain/1" not in answer.text
