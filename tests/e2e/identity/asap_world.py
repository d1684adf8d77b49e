"""Two replicas that take tokens which services sign themselves, a key repository, and the published signers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import atlassian_jwt_auth
import httpx
from atlassian_jwt_auth.signer import JWTAuthSigner
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ext_authz.gen.tollgate.envoy.v3.external_auth_pb2 import CheckResponse
from ext_authz.render.endpoints import LOOPBACK, Address
from tests.e2e.identity.key_server import KeyServer, running_key_server
from tests.e2e.identity.world import INFER, Replica, running_replicas
from tests.e2e.render.world import Model
from tests.e2e.server.certificates import Authority
from tests.services import RedisServer, free_port, running_redis
from tests.tokens import AUDIENCE, RSA, TestKey

POLICY = """
version: 1
issuers:
  - {{name: web, issuer: team/web, audiences: [{audience}], algorithms: [RS256, ES256], jwks_refresh: 1s,
     jwks_cooldown: 1s, jwks_max_stale: 3s, asap: {{repositories: ["{keys}"], roles: [infer]}}}}
  - {{name: jobs, issuer: jobs, audiences: [{audience}], asap: {{repositories: ["{keys}"], roles: [infer],
     replays: accept}}}}
  - {{name: brief, issuer: brief, audiences: [{audience}], jwks_refresh: 1s, jwks_cooldown: 1s, jwks_max_stale: 1s,
     asap: {{repositories: ["{keys}"], roles: [infer]}}}}
  - {{name: guest, issuer: guest, audiences: [{audience}], jwks_cooldown: 10m, asap: {{repositories: ["{keys}"]}}}}
models:
  "*": {{roles: [infer]}}
routes:
  - {{name: infer, operation: infer}}
  - {{name: sentiment, path: "/sentiment/{{rest=**}}", methods: [POST], upstream: sentiment-api, keep_token: true}}
  - {{name: without, path: "/sentiment/{{rest=**}}", methods: [POST], headers: [x-without], upstream: sentiment-api}}
failure: {{redis: allow, grace: 600s}}
"""


class World(NamedTuple):
    keys: KeyServer
    model: Model
    one: Replica
    other: Replica
    redis: RedisServer
    client: httpx.Client
    service_port: int
    """Where the application `sentiment-api` is to listen."""

    def post(self, token: str, replica: Replica | None = None) -> httpx.Response:
        url = f"http://{(replica or self.one).address}{INFER}"
        return self.client.post(url, json={}, headers={"authorization": f"Bearer {token}"})


@contextmanager
def running_world(directory: Path, redis_directory: Path, database_url: str) -> Iterator[World]:
    authority, port = Authority(directory, "ca"), free_port()
    with (
        running_redis(redis_directory) as redis,
        running_key_server(authority.certificate, authority.issue("keys")) as keys,
        running_replicas(
            directory,
            redis.url,
            database_url,
            lambda *_: POLICY.format(keys=keys.url, audience=AUDIENCE),
            upstreams={"sentiment-api": Address(LOOPBACK, port)},
            redis_timeout=1,
            jwks_timeout=2,
            jwks_ca_file=authority.certificate,
        ) as (model, (one, other)),
        httpx.Client(timeout=20) as client,
    ):
        yield World(keys, model, one, other, redis, client, port)


def private(key: TestKey) -> str:
    return key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def signer(kid: str, key: TestKey = RSA, **options: Any) -> JWTAuthSigner:  # noqa: ANN401 - its own
    """The published one, of the service that has this key."""
    options = {"algorithm": key.algorithm, **options}
    found: JWTAuthSigner = atlassian_jwt_auth.create_signer(kid.rpartition("/")[0], kid, private(key), **options)
    return found


def token(kid: str, key: TestKey = RSA, **options: Any) -> str:  # noqa: ANN401 - as above
    return str(signer(kid, key, **options).generate_jwt(AUDIENCE), "ascii")


def status(answer: CheckResponse) -> int:
    """Of a check; 200 where it allows."""
    return answer.denied_response.status.code or answer.error_response.status.code or 200


def code(answer: httpx.Response) -> str:
    assert answer.status_code == httpx.codes.UNAUTHORIZED, answer.text
    assert answer.headers["www-authenticate"].startswith('Bearer realm="tollgate", error="invalid_token"')
    found: str = answer.json()["code"]
    return found
