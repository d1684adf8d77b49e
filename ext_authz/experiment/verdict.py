"""The rule: promote, hold or roll back, and why.

Is the new variant worse by more than is tolerated? Surely: roll back. Surely not: promote. Else, hold.
docs/adr/0046-judging-a-canary.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from math import ceil, isfinite

from msgspec import Struct

from ext_authz.experiment.evidence import QUANTILES, Evidence
from ext_authz.experiment.intervals import calls_needed, difference, wilson, z_of

JUDGED = 0.95
"""The quantile of latency that is judged."""
STEPS = (1, 5, 10, 25, 50, 100)


class Decision(StrEnum):
    """What to do with the weight."""

    PROMOTE = "promote"
    HOLD = "hold"
    ROLL_BACK = "roll back"


class Rule(Struct, frozen=True):
    """What is tolerated."""

    confidence: float = 0.99
    """Of each interval. With one look at each of six steps, a worse variant passes all by chance in 3 of 100 cases."""
    tolerance: float = 0.01
    """The rise of the share of errors that may be."""
    slower: float = 1.25
    """The factor by which the 95th percentile of latency may grow."""
    callers: int = 10
    """Of the new variant, at least; and under the present policy; and, with `agreement`, of copies."""
    agreement: float = 0.0
    """Share of copies with the label of the old variant, at least; 0: whatever it is."""
    power: float = 0.8
    """Chance of a version that is not worse to pass, with the calls that are said to be needed."""


class Finding(Struct, frozen=True):
    """One of several reasons."""

    decision: Decision
    why: str


class Verdict(Struct, frozen=True):
    """Of all findings the worst."""

    decision: Decision
    findings: tuple[Finding, ...]
    needed: int
    """Calls of the new variant to be sure that errors rose by what is tolerated at most, if they did not rise."""
    missing: int
    """So many of them are missing."""

    @property
    def why(self) -> list[str]:
        return [finding.why for finding in self.findings if finding.decision is self.decision]


def judge(evidence: Evidence, rule: Rule = Rule()) -> Verdict:  # noqa: B008 - frozen
    needed = _needed(evidence, rule)
    missing = max(0, needed - evidence.candidate.errors.total)
    found = [*_callers(evidence, rule), _errors(evidence, rule, missing), _latency(evidence, rule)]
    found += [_agreement(evidence, rule)] if rule.agreement else []
    worst = next(
        decision
        for decision in (Decision.ROLL_BACK, Decision.HOLD, Decision.PROMOTE)
        if any(finding.decision is decision for finding in found)
    )
    return Verdict(worst, tuple(found), needed, missing)


def next_weight(weight: int, decision: Decision, steps: Sequence[int] = STEPS) -> int:
    """Of the new variant."""
    if decision is Decision.PROMOTE:
        return next((step for step in sorted(steps) if step > weight), weight)
    return 0 if decision is Decision.ROLL_BACK else weight


def _needed(evidence: Evidence, rule: Rule) -> int:
    """As the calls of both variants grow alike, by the design effect that the errors have so far."""
    control, candidate = evidence.control, evidence.candidate
    sizes = control.errors.total, candidate.errors.total
    others = sizes[0] / sizes[1] if all(sizes) else 1.0
    independent = calls_needed(control.errors.value, rule.tolerance, others, z_of(rule.confidence), rule.power)
    return ceil(independent * max(control.errors.spread, candidate.errors.spread))


def _callers(evidence: Evidence, rule: Rule) -> Iterator[Finding]:
    found = evidence.candidate.callers
    if found < rule.callers:
        what = f"{evidence.candidate.name} has {_number(found, 'caller')}, and {rule.callers} are asked for"
        yield Finding(Decision.HOLD, what)
    elif evidence.candidate.present < rule.callers:
        # Else a command that is repeated would go through all steps with what was recorded at the first one.
        what = f"{_number(evidence.candidate.present, 'caller')} of {evidence.candidate.name} called under this policy"
        yield Finding(Decision.HOLD, f"{what}, and {rule.callers} are asked for: the weights were not tried yet")


def _errors(evidence: Evidence, rule: Rule, missing: int) -> Finding:
    one, other = evidence.candidate.errors, evidence.control.errors
    if not one.total or not other.total:
        return Finding(Decision.HOLD, "Envoy's access log has no answers of both variants: errors are not known")
    rise = difference(one, other, z_of(rule.confidence))
    most = points(rule.tolerance)
    if rise.low > rule.tolerance:
        why = f"errors rose by {points(rise.low)} at least, and {most} are tolerated"
        return Finding(Decision.ROLL_BACK, why)
    if rise.high > rule.tolerance:
        more = f"{_number(missing, 'call')} more should tell" if missing else "there are enough calls to see it"
        why = f"errors may have risen by {points(rise.high)}, and {most} are tolerated: {more}"
        return Finding(Decision.HOLD, why)
    return Finding(Decision.PROMOTE, f"errors rose by {points(rise.high)} at most, and {most} are tolerated")


def _latency(evidence: Evidence, rule: Rule) -> Finding:
    at = QUANTILES.index(JUDGED)
    if not evidence.candidate.latency or not evidence.control.latency:
        return Finding(Decision.HOLD, "there are no answers without an error of both variants: latency is not known")
    one, other = evidence.candidate.latency[at], evidence.control.latency[at]
    most = f"a factor of {rule.slower:g} is tolerated"
    if one.low > other.high * rule.slower:
        why = f"p95 rose from {other.high:.1f} ms at most to {one.low:.1f} ms at least, and {most}"
        return Finding(Decision.ROLL_BACK, why)
    if one.high > other.low * rule.slower:
        to = f"to {one.high:.1f} ms" if isfinite(one.high) else "to whatever, by so few independent calls"
        return Finding(Decision.HOLD, f"p95 may have risen from {other.low:.1f} ms {to}, and {most}")
    why = f"p95 rose from {other.low:.1f} ms at least to {one.high:.1f} ms at most, and {most}"
    return Finding(Decision.PROMOTE, why)


def _agreement(evidence: Evidence, rule: Rule) -> Finding:
    alike, least = evidence.agreement, percent(rule.agreement)
    if evidence.copied < rule.callers:
        what = f"copies of {_number(evidence.copied, 'caller')} were compared, and {rule.callers} are asked for"
        return Finding(Decision.HOLD, what)
    found = wilson(alike, z_of(rule.confidence))
    if found.high < rule.agreement:
        why = f"{percent(found.high)} of the copies agree at most, and {least} are asked for"
        return Finding(Decision.ROLL_BACK, why)
    if found.low < rule.agreement:
        why = f"perhaps only {percent(found.low)} of the copies agree, and {least} are asked for"
        return Finding(Decision.HOLD, why)
    return Finding(Decision.PROMOTE, f"{percent(found.low)} of the copies agree at least, and {least} are asked for")


def percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def points(difference: float) -> str:
    """Between two percentages."""
    return f"{100 * difference:.2f} points"


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")
