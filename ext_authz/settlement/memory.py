"""Settlement in memory: `tollgate policy test` and `diff` count with it, and the tests. One suite holds it to Redis."""

from __future__ import annotations

from ext_authz.clock import Clock
from ext_authz.errors import Unavailable
from ext_authz.revocation.entry import NEVER, Kind, revoked_by
from ext_authz.settlement.fallback import RevokedInPostgres
from ext_authz.settlement.local import LocalLimits
from ext_authz.settlement.model import Outcome, Settlement, SettleRequest, SettleResult


class MemorySettlement(Settlement):
    """Settles as Redis does, one check at a time, by the clock it is given. Its user reads and changes its fields."""

    def __init__(
        self, clock: Clock, *, ledger_max: int = 1000, revoked_in_postgres: RevokedInPostgres | None = None
    ) -> None:
        self.down = ""
        """Name of the dependency that does not answer."""
        self.complete = True
        self.revocations: dict[str, float] = {}
        """Per id the second up to which tokens are revoked, as `revoked_until`."""
        self.ledger: list[tuple[bytes, int]] = []
        """Events with their outcomes."""
        self.dropped = 0
        self._ledger_max = ledger_max
        self._revoked_in_postgres = revoked_in_postgres
        self._limits = LocalLimits(clock)

    async def settle(self, ask: SettleRequest) -> SettleResult:
        if self.down:
            raise Unavailable(self.down)
        if len(self.ledger) >= self._ledger_max:
            raise Unavailable("ledger")
        kind = await self._revoked_by(ask)
        answer = SettleResult(Outcome.REVOKED, revoked_by=kind) if kind else self._limits.take(ask.quota_requests)
        self.ledger.append((ask.event, answer.recorded))
        return answer

    def record(self, event: bytes) -> None:
        if len(self.ledger) < 0.9 * self._ledger_max:
            self.ledger.append((event, Outcome.OK))
        else:
            self.dropped += 1

    async def _revoked_by(self, ask: SettleRequest) -> Kind | None:
        if any(ask.revocation) and not self.complete:
            if self._revoked_in_postgres is None:
                raise Unavailable("postgres")
            return (await self._revoked_in_postgres([ask]))[0]
        return self.revokes(ask.revocation, ask.issued_at)

    def revokes(self, ids: tuple[str, str, str, str, str], issued_at: int) -> Kind | None:
        """What the revocations that stand here say of a token."""
        return revoked_by(ids, issued_at, lambda entry: self.revocations.get(entry, NEVER))
