"""The interfaces for programs over real stores: the parts of `tollgate console`, in this process."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
from google.protobuf.message import Message

from ext_authz.api.grpc_server import listening
from ext_authz.console.parts import built
from ext_authz.console.process import Console, served
from ext_authz.console_settings import ConsoleSettings
from ext_authz.db.migrate import migrate
from ext_authz.policy.load import load_policy
from tests.http_server import serving_files
from tests.services import free_port, wait_for
from tests.tokens import AUDIENCE, ISSUER, RSA, mint

ORIGIN = "https://models.example"
PATH = "/tollgate/api/v1"
KEYS = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="
ADMIN, BOB = "11111111-0000-4000-8000-000000000001", "22222222-0000-4000-8000-000000000002"


def policy(jwks: str, issuer: str = "demo") -> str:
    return f"""
version: 1
resource: {{url: {ORIGIN}}}
issuers:
  - {{name: {issuer}, issuer: {ISSUER}, audiences: [{AUDIENCE}], roles_client: {AUDIENCE}, jwks_url: "{jwks}"}}
tokens: {{audiences: [{AUDIENCE}], max_lifetime: 30d, per_owner: 5, administrators: {{role: boss}}}}
models:
  sentiment: {{roles: [infer], predictions: {{inputs: full, readers: {{role: sentiment-owner}}}}}}
  fraud-*: {{roles: [infer]}}
  secret: {{roles: [boss]}}
routes:
  - {{name: infer, operation: infer}}
"""


def alice(**claims: object) -> str:
    """A token of the identity provider."""
    return mint({"jti": f"alice-{json.dumps(claims, sort_keys=True)}"[:200], **claims})


def bob(**claims: object) -> str:
    return alice(sub=BOB, preferred_username="bob", sid="bobs-session", **claims)


def admin(**claims: object) -> str:
    roles = {AUDIENCE: {"roles": ["infer", "boss"]}}
    return alice(sub=ADMIN, preferred_username="carol", sid="admins-session", resource_access=roles, **claims)


class World:
    """One console, and a client that verifies no certificate: the front does that."""

    def __init__(self, console: Console, grpc_address: str, database_url: str) -> None:
        self.console = console
        self.database_url = database_url
        transport = httpx.ASGITransport(console.application, raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url=ORIGIN)
        self.channel = grpc.aio.insecure_channel(grpc_address)

    async def rest(self, method: str, path: str, token: str, body: object = None, **headers: str) -> httpx.Response:
        """`headers` with _ for -."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if token:
            sent["authorization"] = f"Bearer {token}"
        return await self.http.request(method, f"{PATH}{path}", json=body, headers=sent)

    async def grpc(self, service: str, method: str, request: Message, answer: type[Message], token: str) -> Any:  # noqa: ANN401 - an answer
        """Raises grpc.aio.AioRpcError."""
        call = self.channel.unary_unary(
            f"/{service}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        return await call(request, metadata=(("authorization", f"Bearer {token}"),) if token else ())

    async def close(self) -> None:
        await self.http.aclose()
        await self.channel.close()


@asynccontextmanager
async def world_of(database_url: str, redis_url: str, directory: Path) -> AsyncIterator[World]:
    """Its identity provider publishes one key."""
    await migrate(database_url)
    (directory / "keys.json").write_text(json.dumps({"keys": [RSA.jwk()]}))
    file = directory / "policy.yaml"
    values = {"database_url": database_url, "redis_url": redis_url, "policy": str(file)}
    with serving_files(directory) as port:
        file.write_text(policy(f"http://127.0.0.1:{port}/keys.json"))
        settings = ConsoleSettings.model_validate({**values, "console_client_secret": "s", "console_keys": KEYS})
        async with AsyncExitStack() as stack:
            console = served(await built(settings, load_policy(file, {}), stack), stack)
            address = f"127.0.0.1:{free_port()}"
            await stack.enter_async_context(listening(console.grpc, address, settings))
            world = World(console, address, database_url)
            stack.push_async_callback(world.close)
            yield world


@contextmanager
def running_console(
    directory: Path, database_url: str, redis_url: str, issuer: str = "demo"
) -> Iterator[tuple[int, int]]:
    """`tollgate console` as a process; its ports for HTTP and gRPC. `issuer`: name of the identity provider."""
    (directory / "keys.json").write_text(json.dumps({"keys": [RSA.jwk()]}))
    asyncio.run(migrate(database_url))
    ports, log = (free_port(), free_port()), directory / "console.log"
    with serving_files(directory) as port:
        (directory / "console.yaml").write_text(policy(f"http://127.0.0.1:{port}/keys.json", issuer))
        given = {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "POLICY": str(directory / "console.yaml"),
            "CONSOLE_PORT": str(ports[0]),
            "CONSOLE_GRPC_PORT": str(ports[1]),
            "CONSOLE_CLIENT_SECRET": "secret",
            "CONSOLE_KEYS": KEYS,
        }
        environment = {**os.environ, **{f"TOLLGATE_{name}": value for name, value in given.items()}}
        with log.open("wb") as output:
            process = subprocess.Popen([sys.executable, "-m", "ext_authz", "console"], env=environment, stderr=output)
        try:
            wait_for(lambda: _answers(ports[0], process, log), 60)
            yield ports
        finally:
            process.terminate()
            assert process.wait(20) == 0, log.read_text()


def _answers(port: int, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    try:
        return httpx.get(f"http://127.0.0.1:{port}/tollgate/healthz").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
