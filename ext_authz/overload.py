"""Whether there is more to do than can be done in time; then a part of the calls is refused before they cost much.

What an event loop cannot do at once waits in it: every turn of the loop lasts longer, and a check takes a few turns.
One long turn is nothing: the collector ran, the process was stopped for a while. Turns that stay long are a queue that
grows. So the turns are measured, by the lateness of a timer, and from them follows which part is refused.
"""

from __future__ import annotations

import asyncio
import logging
from time import monotonic

from ext_authz.observability.metrics import OVERLOADED

TICK = 0.005
STANDING_TURNS, STANDING = 3, 0.1
"""Long turns one after the other, and their seconds, that make a standing queue."""
CALM = 0.5
"""Seconds without refusals after which it has gone."""
QUIET = 10.0
"""Seconds without refusals after which the next ones are worth a line in the log."""
WISHED = 0.06
"""Share of the settlement's timeout by which turns may be late. With no queue at all the processor would stand still
now and then."""
LONGEST = 0.2
"""Likewise: what comes in a turn that is so late would not be done in time."""
AT_ONCE, PER_SECOND = 0.2, 1.0
"""Of all calls, for every `WISHED` by which turns are too late: refused now, and more with every second that it lasts
(a PI controller; the tests drive it with made-up servers)."""
IDLE = 1.0
"""Seconds without a check after which nobody looks any more."""
_LONGEST_STEP, _WORST = 0.05, 3.0
"""What one turn can teach at most, in seconds and as an excess: after a stop of seconds the load may be small."""
_MOST = 0.98
"""Never all: what passes shows how things are."""

_refused = OVERLOADED.labels("door")
logger = logging.getLogger(__name__)


class Turns:
    """Learns from the turns of one event loop which part of the calls is to be refused."""

    def __init__(self, timeout: float) -> None:
        self.refused_part = 0.0
        self._wished, self._longest, self._timeout = timeout * WISHED, timeout * LONGEST, timeout
        self._long = 0
        self._long_since = 0.0
        self._standing = False
        self._learnt = 0.0
        self._refused_at = -QUIET

    def look(self, now: float, late: float, passed: float) -> None:
        """At the start of a turn, `passed` seconds after the last: a timer is `late` by so many seconds."""
        self._long = self._long + 1 if late > self._wished else 0
        if self._long == 1:
            self._long_since = now
        if late > self._timeout or (self._long >= STANDING_TURNS and now - self._long_since >= STANDING):
            self._standing = True
        if self._standing:
            self._control(late, min(passed, _LONGEST_STEP))
            self._rest(now)

    def _control(self, late: float, passed: float) -> None:
        excess = min(late / self._wished - 1, _WORST)
        self._learnt = _bounded(self._learnt + PER_SECOND * excess * passed)
        self.refused_part = _MOST if late > self._longest else _bounded(self._learnt + AT_ONCE * excess)

    def _rest(self, now: float) -> None:
        if self.refused_part:
            if now - self._refused_at > QUIET:
                logger.warning("overloaded: refusing what cannot be done in time")
            self._refused_at = now
        elif now - self._refused_at >= CALM:
            self._standing = False


class Overload:
    """For one event loop. Its timer runs only while checks come."""

    def __init__(self, timeout: float) -> None:
        self._turns = Turns(timeout)
        self._timer: asyncio.TimerHandle | None = None
        self._ticked_at = self._due_at = 0.0
        self._asked = False
        self._idle = 0.0
        self._owed = 0.0
        """Refusals, so that every part of the calls comes out evenly."""

    def refuses(self) -> bool:
        """Asked once for every check, before anything is done for it."""
        self._asked = True
        if self._timer is None:
            self._ticked_at, self._idle = monotonic(), 0.0
            self._again()
        self._owed += self._turns.refused_part
        if self._owed < 1:
            return False
        self._owed -= 1
        _refused.inc()
        return True

    def _tick(self) -> None:
        now = monotonic()
        self._turns.look(now, now - self._due_at, now - self._ticked_at)
        self._ticked_at = now
        self._idle = 0.0 if self._asked else self._idle + TICK
        self._asked = False
        if self._idle < IDLE or self._turns.refused_part:
            self._again()
        else:
            self._timer = None

    def _again(self) -> None:
        self._due_at = monotonic() + TICK
        self._timer = asyncio.get_running_loop().call_later(TICK, self._tick)


def _bounded(part: float) -> float:
    return min(_MOST, max(0.0, part))
