"""`python -m tests.benchmarks.late_allows`: is a token ever allowed after its revocation returned?

Two replicas of `tollgate serve` with two workers each, under load, each through two generations. Revoked is over REST
and gRPC, by a page of the console, by a pushed security event, and by `tollgate revoke`. Every token is used before, so
that each worker has it in its cache, and at every worker at once after the call has returned. Prints how many were
allowed then, which must be none, and how long the call takes; the exit status is 1 if one was allowed.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path

import grpc
import httpx
from click.testing import CliRunner

from ext_authz.api.grpc_services import REVOCATIONS
from ext_authz.console.sessions import Sessions, SignedIn
from ext_authz.db.postgres import Pool
from ext_authz.decision import Principal
from ext_authz.gen.tollgate.envoy.v3.external_auth_pb2 import CheckResponse
from ext_authz.gen.tollgate.revocation.v1 import revocation_pb2
from ext_authz.identity.identity import Identity
from ext_authz.revocation.commands import revoke
from ext_authz.server.rpc import CHECK
from ext_authz.signals.stream import Stream, Streams
from ext_authz.tokens.cipher import Cipher
from tests.benchmarks.figures import Figure, show
from tests.e2e.api.world import ADMIN, KEYS, admin, running_console
from tests.e2e.reload.world import Caller, Serving, serving, token
from tests.postgres import running_postgres
from tests.requests import check_request
from tests.services import running_redis
from tests.signals import AUDIENCE as STREAM_AUDIENCE
from tests.signals import STREAM, event, session_subject
from tests.tokens import AUDIENCE
from tests.tokens import ISSUER as TOKENS_OF

ISSUER = "i0"
"""Its name in the policy of the replicas."""
AT_A_TIME = 16
CONNECTIONS = 4
"""To each replica: the kernel spreads them over its workers."""

Revoke = Callable[[str], Awaitable[None]]
Checks = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]


class Late:
    """What was seen."""

    def __init__(self, servers: Sequence[Serving]) -> None:
        channels = [
            grpc.aio.insecure_channel(
                f"127.0.0.1:{server.port}", options=(("grpc.use_local_subchannel_pool", 1), ("tollgate.number", number))
            )
            for server in servers
            for number in range(CONNECTIONS)
        ]
        self._checks: list[Checks] = [channel.unary_unary(CHECK) for channel in channels]
        self.late = 0
        self.refused_before = 0

    async def run(self, way: Revoke, names: Sequence[str]) -> list[float]:
        """Seconds that each call took."""
        waiting, took = list(names), list[float]()

        async def work() -> None:
            while waiting:
                took.append(await self._revoked(way, waiting.pop()))

        await asyncio.gather(*(work() for _ in range(AT_A_TIME)))
        return took

    async def _revoked(self, way: Revoke, name: str) -> float:
        message = check_request(token=token(jti=name, sid=name))
        self.refused_before += sum(not allowed for allowed in await self._asked(message))
        began = time.perf_counter()
        await way(name)
        took = time.perf_counter() - began
        self.late += sum(await self._asked(message))
        return took

    async def _asked(self, message: bytes) -> list[bool]:
        answers = await asyncio.gather(*(check(message, timeout=20) for check in self._checks))
        return [CheckResponse.FromString(answer).status.code == 0 for answer in answers]


def over_rest(client: httpx.AsyncClient) -> Revoke:
    async def way(name: str) -> None:
        body = {"kind": "token", "issuer": ISSUER, "value": name, "reason": "benchmark"}
        (await client.post("/tollgate/api/v1/revocations", json=body)).raise_for_status()

    return way


def over_grpc(channel: grpc.aio.Channel, credential: str) -> Revoke:
    call: Checks = channel.unary_unary(f"/{REVOCATIONS}/Revoke")

    async def way(name: str) -> None:
        target = revocation_pb2.Target(kind=revocation_pb2.KIND_TOKEN, issuer=ISSUER, value=name)
        message = revocation_pb2.RevokeRequest(target=target).SerializeToString()
        await call(message, metadata=(("authorization", f"Bearer {credential}"),))

    return way


async def by_page(url: str, database_url: str) -> Revoke:
    """As an administrator who signed in."""
    pool = Pool(database_url, timeout=5)
    await pool.open()
    try:
        sessions, claims = Sessions(pool, Cipher(KEYS)), administrator()
        cookie = await sessions.create(SignedIn(claims, "", ""), "127.0.0.1")
        session = await sessions.find(cookie)
    finally:
        await pool.close()
    assert session
    client = httpx.AsyncClient(base_url=url, cookies={"__Host-tollgate": cookie}, timeout=30)
    client.headers["sec-fetch-site"] = "same-origin"
    fields = {"kind": "token", "issuer": ISSUER, "reason": "benchmark", "days": "1", "csrf": session.csrf}

    async def way(name: str) -> None:
        answer = await client.post("/tollgate/admin/revoke", data={**fields, "value": name})
        assert answer.status_code == httpx.codes.SEE_OTHER, answer.text

    return way


def administrator() -> Identity:
    """Who signed in an hour ago, with a session that is not to be refreshed."""
    now = time.time()
    return Identity(
        principal=Principal(TOKENS_OF, ADMIN, "tollgate-console", ("boss",), "admins-token"),
        issuer_name=ISSUER,
        session="admins-session",
        issued_at=int(now) - 3600,
        expires_at=now + 36_000,
        audiences=(AUDIENCE,),
        scopes=frozenset(),
        roles=frozenset({"boss"}),
    )


async def by_pushed_event(client: httpx.AsyncClient, database_url: str) -> Revoke:
    """As the transmitter of a stream that is pushed (RFC 8935)."""
    pool, secret = Pool(database_url, timeout=5), "Bearer of-the-stream"
    await pool.open()
    try:
        stream = Stream(
            issuer=ISSUER,
            id=STREAM,
            audience=(STREAM_AUDIENCE,),
            push="https://x",
            authorization=sha256(secret.encode()).hexdigest(),
        )
        await Streams(pool, ISSUER).keep(stream)
    finally:
        await pool.close()
    headers = {"authorization": secret, "content-type": "application/secevent+jwt"}

    async def way(name: str) -> None:
        content = event({"sub_id": session_subject(name)})
        answer = await client.post("/tollgate/signals/events", content=content, headers=headers)
        assert answer.status_code == httpx.codes.ACCEPTED, answer.text

    return way


def by_command(environ: dict[str, str]) -> Revoke:
    def run(name: str) -> None:
        result = CliRunner().invoke(revoke, ["token", name, "--issuer", ISSUER], env=environ)
        assert result.exit_code == 0, result.output

    lock = asyncio.Lock()  # commands in one process share its standard output

    async def way(name: str) -> None:
        async with lock:
            await asyncio.to_thread(run, name)

    return way


async def measured(servers: Sequence[Serving], ports: tuple[int, int], environ: dict[str, str], many: int) -> bool:
    late, credential, figures = Late(servers), admin(exp=int(time.time()) + 3600), []
    headers = {"authorization": f"Bearer {credential}"}
    async with (
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{ports[0]}", headers=headers, timeout=30) as client,
        grpc.aio.insecure_channel(f"127.0.0.1:{ports[1]}") as channel,
    ):
        ways = {
            "REST": (over_rest(client), many // 2),
            "gRPC": (over_grpc(channel, credential), many - many // 2),
            "command": (by_command(environ), many // 50),
            "page": (await by_page(str(client.base_url), environ["TOLLGATE_DATABASE_URL"]), many // 50),
            "pushed event": (await by_pushed_event(client, environ["TOLLGATE_DATABASE_URL"]), many // 50),
        }
        for number, (name, (way, count)) in enumerate(ways.items()):
            half = count // 2
            took = await late.run(way, [f"{name}-{each}" for each in range(half)])
            await asyncio.to_thread(_reload, servers, number)
            took += await late.run(way, [f"{name}-{each}" for each in range(half, count)])
            percentiles = statistics.quantiles(took, n=100)
            figures += [
                Figure(f"{name}: {count} revocations, p50 of the call", percentiles[49] * 1000, "ms"),
                Figure(f"{name}: p99", percentiles[98] * 1000, "ms"),
            ]
    figures += [
        Figure("refused although not revoked yet", late.refused_before, ""),
        Figure("allowed after the call had returned", late.late, ""),
    ]
    show("revoked in time", figures)
    return late.late == 0 and late.refused_before == 0


def _reload(servers: Sequence[Serving], number: int) -> None:
    """A new generation of workers, while the former one drains."""
    for server in servers:
        server.replace(rate=2_000_000 + number)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--revocations", type=int, default=10_000)
    many = parser.parse_args().revocations
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="late-")))
        redis = stack.enter_context(running_redis(directory, "--appendonly", "yes"))
        database_url = stack.enter_context(running_postgres()).url
        ports = stack.enter_context(running_console(directory, database_url, redis.url, ISSUER))
        servers = []
        for name in ("first", "second"):
            (directory / name).mkdir()
            servers.append(stack.enter_context(serving(directory / name, redis.url, database_url, workers=2)))
        for server in servers:
            stack.enter_context(Caller(server, token(jti=f"load-{server.port}")))
        environ = {"TOLLGATE_DATABASE_URL": database_url, "TOLLGATE_REDIS_URL": redis.url}
        environ["TOLLGATE_POLICY"] = str(directory / "first" / "policy.yaml")
        held = asyncio.run(measured(servers, ports, environ, many))
    sys.exit(not held)


if __name__ == "__main__":
    main()
