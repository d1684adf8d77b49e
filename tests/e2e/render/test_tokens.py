"""Istio verifies tokens after the check: an authorizer that allows everything lets no forged token through."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import httpx
import psycopg
import pytest
from msgspec.structs import replace
from psycopg import sql
from tritonclient.grpc import service_pb2

from ext_authz.identity.api_tokens import unwrap, wrap
from ext_authz.policy.model import Policy
from tests.e2e.owners.test_envoy import changed
from tests.e2e.render.test_rendered import INFER
from tests.e2e.render.world import MESH, MESHES, World, running_world
from tests.e2e.tokens.issuing import Issuing
from tests.http_server import answering
from tests.own_tokens import own_jws
from tests.services import RedisServer
from tests.tokens import ISSUER, RSA, RSA_NEXT, jwks, mint
from tests.unit.render.policies import EVERYDAY, TOKENS, demo, of_kinds

OTHER_ISSUER = "https://two.example"
RPC = "/inference.GRPCInferenceService/ModelInfer"


class Keys(BaseHTTPRequestHandler):
    own = b""
    """What the console publishes."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.own if self.path == "/tollgate/jwks" else jwks(RSA))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Quiet."""


@pytest.fixture(scope="module")
def keys() -> Iterator[str]:
    """Where all keys are."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Keys) as server, answering(server):
        yield f"http://127.0.0.1:{server.server_port}"


@pytest.fixture(scope="module")
def policy(keys: str) -> Policy:
    (demo_issuer, *_) = demo().issuers
    of_both = replace(demo_issuer, jwks_url=f"{keys}/")
    issuers = (replace(of_both, name="one", issuer=ISSUER), replace(of_both, name="two", issuer=OTHER_ISSUER))
    own = replace(TOKENS, issuer=replace(TOKENS.issuer, issuer=f"{keys}/tollgate"))
    return of_kinds(*EVERYDAY, issuers=issuers, tokens=own)


@pytest.fixture(scope="module")
def own_token(policy: Policy, postgres_server: str, redis_server: RedisServer) -> str:
    """As the console makes it; its key is published."""
    database = f"t{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
    issuing = Issuing(postgres_server.replace("/postgres?", f"/{database}?"), redis_server.url, policy)
    Keys.own = issuing.jwks()
    return issuing.makes(issuing.signs_in("alice", "infer")).token


@pytest.fixture(scope="module", params=MESHES)
def running(
    request: pytest.FixtureRequest, policy: Policy, own_token: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    assert own_token, "Istio fetches keys when it gets the rule"
    mesh = replace(MESH, request_authentication=True)
    with running_world(request.param, policy, tmp_path_factory.mktemp("tokens"), mesh=mesh) as world:
        yield world


def call(world: World, token: str, path: str = INFER, **headers: str) -> httpx.Response:
    return httpx.post(world.url + path, json={}, headers={"authorization": token, **headers}, timeout=10)


def broken() -> str:
    start, _, signature = mint().rpartition(".")
    return f"{start}.{signature[:-10]}{signature[-10:][::-1]}"


def test_a_token_of_each_issuer_passes_and_no_model_gets_it(world: World) -> None:
    for token in (mint(), mint({"iss": OTHER_ISSUER})):
        answer = call(world, f"Bearer {token}")
        assert answer.status_code == httpx.codes.OK
        assert token not in answer.text.replace(answer.json()["headers"]["x-user-id"], "")
        assert {"authorization", "x-tollgate-token"}.isdisjoint(answer.json()["headers"])


def test_an_api_token_of_our_own_is_verified_too(world: World, own_token: str, keys: str) -> None:
    assert call(world, f"Bearer {own_token}").status_code == httpx.codes.OK
    assert len(world.reached()) == 1
    jws, issuer = unwrap(own_token), f"{keys}/tollgate"
    wrong = {
        "a changed header": changed(own_token, 5),
        "a changed claim": changed(own_token, jws.index(".") + 9),
        "a changed signature": changed(own_token, jws.rindex(".") + 9),
        "a key of somebody": wrap(own_jws({"iss": issuer})),
        "a key of the identity provider": wrap(mint({"iss": issuer})),
        "another issuer": wrap(own_jws({"iss": "https://no.example"})),
    }
    world.forget()
    codes = {case: call(world, f"Bearer {token}").json()["code"] for case, token in wrong.items()}
    assert codes == dict.fromkeys(wrong, "token_not_verified")
    assert world.reached() == []


def test_the_console_verifies_credentials_itself(world: World) -> None:
    answer = call(world, "Bearer opaque", "/tollgate/signals/events")
    assert answer.json()["code"] == "console_unavailable", "nobody serves it here, and Istio has let it pass"


@pytest.mark.parametrize("token", ["", "Basic YTpi", "Bearer", "Bearertoken"])
def test_what_is_no_bearer_token_is_left_to_the_check(world: World, token: str) -> None:
    answer = call(world, token)
    assert answer.status_code == httpx.codes.OK
    assert {"authorization", "x-tollgate-token"}.isdisjoint(answer.json()["headers"])


def test_a_copy_or_a_query_of_the_caller_is_no_token(world: World) -> None:
    assert call(world, "", **{"x-tollgate-token": f"Bearer {broken()}"}).status_code == httpx.codes.OK
    assert call(world, "", f"{INFER}?access_token={broken()}").status_code == httpx.codes.OK


@pytest.mark.parametrize(
    ("token", "status"),
    [
        (broken(), 401),
        (mint(key=RSA_NEXT), 401),
        (mint({"iss": "https://three.example"}), 401),
        (mint({"aud": "other", "exp": time.time() + 3600}), 403),  # minted when the tests are collected
        (mint({"exp": time.time() - 3600}), 401),
        ("alice", 401),
    ],
    ids=["signature", "key", "issuer", "audience", "expiry", "no-jwt"],
)
def test_a_token_that_only_the_authorizer_accepts_reaches_no_model(world: World, token: str, status: int) -> None:
    answer = call(world, f"Bearer {token}")
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert status == httpx.codes.FORBIDDEN or answer.headers["www-authenticate"].startswith("Bearer ")
    problem = answer.json()
    assert (problem["code"], problem["status"]) == ("token_not_verified", status)
    assert problem["decision_id"]
    assert len(world.authorizer.asked) == 1
    assert world.reached() == []


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "bEaReR"])
def test_the_scheme_is_compared_without_case_as_the_authorizer_does(world: World, scheme: str) -> None:
    assert call(world, f"{scheme} {mint()}").status_code == httpx.codes.OK
    world.forget()
    assert call(world, f"{scheme} {broken()}").status_code == httpx.codes.UNAUTHORIZED
    assert world.reached() == []


def test_over_grpc_it_is_a_status(world: World) -> None:
    message = service_pb2.ModelInferRequest(model_name="sentiment").SerializeToString()
    with grpc.insecure_channel(world.address) as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(RPC)(message, metadata=(("authorization", f"Bearer {broken()}"),), timeout=5)
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert str(refused.value.details()).startswith("token_not_verified: ")
    assert world.reached() == []
