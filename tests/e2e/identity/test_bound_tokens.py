"""Tokens that are bound to a key, through real Envoys, two replicas and one Redis."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import grpc
import httpx
import psycopg
import pytest
from psycopg import sql
from tritonclient.grpc import service_pb2

from ext_authz.render.tls import Tls
from tests import tokens
from tests.dpop import Holder
from tests.e2e.identity.world import INFER, RPC, Replica, mark_of, running_replicas, secured
from tests.e2e.render.world import Model
from tests.e2e.server.certificates import Authority
from tests.services import RedisServer, running_redis

ORIGIN = "https://models.example"
NONCES = "https://kc.example/realms/nonces"
MESSAGE = service_pb2.ModelInferRequest(model_name="sentiment").SerializeToString()
HOLDER = Holder()


def policy(jwks: str, _: str) -> str:
    issuer = f"jwks_url: '{jwks}', audiences: [{tokens.AUDIENCE}], roles_client: {tokens.AUDIENCE}, cnf: verify"
    return f"""
version: 1
resource: {{url: "{ORIGIN}"}}
issuers:
  - {{name: kc, issuer: "{tokens.ISSUER}", {issuer}}}
  - {{name: nonces, issuer: "{NONCES}", {issuer}, dpop: {{nonce: true}}}}
models:
  "*": {{roles: [infer]}}
routes:
  - {{name: infer, operation: infer}}
failure: {{redis: allow, grace: 600s}}
"""


class World(NamedTuple):
    model: Model
    one: Replica
    other: Replica
    """Over TLS, with a client certificate."""
    redis: RedisServer
    client: httpx.Client
    """With the certificate `caller`."""
    stranger: httpx.Client
    """With another one."""
    mark: str
    """`x5t#S256` of `caller`."""

    def call(self, token: str, proof: str, replica: Replica | None = None) -> httpx.Response:
        headers = [("authorization", f"DPoP {token}"), ("dpop", proof)]
        return (replica or self.one).post(headers, client=self.client if replica is self.other else None)


@pytest.fixture(scope="module")
def world(postgres_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    database_url = postgres_server.replace("/postgres?", f"/{name}?")
    directory = tmp_path_factory.mktemp("bound")
    authority = Authority(directory, "ca")
    cert, key = authority.issue("envoy")
    listens = Tls(str(authority.certificate), str(cert), str(key))
    trusted = authority.certificate
    caller, stranger = authority.issue("caller"), authority.issue("stranger")
    with (
        running_redis(tmp_path_factory.mktemp("redis")) as redis,
        running_replicas(directory, redis.url, database_url, policy, (None, listens), redis_timeout=1) as (
            model,
            (one, other),
        ),
        secured(trusted, *caller) as client,
        secured(trusted, *stranger) as another,
    ):
        yield World(model, one, other, redis, client, another, mark_of(caller[0]))


def bound(claims: Mapping[str, object] | None = None) -> str:
    return tokens.mint({"cnf": HOLDER.cnf, "typ": "DPoP", **(claims or {})})


def proof(token: str, path: str = INFER, **claims: object) -> str:
    return HOLDER.proof("POST", ORIGIN + path, token, claims)


def code(answer: httpx.Response) -> str:
    assert answer.status_code == httpx.codes.UNAUTHORIZED
    found: str = answer.json()["code"]
    return found


def test_a_proof_reaches_the_check_and_no_model(world: World) -> None:
    token = bound()
    for replica in (world.one, world.other):
        answer = world.call(token, proof(token), replica)
        assert answer.status_code == httpx.codes.OK, answer.text
        assert {"authorization", "dpop"}.isdisjoint(answer.json()["headers"])
        assert answer.json()["headers"]["x-user-id"] == tokens.ALICE


def test_a_replay_at_another_replica(world: World) -> None:
    token = bound()
    used = proof(token)
    assert world.call(token, used).status_code == httpx.codes.OK
    for replica in (world.one, world.other):
        answer = world.call(token, used, replica)
        assert code(answer) == "proof_replayed"
        assert answer.headers["www-authenticate"].startswith('DPoP realm="tollgate", error="invalid_dpop_proof"')


def test_of_two_calls_at_the_same_time_one_is_answered(world: World) -> None:
    token = bound()
    proofs = [proof(token) for _ in range(40)]
    with ThreadPoolExecutor(8) as pool:
        both = [[pool.submit(world.call, token, each, at) for at in (world.one, world.other)] for each in proofs]
        answers = [sorted(call.result().status_code for call in calls) for calls in both]
    assert answers == [[200, 401]] * len(proofs)


def test_the_cache_does_not_answer_for_a_bound_token(world: World) -> None:
    token = bound()
    assert world.call(token, proof(token)).status_code == httpx.codes.OK
    plain = [("authorization", f"DPoP {token}")]
    assert code(world.one.post(plain)) == "proof_missing"
    assert code(world.one.post([("authorization", f"Bearer {token}"), ("dpop", proof(token))])) == "token_bound"
    twice = [*plain, ("dpop", proof(token)), ("dpop", proof(token))]
    assert code(world.one.post(twice)) == "proof_repeated"
    assert code(world.call(token, proof(token, "/v2/models/cancer/infer"))) == "proof_mismatch"
    assert code(world.call(tokens.mint(), proof(token))) == "token_unbound"
    assert world.one.post([("authorization", f"Bearer {tokens.mint()}")]).status_code == httpx.codes.OK


def test_a_challenge_names_both_schemes(world: World) -> None:
    challenge = world.one.post([]).headers.get_list("www-authenticate")
    assert len(challenge) == 1
    assert challenge[0].startswith("Bearer ")
    assert challenge[0].endswith('DPoP algs="ES256 ES384 ES512 EdDSA PS256 RS256"')


def rpc(world: World, token: str, proof: str) -> bytes:
    with grpc.insecure_channel(world.one.address) as channel:
        method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(RPC)
        return method(MESSAGE, timeout=20, metadata=(("authorization", f"DPoP {token}"), ("dpop", proof)))


def test_grpc(world: World) -> None:
    token = bound()
    used = proof(token, RPC)
    assert rpc(world, token, used) == b"stable"
    with pytest.raises(grpc.RpcError) as refused:
        rpc(world, token, used)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert str(refused.value.details()).startswith("proof_replayed: ")


def test_a_nonce_is_one_of_all_replicas(world: World) -> None:
    token = bound({"iss": NONCES})
    asked = world.call(token, proof(token))
    assert code(asked) == "proof_nonce"
    assert 'error="use_dpop_nonce"' in asked.headers["www-authenticate"]
    nonce = asked.headers["dpop-nonce"]
    for replica in (world.one, world.other):
        assert world.call(token, proof(token, nonce=nonce), replica).status_code == httpx.codes.OK
    assert code(world.call(token, proof(token, nonce="made-up"), world.other)) == "proof_nonce"


def test_a_client_certificate(world: World) -> None:
    headers = [("authorization", f"Bearer {tokens.mint({'cnf': {'x5t#S256': world.mark}})}")]
    for _ in range(2):
        assert world.other.post(headers, client=world.client).status_code == httpx.codes.OK
    assert code(world.other.post(headers, client=world.stranger)) == "certificate_mismatch"
    assert code(world.one.post(headers)) == "certificate_missing"
    forged = [*headers, ("x-forwarded-client-cert", f"Hash={world.mark}")]
    assert code(world.one.post(forged)) == "certificate_missing"


def test_without_redis_no_proof_is_believed(world: World) -> None:
    """Whatever the failure mode: here bearer tokens pass. The last test, since Redis does not come back."""
    token = bound()
    world.redis.kill()
    assert world.one.post([("authorization", f"Bearer {tokens.mint()}")]).status_code == httpx.codes.OK
    answer = world.call(token, proof(token))
    assert (answer.status_code, answer.json()["code"]) == (httpx.codes.SERVICE_UNAVAILABLE, "unavailable")
