"""Makes a ledger: what the demo's policy really decides over a day of made-up calls, for `tollgate policy diff`.

python -m tests.benchmarks.ledger 100000 ledger.jsonl
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from devstack import stack
from ext_authz.decision import Request
from ext_authz.ledger.event import encode
from ext_authz.ledger.queries import stored_event
from ext_authz.ledger.stream import Row, StreamEntry, parse
from ext_authz.policy.load import load_policy
from ext_authz.policytool.callers import IdentityDocument, given_claims
from ext_authz.policytool.simulator import Simulator

ENVIRONMENT = {
    "TOLLGATE_ISSUER": "https://id.example/realms/ml",
    "TOLLGATE_PUBLIC_URL": "https://models.example",
    "TOLLGATE_CONSOLE_PORT": "9010",
}
DEMO = Path(str(stack.__file__)).parent / "policy.yaml"

_DAY, _MIDNIGHT = 86_400, 1_800_000_000.0
_USERS = 500
_TOKEN_LIFE = 240
"""Seconds after which a user comes with a new token."""


class Ledger:
    """A day of checks, the same every time."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._random = random.Random(7)
        self._simulator = Simulator(load_policy(DEMO, ENVIRONMENT), _MIDNIGHT)
        self._tokens: dict[int, tuple[float, str]] = {}

    async def lines(self) -> AsyncIterator[bytes]:
        """One JSON object per decision, in the order of time."""
        for _ in range(self._number):
            self._simulator.clock.travel(round(self._random.expovariate(self._number / _DAY), 3))
            await self._simulator.decide(self._request())
            for event, outcome in self._simulator.counters.ledger:
                yield self._line(event, outcome)
            self._simulator.counters.ledger.clear()

    def _request(self) -> Request:
        user = min(int(self._random.paretovariate(0.7)), _USERS)
        model = self._random.choice(("sentiment", "sentiment", "cancer", "other"))
        authorization = () if self._random.random() < 0.01 else (self._token(user),)
        host, source = "models.example", f"10.0.{user // 256}.{user % 256}"
        if self._random.random() < 0.3:
            path, kind = "/inference.GRPCInferenceService/ModelInfer", "application/grpc"
            return Request("POST", host, path, "", authorization, kind, source=source, models=(model,))
        method, rest = self._random.choice((("POST", "/infer"), ("POST", "/infer"), ("GET", ""), ("GET", "/ready")))
        return Request(method, host, f"/v2/models/{model}{rest}", "", authorization, source=source)

    def _token(self, user: int) -> str:
        now = self._simulator.clock.now()
        until, token = self._tokens.get(user, (0.0, ""))
        if now >= until:
            roles = ("infer", f"team-{user % 7}") if user % 10 else (f"team-{user % 7}",)
            identity = IdentityDocument(user=f"user-{user}", client=f"app-{user % 5}", roles=roles)
            claims = {**given_claims(identity, self._simulator.policy.issuers, now), "jti": f"{user}-{now:.0f}"}
            until, token = self._tokens[user] = now + _TOKEN_LIFE, self._simulator.callers.present(claims)
        return token

    def _line(self, event: bytes, outcome: int) -> bytes:
        """As the usage worker and `tollgate usage export` write it."""
        entry = StreamEntry(f"{self._simulator.clock.now() * 1000:.0f}-0", {b"e": event, b"o": b"%d" % outcome})
        row = parse(entry)
        if not isinstance(row, Row):
            raise TypeError(row.reason)
        return encode(stored_event(row.cells)) + b"\n"


async def write(number: int, path: Path) -> None:
    """A ledger of so many decisions."""
    with path.open("wb") as file:
        async for line in Ledger(number).lines():
            file.write(line)


if __name__ == "__main__":
    asyncio.run(write(int(sys.argv[1]), Path(sys.argv[2])))
