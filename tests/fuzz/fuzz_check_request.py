"""Any bytes as a CheckRequest: never an exception, never an empty answer, and no bug behind a polite refusal."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from functools import cache
from random import Random

from ext_authz.check import Check
from ext_authz.decision import DecisionIds
from ext_authz.edge.authorizer import Authorizer
from ext_authz.edge.response import Responder
from ext_authz.gen.tollgate.envoy.v3.external_auth_pb2 import CheckResponse
from ext_authz.identity.authenticator import TokenAuthenticator
from ext_authz.policy.issuers import Issuer
from ext_authz.policy.model import Policy
from ext_authz.settlement.local import MemorySettlement
from ext_authz.settlement.model import SettleRequest, SettleResult
from tests import tokens
from tests.fakes import FakeClock, FakeJwks
from tests.fuzz.bounded import within
from tests.fuzz.choices import Choices
from tests.fuzz.fuzz_match import a_model, a_request
from tests.fuzz.policies import policies
from tests.requests import check_request

SECONDS = 1.0
_MADE = 0x80
"""From this first byte on, the rest says how to make a request; below, the rest is the message."""

_NOBODY = "-"
"""What the authorizer writes over a forged x-user-id where no caller was authenticated."""


class _Bugs(logging.Handler):
    """Keeps what is logged as an error: the edge hides it from callers, not from here."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(self.format(record) + repr(record.__dict__.get("error", "")))


class _Settling:
    """Counts anew for every request; some are revoked, sometimes nobody answers."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.mood = 0
        self.begin(0)

    def begin(self, mood: int) -> None:
        self.mood = mood
        self._memory = MemorySettlement(self._clock)
        self._memory.down = "redis" if mood == 1 else ""
        self._memory.complete = mood != 2

    async def settle(self, ask: SettleRequest) -> SettleResult:
        if self.mood == 3:
            self._memory.revocations |= {entry: ask.issued_at for entry in ask.revocation if entry}
        return await self._memory.settle(ask)

    def record(self, event: bytes) -> None:
        self._memory.record(event)


class _World:
    """One policy behind a whole authorizer, without a network."""

    def __init__(self, policy: Policy) -> None:
        clock = FakeClock()
        self.policy = policy
        self.settling = _Settling(clock)
        authenticator = TokenAuthenticator(policy.issuers, fetch=FakeJwks(tokens.RSA), clock=clock, cache_size=100)
        check = Check(policy, authenticator, self.settling, DecisionIds(clock))
        self.authorizer = Authorizer(check, Responder(policy.realm, policy.responses, policy.hash))
        self.tokens = [token for issuer in policy.issuers for token in _tokens(issuer, clock.now())]


def target(data: bytes) -> None:
    """Raises where the authorizer does what it must not."""
    choices = Choices(data)
    made, world, mood = choices.byte() >= _MADE, choices.of(_worlds()), choices.below(5)
    message = _message(choices, world) if made else data[3:]
    world.settling.begin(mood)
    bugs = _bugs()
    bugs.seen.clear()
    with within(SECONDS):
        answer = _runner().run(world.authorizer.check(message))
    assert not bugs.seen, bugs.seen[0]
    _ensure_an_answer(answer, revoked=mood == 3)


def _ensure_an_answer(answer: bytes, *, revoked: bool) -> None:
    read = CheckResponse.FromString(answer)
    kind = read.WhichOneof("http_response")
    assert kind, "an answer without a kind means allow to Envoy"
    assert (kind == "ok_response") == (read.status.code == 0)
    if kind == "ok_response":
        callers = [option.header.value for option in read.ok_response.headers if option.header.key == "x-user-id"]
        assert not revoked or callers == [_NOBODY], "who is revoked gets no further than public routes"


def _message(choices: Choices, world: _World) -> bytes:
    request = a_request(choices)
    token = choices.of(world.tokens) if choices.below(5) else None
    models = [a_model(choices) for _ in range(choices.below(3))]
    headers = [(name, value) for name, value in request.headers.items() if name]
    return check_request(
        request.method,
        request.path + ("?" + request.query if request.query else ""),
        host=request.host,
        token=(token or "")[choices.below(9) :] + choices.text(6) if choices.one_in(8) else token,
        headers=headers,
        content_type=request.content_type,
        source=request.source,
        models=models or None,
        versions=[choices.of(("1", "", "01", "3")) for _ in range(choices.below(3))],
        raw_headers=choices.one_in(3),
    )


def _tokens(issuer: Issuer, now: float) -> Iterator[str]:
    """Of callers with everything, with little, with too much, and of some that are none."""
    base = {
        "iss": issuer.issuer,
        "aud": sorted(issuer.audiences),
        "azp": min(issuer.clients, default="web-app"),
        "groups": ["/teams/vision", "hr", "tenant-acme"],
        "tenant": "acme",
        "plan": "silver",
        "department": "risk",
        "scope": "models.call models.read",
    }
    roles = ["infer", "tester", "customer", "reader", "writer", "analyst", "platform", "models-admin", "partner-infer"]
    everything = base | {"realm_access": {"roles": roles}}
    for client in ("web-app", "night-batch", "triage-service"):
        yield tokens.mint(everything | {"azp": client}, now=now)
    yield tokens.mint(base, now=now)
    yield tokens.mint(everything | {"tenant": 2**70, "plan": ["a", 1], "department": {"a": "b"}, "scope": 5}, now=now)
    yield tokens.mint(everything | {"sub": "a" * 300}, now=now)
    yield tokens.mint(everything | {"exp": 1}, now=now)
    yield tokens.mint(everything | {"iss": "https://evil.example"}, now=now)
    yield tokens.mint(everything, headers={"alg": "none"}, now=now)


@cache
def _worlds() -> tuple[_World, ...]:
    return tuple(map(_World, policies()))


@cache
def _runner() -> asyncio.Runner:
    return asyncio.Runner()


@cache
def _bugs() -> _Bugs:
    bugs = _Bugs()
    logging.getLogger("ext_authz").addHandler(bugs)
    return bugs


def seeds() -> Iterator[bytes]:
    """Good messages as they are, and bytes from which to make some."""
    for index, world in enumerate(_worlds()):
        for token in (world.tokens[0], None):
            for path in ("/v2/models/sentiment/infer", "/v2/health/live"):
                yield bytes([0, index, 0]) + check_request(path=path, token=token)
    random = Random(20261120)  # the same corpus every time
    for index in range(len(_worlds())):
        for _ in range(4):
            yield bytes([_MADE, index]) + random.randbytes(90)


def words() -> Iterator[str]:
    """What a mutation may put in."""
    yield from ("authorization", "Bearer ", "access_token=", "x-tenant", "application/grpc", "content-type", ":path")
