"""An issuer that is slow, or hangs, while somebody floods: good callers are no flood, and forged tokens are one.

All come from one address, as behind a NAT.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from msgspec import Struct

from tests import tokens
from tests.e2e.reload.world import Serving, policy, serving, token
from tests.http_server import answering
from tests.services import wait_for

OK, FLOOD, UNKNOWN, AWAY = 0, 8, 16, 14
MANY = 100

BEARING = """
flood: {rate: 1/second, burst: 5}
failure: {jwks: local, grace: 10m}
"""
QUICK = "jwks_refresh: 1s, jwks_cooldown: 1s, jwks_max_stale: 1s, leeway"

Answer = Callable[["_Handler"], None]


class Issuer:
    """Publishes its keys as it is told to."""

    def __init__(self) -> None:
        self.answer: Answer = publish
        self.over = threading.Event()

    @contextmanager
    def running(self) -> Iterator[str]:
        with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self)) as server, answering(server):
            yield f"http://127.0.0.1:{server.server_port}/keys"
            self.over.set()


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, issuer: Issuer, *socket: object) -> None:
        self.issuer = issuer
        super().__init__(*socket)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        self.issuer.answer(self)

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


def publish(handler: _Handler) -> None:
    document = tokens.jwks(tokens.RSA)
    handler.send_response(200)
    handler.send_header("content-length", f"{len(document)}")
    handler.end_headers()
    handler.wfile.write(document)


def hang(handler: _Handler) -> None:
    handler.issuer.over.wait()


def trickle(handler: _Handler) -> None:
    """The first bytes at once, the others never."""
    handler.send_response(200)
    handler.send_header("content-length", "100000")
    handler.end_headers()
    handler.wfile.write(b'{"keys":[')
    handler.issuer.over.wait()


def fail(handler: _Handler) -> None:
    handler.send_error(500)


class World(Struct):
    server: Serving
    issuer: Issuer

    def codes(self, token: str, times: int) -> Counter[int]:
        return Counter(self.server.check(token).status.code for _ in range(times))

    def at_once(self, each: list[str]) -> Counter[int]:
        """Every token once, all at the same time."""
        with ThreadPoolExecutor(len(each)) as threads:
            return Counter(answer.status.code for answer in threads.map(self.server.check, each))

    def is_away(self) -> bool:
        """No key set is young enough to be trusted."""
        return "jwks:i0" in self.server.get("/readyz").json().get("degraded", {})


@pytest.fixture
def world(tmp_path: Path, redis_url: str, database_url: str) -> Iterator[World]:
    issuer = Issuer()

    def prepare(_jwks: str) -> None:
        (tmp_path / "policy.yaml").write_text(policy(url).replace("leeway", QUICK) + BEARING)

    with (
        issuer.running() as url,
        serving(tmp_path, redis_url, database_url, prepare=prepare, jwks_timeout=0.5) as server,
    ):
        yield World(server, issuer)


def forged(number: int) -> str:
    """As an issuer's, but for who signed it: under the id of its key, or under one that nobody knows."""
    thief = tokens.TestKey("rsa-next", "RS256", key_id=tokens.RSA.key_id if number % 2 else f"made-up-{number}")
    return tokens.mint({"jti": f"{number}"}, key=thief)


@pytest.mark.parametrize("answer", [hang, trickle, fail], ids=lambda answer: answer.__name__)
def test_known_callers_are_no_flood_while_keys_cannot_be_had_and_forgers_are(world: World, answer: Answer) -> None:
    known = [token(sub=f"u{number}") for number in range(5)]
    assert world.at_once(known) == {OK: 5}
    world.issuer.answer = answer
    wait_for(world.is_away)
    assert world.at_once([token(sub=f"new-{number}") for number in range(20)]) == {OK: 20}, "the old keys are accepted"

    with ThreadPoolExecutor(8) as forgers:
        refused = [forgers.submit(world.server.check, forged(number)) for number in range(MANY)]
        good = sum((world.codes(caller, 1) for caller in known * (MANY // 5)), Counter())
        codes = Counter(each.result().status.code for each in refused)
    assert good == {OK: MANY}
    assert set(codes) <= {FLOOD, UNKNOWN, AWAY}
    assert codes[FLOOD] > MANY / 2
