"""What a timed context has more than others."""

from __future__ import annotations

from ext_authz.phases.context import TimedContext


def test_a_timed_context_records_when_each_phase_begins() -> None:
    context = TimedContext(marks=[("read", 0.0)])
    context.phase = "route"
    assert context.phase == "route"
    (_, first), (phase, begin) = context.marks
    assert (phase, first < begin) == ("route", True)
