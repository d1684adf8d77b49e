"""A report as text and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import isfinite
from typing import Any

from msgspec import to_builtins

from ext_authz.errors import escaped
from ext_authz.experiment.evidence import QUANTILES, Evidence, Quantile, Variant
from ext_authz.experiment.intervals import Interval, Share, difference, wilson, z_of
from ext_authz.experiment.verdict import Rule, Verdict, percent, points
from ext_authz.report import utc

_MOST_LABELS = 20


def as_json(evidence: Evidence, verdict: Verdict, rule: Rule) -> dict[str, Any]:
    """Shares are between 0 and 1, times in milliseconds."""
    z = z_of(rule.confidence)
    sides = (evidence.control, evidence.candidate)
    return {
        "experiment": evidence.experiment,
        "model": evidence.model,
        "since": utc(evidence.since),
        "until": utc(evidence.until),
        "variants": {side.name: _side(side, z) for side in sides},
        "error_difference": to_builtins(difference(evidence.candidate.errors, evidence.control.errors, z)),
        "left_aside": evidence.aside,
        "without_record": evidence.unrecorded,
        "copies": {
            "labels": dict(evidence.copies),
            "agreement": _share(evidence.agreement, z),
            "pairs": [dict(zip(("control", "candidate", "count"), pair, strict=True)) for pair in evidence.pairs],
        },
        "calls_needed": verdict.needed,
        "calls_missing": verdict.missing,
        "rule": to_builtins(rule),
        "decision": verdict.decision.value,
        "why": verdict.why,
        "findings": to_builtins(verdict.findings),
    }


def _side(side: Variant, z: float) -> dict[str, Any]:
    rest = {name: getattr(side, name) for name in ("version", "weight", "calls", "callers", "present", "gone")}
    latency = {f"p{round(at * 100)}": _bounds(found) for at, found in zip(QUANTILES, side.latency, strict=False)}
    return {**rest, "errors": _share(side.errors, z), "latency_ms": latency, "labels": dict(side.labels)}


def _bounds(found: Quantile) -> dict[str, Any]:
    """JSON has no infinite number."""
    return {**to_builtins(found), "high": found.high if isfinite(found.high) else None}


def _share(share: Share, z: float) -> dict[str, Any]:
    return {**to_builtins(share), **to_builtins(wilson(share, z)), "value": share.value}


def as_text(evidence: Evidence, verdict: Verdict, rule: Rule) -> Iterator[str]:
    """Lines."""
    period = f"{utc(evidence.since)} to {utc(evidence.until)}"
    yield f"{evidence.experiment}: model {evidence.model}, {period}, intervals of {100 * rule.confidence:g} %"
    yield ""
    yield from _table(evidence, z_of(rule.confidence))
    yield ""
    yield from _comparison(evidence, verdict, rule)
    yield ""
    yield from (f"  {finding.decision}: {escaped(finding.why)}" for finding in verdict.findings)
    yield ""
    yield f"decision: {verdict.decision}"


def _table(evidence: Evidence, z: float) -> Iterator[str]:
    shown: Mapping[str, Callable[[Variant], str]] = {
        "": lambda side: f"{side.name}{f' (version {side.version})' if side.version else ''}",
        "weight": lambda side: f"{side.weight} %",
        "calls": lambda side: f"{side.calls:,}",
        "callers": lambda side: f"{side.callers:,}",
        "errors": lambda side: f"{side.errors.hits:,}  {_shown(side.errors, z)}",
        "caller gone": lambda side: f"{side.gone:,}",
        **{f"p{round(at * 100)}": _quantile(number) for number, at in enumerate(QUANTILES)},
        **{f"label {escaped(label)}": _label(label) for label in _labels(evidence)},
    }
    rows = [(name, value(evidence.control), value(evidence.candidate)) for name, value in shown.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for name, control, candidate in rows:
        yield f"  {name:<{widths[0]}}  {control:<{widths[1]}}  {candidate}".rstrip()


def _labels(evidence: Evidence) -> list[str]:
    return sorted({*evidence.control.labels, *evidence.candidate.labels})[:_MOST_LABELS]


def _quantile(number: int) -> Callable[[Variant], str]:
    return lambda side: _milliseconds(side.latency[number]) if side.latency else "-"


def _milliseconds(found: Quantile) -> str:
    return f"{found.value:.1f} ms  ({found.low:.1f} to {f'{found.high:.1f}' if isfinite(found.high) else 'unknown'})"


def _label(label: str) -> Callable[[Variant], str]:
    return lambda side: percent(side.labels.get(label, 0) / sum(side.labels.values())) if side.labels else "-"


def _shown(share: Share, z: float) -> str:
    found = wilson(share, z)
    return f"{percent(share.value)}  ({percent(found.low)} to {percent(found.high)})" if share.total else "-"


def _comparison(evidence: Evidence, verdict: Verdict, rule: Rule) -> Iterator[str]:
    z, one, other = z_of(rule.confidence), evidence.candidate.errors, evidence.control.errors
    rise: Interval = difference(one, other, z)
    if one.total and other.total:
        yield f"errors rose by {points(one.value - other.value)}  ({points(rise.low)} to {points(rise.high)})"
        if (spread := max(one.spread, other.spread)) > 1:
            yield f"errors come in clusters by caller: {spread:.1f} calls tell as much as one"
    missing = f"{verdict.missing:,} of them are missing" if verdict.missing else "they are there"
    sure = f"to be sure that errors rose by {points(rule.tolerance)} at most, with a chance of {100 * rule.power:g} %"
    yield f"{sure} if they did not rise: {verdict.needed:,} calls of {evidence.candidate.name}, {missing}"
    yield from _copies(evidence, z)
    if evidence.aside:
        why = "their callers chose the variant or a version, or had it under other weights"
        yield f"{evidence.aside:,} calls are left aside: {why}"
    if evidence.unrecorded:
        yield f"{evidence.unrecorded:,} calls have no variant in their decision record, or no record any more"


def _copies(evidence: Evidence, z: float) -> Iterator[str]:
    if not evidence.has_log:
        yield "labels and agreement: this database has no prediction log yet: run tollgate migrate"
    elif not (evidence.control.labels or evidence.candidate.labels or evidence.copies):
        yield (
            "labels and agreement: the prediction log has none of this period: it needs models."
            f"{evidence.model}.predictions in the policy"
        )
    elif not evidence.pairs:
        yield "agreement: no call and its copy are in the prediction log: mirror in the policy makes copies"
    else:
        alike = evidence.agreement
        yield f"copies with the label of their call: {alike.hits:,} of {alike.total:,}  {_shown(alike, z)}"
        for control, candidate, count in [pair for pair in evidence.pairs if pair[0] != pair[1]][:_MOST_LABELS]:
            names = evidence.control.name, evidence.candidate.name
            yield f"  {names[0]} {escaped(control)}, {names[1]} {escaped(candidate)}: {count:,}"
