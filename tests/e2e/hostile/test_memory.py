"""What callers name, in every place where they can name something, makes neither the worker nor Redis large.

Straight to the authorizer, with what Envoy would report: so many large requests are dear enough as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import psutil
import pytest
from msgspec import Struct
from redis import Redis

from ext_authz.gen.tollgate.envoy.v3.external_auth_pb2 import CheckResponse
from tests.e2e.reload.world import Serving, policy, serving, token
from tests.postgres import running_postgres
from tests.requests import check_request, grpc_check_request
from tests.services import running_redis

pytestmark = pytest.mark.alone

WARM, MANY = 400, 2000
LARGE = 50_000
FEW_MEGABYTES = 12 << 20
"""What an allocator may keep of MANY times LARGE (100 MB) that went through it."""
EVENT_BYTES = 2500
"""The longest path and host that are kept, names of the route and codes, and Redis' own."""

ROUTES = """
  - {name: by-host, path: "/x/{rest=**}", methods: [GET], hosts: ["*.example"], roles: [infer], limits: [user]}
  - {name: open, path: "/open/{rest=**}", methods: [GET], public: true}
  - {name: rpc, operation: infer, roles: [infer], limits: [user]}
client_address: {trusted_hops: 1}
"""


class World(Struct):
    """One worker, its Redis, and a caller without any right."""

    server: Serving
    redis: Redis
    nobody: str

    def send(self, messages: Iterator[bytes]) -> set[int]:
        """The codes of the answers."""
        with ThreadPoolExecutor(8) as threads:
            answers = threads.map(lambda message: self.server.ask(message), messages)
            return {CheckResponse.FromString(answer).status.code for answer in answers}

    def resident(self) -> int:
        (worker, *_) = psutil.Process(self.server.process.pid).children()
        family = [worker, *worker.children(recursive=True)]
        return max(process.memory_info().rss for process in family)

    def redis_bytes(self) -> int:
        info = self.redis.info("memory")
        assert isinstance(info, dict)
        return int(info["used_memory"])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("memory")

    def prepare(jwks: str) -> None:
        (directory / "policy.yaml").write_text(policy(jwks) + ROUTES)

    with (
        running_redis(directory) as redis,
        running_postgres() as postgres,
        serving(directory, redis.url, postgres.url, prepare=prepare) as server,
        Redis.from_url(redis.url) as client,
    ):
        yield World(server, client, token(resource_access={}, realm_access={"roles": []}))


def _name(number: int) -> str:
    return f"{number}".ljust(LARGE, "x")


def _role(number: int) -> str:
    return f"role-{number}".ljust(250, "x")


LOADS: dict[str, Callable[[World, int], bytes]] = {
    "model names": lambda world, number: grpc_check_request(models=(_name(number),), token=world.nobody),
    "versions": lambda world, number: grpc_check_request(versions=(_name(number),), token=world.nobody),
    "hosts": lambda world, number: check_request(host=_name(number), token=world.nobody),
    "hosts of many labels": lambda world, number: check_request(
        "GET", "/x/y", host=f"{number}" + ".a" * (LARGE // 2) + ".example", token=world.nobody
    ),
    "paths": lambda world, number: check_request("GET", f"/open/{_name(number)}"),
    "paths as long as may be": lambda _, number: check_request("GET", f"/open/{number}/" + "x" * 1000),
    "queries": lambda world, number: check_request(path=f"/v2/models/m/infer?{_name(number)}", token=world.nobody),
    "methods": lambda world, number: check_request(_name(number), token=world.nobody),
    "content types": lambda world, number: check_request(content_type=_name(number), token=world.nobody),
    "junk tokens": lambda _, number: check_request(token=_name(number)[: LARGE // 2]),
    "signed tokens of an unknown issuer": lambda _, number: check_request(
        token=token(iss=f"https://nobody.example/{_name(number)[:20_000]}")
    ),
    "addresses": lambda world, number: check_request(
        token=world.nobody, headers=[("x-forwarded-for", f"1.2.3.4, {_name(number)}")]
    ),
    "other headers": lambda world, number: check_request(headers=[(f"x-{number}", _name(number))], token=world.nobody),
    "roles": lambda _, number: check_request(
        token=token(sub=f"u{number % 100}", realm_access={"roles": [_role(number + other) for other in range(60)]})
    ),
}


LET_IN = ("paths as long as may be", "roles")
"""What is large, and good."""


@pytest.mark.parametrize("load", LOADS)
def test_memory_stays_flat(world: World, load: str) -> None:
    message = partial(LOADS[load], world)
    many = MANY // 4 if "token" in load or load == "roles" else MANY  # each is signed here
    world.send(map(message, range(WARM)))
    resident, in_redis = world.resident(), world.redis_bytes()

    codes = world.send(map(message, range(WARM, WARM + many)))

    assert 0 not in codes or load in LET_IN, "such a call is refused"
    assert world.resident() < 1.1 * resident + FEW_MEGABYTES
    assert world.redis_bytes() - in_redis < many * EVENT_BYTES
