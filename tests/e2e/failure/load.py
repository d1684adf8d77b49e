"""Callers who never stop, with tokens of the identity provider and of our own in turn, and what they were answered."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import cycle, takewhile

from msgspec import Struct

from ext_authz.tokens.model import Actor, Issued
from tests.e2e.reload.world import Serving, token
from tests.e2e.tokens.issuing import Issuing
from tests.services import wait_for

OK, EXHAUSTED, UNAVAILABLE, REFUSED = 0, 8, 14, 16
KEYCLOAK, OWN = "keycloak", "own"


class Person(Struct, frozen=True):
    """One user of the issuer `i0`, with a token of each kind."""

    actor: Actor
    issued: Issued
    keycloak: str

    @property
    def own(self) -> str:
        return self.issued.token

    @property
    def tokens(self) -> dict[str, str]:
        return {KEYCLOAK: self.keycloak, OWN: self.own}


def person(issuing: Issuing, name: str, session: str = "") -> Person:
    """The tokens are of before any revocation of the tests, also on a slow machine: one issued after it is good."""
    actor = issuing.signs_in(name, "infer")
    keycloak = token(sub=name, jti=f"onrtac:{name}", sid=session or f"of-{name}", iat=int(time.time()) - 60)
    return Person(actor, issuing.makes(actor), keycloak)


class Answer(Struct, frozen=True):
    asked_at: float
    seconds: float
    code: int
    decision: str
    kind: str


class Caller(threading.Thread):
    """Asks one authorizer for one user again and again."""

    def __init__(self, server: Serving, user: str, tokens: Mapping[str, str]) -> None:
        super().__init__()
        self.user = user
        self.kinds = tuple(tokens)
        self.answers: list[Answer] = []
        self._server = server
        self._tokens = tokens
        self._over = threading.Event()

    def run(self) -> None:
        for kind in cycle(self.kinds):
            if self._over.wait(0.005):  # leaves the servers some of the processor
                return
            asked_at = time.monotonic()
            answer = self._server.check(self._tokens[kind])
            decision = answer.dynamic_metadata.fields["decision_id"].string_value
            self.answers.append(Answer(asked_at, time.monotonic() - asked_at, answer.status.code, decision, kind))

    def stop(self) -> None:
        self._over.set()
        self.join()

    def codes(self, since: float = 0, kind: str = "") -> Counter[int]:
        asked = takewhile(lambda answer: answer.asked_at >= since, reversed(self.answers))
        return Counter(answer.code for answer in asked if kind in ("", answer.kind))

    def often(self, code: int, since: float) -> int:
        """How often each of its tokens got this answer, at least."""
        return min(self.codes(since, kind)[code] for kind in self.kinds)


@contextmanager
def calling(servers: Sequence[Serving], people: Mapping[str, Mapping[str, str]]) -> Iterator[list[Caller]]:
    """Every user at every authorizer, with these tokens by their kind."""
    callers = [Caller(server, user, tokens) for server in servers for user, tokens in people.items()]
    with ExitStack() as started:
        for caller in callers:
            caller.start()
            started.callback(caller.stop)
        wait_for(lambda: all(len(caller.answers) >= len(caller.kinds) for caller in callers))
        yield callers


def of(callers: Sequence[Caller], *users: str) -> list[Caller]:
    return [caller for caller in callers if caller.user in users]


def until(callers: Sequence[Caller], code: int, since: float, times: int = 1) -> None:
    """Each token of each of them was answered so, that often."""
    wait_for(lambda: all(caller.often(code, since) >= times for caller in callers), 60)


def ensure_refused(callers: Sequence[Caller], since: float = 0) -> None:
    for caller in callers:
        assert set(caller.codes(since)) <= {REFUSED, UNAVAILABLE}, (caller.user, caller.codes(since))
        assert caller.often(REFUSED, since), caller.user
