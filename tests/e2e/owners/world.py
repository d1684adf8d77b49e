"""Two replicas of the authorizer over the same stores, an Envoy in front of each, and the service that makes tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import grpc
import httpx
from tritonclient.grpc import service_pb2

from ext_authz.db.postgres import connect
from ext_authz.owners import store
from ext_authz.policy.load import load_policy
from ext_authz.policy.model import Policy
from ext_authz.render.endpoints import LOOPBACK, Address, Endpoints
from tests.e2e.hostile.upstream import Upstream
from tests.e2e.reload.world import serving
from tests.e2e.render.world import running_front
from tests.e2e.tokens.issuing import Issuing
from tests.http_server import serving_files
from tests.services import free_port

POLL = 0.2
"""Seconds between two looks at the owners."""
POLICY = """
version: 1
issuers:
  - {{name: kc, issuer: "https://kc.example/realms/ml", jwks_url: "{jwks}", audiences: [triton-gateway],
     claims: {{roles: [resource_access.triton-gateway.roles]}}}}
tokens:
  issuer: https://models.example/tollgate
  jwks_url: http://127.0.0.1:{port}/jwks.json
  audiences: [triton-gateway]
  max_lifetime: 30d
limits:
  token: {{key: [token], rate: 1000/hour}}
models:
  small: {{roles: [infer]}}
  large: {{roles: [infer]}}
  secret: {{roles: [doctor]}}
routes:
  - {{name: infer, operation: infer, limits: [token]}}
  - {{name: metadata, operation: metadata}}
"""


class World(Issuing):
    def __init__(self, stores: tuple[str, str], policy: Policy, ports: list[int], upstream: Upstream) -> None:
        super().__init__(*stores, policy)
        self.ports = ports
        self.upstream = upstream

    def polled(self, subject: str, *roles: str, enabled: bool = True) -> None:
        """What the identity provider says, as the poller writes it."""

        async def written() -> None:
            async with await connect(self._stores[0]) as connection:
                at = datetime.now(UTC)
                assert await store.polled(connection, "kc", subject, roles=roles, groups=(), enabled=enabled, at=at)

        asyncio.run(written())

    def rest(self, token: str, model: str = "small", replica: int = 0) -> httpx.Response:
        url = f"http://{LOOPBACK}:{self.ports[replica]}/v2/models/{model}/infer"
        return httpx.post(url, json={}, headers={"authorization": f"Bearer {token}"}, timeout=10)

    def rpc(self, token: str, model: str = "small") -> grpc.StatusCode:
        message = service_pb2.ModelInferRequest(model_name=model).SerializeToString()
        with grpc.insecure_channel(f"{LOOPBACK}:{self.ports[0]}") as channel:
            infer: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelInfer"
            )
            call = infer.future(message, metadata=(("authorization", f"Bearer {token}"),), timeout=10)
            code: grpc.StatusCode = call.code()
            return code


@contextmanager
def running_world(directory: Path, redis_url: str, database_url: str) -> Iterator[World]:
    with ExitStack() as stack:
        upstream = Upstream()
        stack.enter_context(upstream.running())
        port = stack.enter_context(serving_files(directory))

        def write(jwks: str) -> None:
            (directory / "policy.yaml").write_text(POLICY.format(jwks=jwks, port=port))

        write("https://kc.example/certs")
        stores = (database_url, redis_url)
        world = World(stores, load_policy(directory / "policy.yaml", {}), [], upstream)
        (directory / "jwks.json").write_bytes(world.jwks())
        for name in ("one", "two"):
            (directory / name).mkdir()

            def prepare(jwks: str, place: Path = directory / name) -> None:
                (place / "policy.yaml").write_text(POLICY.format(jwks=jwks, port=port))

            server = stack.enter_context(
                serving(directory / name, redis_url, database_url, prepare=prepare, revocation_poll=POLL, workers=1)
            )
            front = Address(LOOPBACK, free_port())
            endpoints = Endpoints(listen=front, authorizer=Address(LOOPBACK, server.port), triton=upstream.place)
            policy = load_policy(directory / name / "policy.yaml", {})
            stack.enter_context(running_front("envoy", policy, endpoints, directory / name))
            world.ports.append(front.port)
        yield world
