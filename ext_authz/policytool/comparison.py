"""Two policies on their way through the same recorded decisions: where they part."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import AsyncIterable, Callable
from datetime import datetime

from msgspec import Struct, field

from ext_authz.ledger.decisions import RecordedDecision
from ext_authz.policy.model import Policy
from ext_authz.policytool.replay import Replay, Verdict
from ext_authz.policytool.unrecorded import NotRecorded

_EXAMPLES = 3
_TICK = 500

Change = tuple[str, str]
"""The old verdict and the new."""


class Comparison(Struct):
    """What was found so far."""

    total: int = 0
    judged: int = 0
    lost: int = 0
    """Were let through by the old policy, and are refused by the new."""
    gained: int = 0
    """The other way round."""
    recoded: int = 0
    """Neither, and yet the reason or its code is another."""
    otherwise: int = 0
    """The old policy itself does not say today what was recorded."""
    not_judged: Counter[str] = field(default_factory=Counter)
    """By what was not recorded."""
    changes: Counter[Change] = field(default_factory=Counter)
    routes: Counter[tuple[str, Change]] = field(default_factory=Counter)
    users: Counter[tuple[str, Change]] = field(default_factory=Counter)
    examples: defaultdict[Change, list[str]] = field(default_factory=lambda: defaultdict(list))
    """The first decision ids."""
    first: datetime | None = None
    last: datetime | None = None

    @property
    def changed(self) -> int:
        return self.lost + self.gained + self.recoded


async def compare(
    old: Policy, new: Policy, decisions: AsyncIterable[RecordedDecision], tick: Callable[[int], object]
) -> Comparison:
    """Both policies count their limits by themselves; the decisions come in the order of time.

    `tick`: told from time to time how many more were compared.
    """
    found = Comparison()
    before, after = Replay(old, old), Replay(new, old)
    async for event in decisions:
        found.total += 1
        if found.total % _TICK == 0:
            tick(_TICK)
        found.first, found.last = found.first or event.occurred_at, event.occurred_at
        try:
            pair = await before.verdict(event), await after.verdict(event)
        except NotRecorded as missing:
            found.not_judged[str(missing)] += 1
        else:
            _note(found, event, *pair)
    return found


def _note(found: Comparison, event: RecordedDecision, old: Verdict, new: Verdict) -> None:
    found.judged += 1
    found.otherwise += old.reason != event.reason
    if old == new:
        return
    change = str(old), str(new)
    found.lost += old.allows and not new.allows
    found.gained += new.allows and not old.allows
    found.recoded += old.allows == new.allows
    found.changes[change] += 1
    found.routes[event.route or "(no route)", change] += 1
    found.users[event.subject or "(nobody)", change] += 1
    if len(found.examples[change]) < _EXAMPLES:
        found.examples[change].append(str(event.decision_id))
