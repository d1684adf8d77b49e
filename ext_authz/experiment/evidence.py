"""What was recorded about two variants of a model: calls, errors, latency, labels, and agreement on copies.

From the ledger (`usage_events`, `call_outcomes`) and the prediction log (`predictions`). A call counts if its caller
has the variant by the present weights: who chose it by a header, or had it under other weights, is left aside, and so
is a call that names a version.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import chain
from math import ceil, inf
from typing import Any, LiteralString, NamedTuple

from msgspec import Struct

from ext_authz.db.postgres import Connection
from ext_authz.experiment.intervals import Share, design_effect, quantile_ranks, z_of
from ext_authz.phases.experiments import assigned
from ext_authz.policy.model import Experiment

READS = {"usage_events": ("SELECT",), "call_outcomes": ("SELECT",)}
QUANTILES = (0.5, 0.95, 0.99)

_CALLS: LiteralString = """
FROM usage_events LEFT JOIN call_outcomes USING (decision_id)
WHERE model = %(model)s AND reason = 'allowed' AND occurred_at >= %(since)s AND occurred_at < %(until)s
    AND coalesce(facts->>'operation', '') IN ('', 'infer', 'generate')
"""
# What a server or a model did wrong. A mistake of a caller (4xx, INVALID_ARGUMENT) is an answer like others. Who hung
# up (0) may have waited for too long.
_FAILED: LiteralString = "(status = 0 OR status >= 500 OR coalesce(grpc_status, 0) IN (2, 4, 12, 13, 14, 15))"
_BY_CALLER: LiteralString = f"""
SELECT coalesce(facts->>'issuer_name', ''), subject, coalesce(facts->>'variant', ''), model_version <> '',
    bool_or(policy = %(policy)s), count(*), count(status),
    count(*) FILTER (WHERE {_FAILED}), count(*) FILTER (WHERE status = 0),
    coalesce(array_agg(duration_ms) FILTER (WHERE NOT {_FAILED}), '{{}}')
{_CALLS} GROUP BY 1, 2, 3, 4
"""
_OF_MODEL: LiteralString = "model = %(model)s AND at >= %(since)s AND at < %(until)s"
_LABELS: LiteralString = f"""
SELECT variant, mirrored, outputs->>'label', count(*) FROM predictions
WHERE {_OF_MODEL} AND outputs->>'label' IS NOT NULL GROUP BY 1, 2, 3 ORDER BY 3
"""  # noqa: S608 - constants
# A copy has the decision id of its call.
_PAIRS: LiteralString = f"""
SELECT called.issuer, called.subject, called.outputs->>'label', copied.outputs->>'label', count(*)
FROM (SELECT * FROM predictions WHERE {_OF_MODEL} AND mirrored AND variant = %(candidate)s) AS copied
JOIN (SELECT * FROM predictions WHERE {_OF_MODEL} AND NOT mirrored AND variant = %(control)s) AS called
    USING (decision_id, "row")
WHERE called.outputs->>'label' IS NOT NULL AND copied.outputs->>'label' IS NOT NULL GROUP BY 1, 2, 3, 4
"""  # noqa: S608 - constants


class Period(Struct, frozen=True):
    """From `since` on, before `until`."""

    since: datetime
    until: datetime


class Quantile(Struct, frozen=True):
    """In milliseconds, from the first byte of the request to the last one of the answer; and its interval."""

    value: float
    low: float
    high: float
    """Infinite: so few independent calls tell of no bound."""


class Variant(Struct, frozen=True):
    """One side."""

    name: str
    version: str
    """Empty: the policy does not say."""
    weight: int
    calls: int = 0
    callers: int = 0
    present: int = 0
    """Of the callers: those who called under the policy that is judged."""
    errors: Share = Share(0, 0)
    """Among the calls that Envoy's access log has."""
    gone: int = 0
    """Of the errors: the caller hung up before the answer."""
    latency: tuple[Quantile, ...] = ()
    """Of QUANTILES, of calls without an error; empty: there is none."""
    labels: Mapping[str, int] = {}
    """Of its own calls, by the prediction log."""


class Evidence(Struct, frozen=True):
    """Of one experiment in one period."""

    experiment: str
    model: str
    since: datetime
    until: datetime
    control: Variant
    candidate: Variant
    aside: int
    """Calls that are not compared: their callers chose the variant or a version, or had it under other weights."""
    unrecorded: int
    """Calls of the model without a decision record: nobody knows their variant."""
    copies: Mapping[str, int]
    """Labels of the candidate for copied calls."""
    pairs: tuple[tuple[str, str, int], ...]
    """Label of the control, label of the candidate for the copy, and how often; the most frequent first."""
    agreement: Share
    """Rows that both gave one label to."""
    copied: int
    """Callers whose calls these are."""
    has_log: bool
    """Whether there is a prediction log."""


class _Row(NamedTuple):
    """Calls of one caller to one variant."""

    issuer_name: str
    subject: str
    variant: str
    names_version: bool
    """In the path or in the message: whoever does chose."""
    present: bool
    """Some of them were decided by the policy that is judged."""
    calls: int
    logged: int
    failed: int
    gone: int
    times: list[float]
    """In milliseconds, of those without an error."""


class _Pair(NamedTuple):
    """Copies of calls of one caller that got these labels."""

    issuer: str
    subject: str
    control: str
    candidate: str
    rows: int


async def gathered(
    connection: Connection, policy: str, experiment: Experiment, candidate: str, period: Period, confidence: float
) -> Evidence:
    """`policy`: the hash of the one that is judged; `candidate`: the variant that is compared with the first one."""
    names = next(iter(experiment.weights)), candidate
    values = {"model": experiment.model, "since": period.since, "until": period.until, "policy": policy}
    values |= {"control": names[0], "candidate": candidate}
    rows = [_Row(*row) for row in await (await connection.execute(_BY_CALLER, values)).fetchall()]
    counted = [row for row in rows if _is_drawn(row, experiment)]
    others = [row for row in rows if not _is_drawn(row, experiment)]
    labels = await _labels(connection, values)
    own = [[row for row in counted if row.variant == name] for name in names]
    control, compared = (
        _variant(experiment, name, mine, labels or (), _latencies(mine, own, z_of(confidence)))
        for name, mine in zip(names, own, strict=True)
    )
    pairs = await _pairs(connection, values) if labels else []
    return Evidence(
        experiment=experiment.name,
        model=experiment.model,
        since=period.since,
        until=period.until,
        control=control,
        candidate=compared,
        aside=sum(row.calls for row in others if row.variant in names),
        unrecorded=sum(row.calls for row in others if not row.variant),
        copies={label: count for name, copied, label, count in labels or () if copied and name == candidate},
        pairs=_by_labels(pairs),
        agreement=_agreement(pairs),
        copied=len({(pair.issuer, pair.subject) for pair in pairs}),
        has_log=labels is not None,
    )


def _is_drawn(row: _Row, experiment: Experiment) -> bool:
    """By the hash, as the weights are now."""
    return not row.names_version and row.variant == assigned(experiment, row.issuer_name, row.subject)


def _variant(
    experiment: Experiment,
    name: str,
    own: Sequence[_Row],
    labels: Iterable[tuple[str, bool, str, int]],
    latency: tuple[Quantile, ...],
) -> Variant:
    logged, failed = sum(row.logged for row in own), sum(row.failed for row in own)
    spread = design_effect([(row.failed, row.logged) for row in own if row.logged])
    return Variant(
        name=name,
        version=experiment.versions.get(name, ""),
        weight=experiment.weights[name],
        calls=sum(row.calls for row in own),
        callers=len(own),
        present=sum(row.present for row in own),
        errors=Share(failed, logged, spread),
        gone=sum(row.gone for row in own),
        latency=latency,
        labels={label: count for of, copied, label, count in labels if of == name and not copied},
    )


def _latencies(own: Sequence[_Row], variants: Iterable[Sequence[_Row]], z: float) -> tuple[Quantile, ...]:
    """Of QUANTILES, with the greater of the spreads of both variants (see `intervals.difference`)."""
    times = sorted(chain.from_iterable(row.times for row in own))
    spreads = [max(_spread(rows, quantile) for rows in variants) for quantile in QUANTILES] if times else []
    return tuple(_quantile(times, *each, z) for each in zip(QUANTILES, spreads, strict=False))


def _spread(rows: Sequence[_Row], quantile: float) -> float:
    """The design effect of the share of calls that took longer than this quantile of them."""
    times = sorted(chain.from_iterable(row.times for row in rows))
    if not times:
        return 1.0
    longest = _at(times, quantile)
    return design_effect([(sum(time > longest for time in row.times), len(row.times)) for row in rows if row.times])


def _quantile(times: Sequence[float], quantile: float, spread: float, z: float) -> Quantile:
    low, high = quantile_ranks(quantile, len(times) / spread, z)
    return Quantile(_at(times, quantile), _at(times, low) if low > 0 else 0.0, _at(times, high) if high <= 1 else inf)


def _at(times: Sequence[float], rank: float) -> float:
    """`times`: sorted. An order statistic, as `percentile_disc` of Postgres defines it."""
    return times[max(0, ceil(rank * len(times)) - 1)]


async def _labels(connection: Connection, values: Mapping[str, Any]) -> Sequence[tuple[str, bool, str, int]] | None:
    """By variant and whether it is of a copy; None: this database has no prediction log yet."""
    ((table,),) = await (await connection.execute("SELECT to_regclass('predictions')")).fetchall()
    if table is None:
        return None
    return await (await connection.execute(_LABELS, values)).fetchall()


async def _pairs(connection: Connection, values: Mapping[str, Any]) -> list[_Pair]:
    return [_Pair(*row) for row in await (await connection.execute(_PAIRS, values)).fetchall()]


def _by_labels(pairs: Iterable[_Pair]) -> tuple[tuple[str, str, int], ...]:
    counts: Counter[tuple[str, str]] = Counter()
    for pair in pairs:
        counts[pair.control, pair.candidate] += pair.rows
    return tuple(sorted(((*labels, count) for labels, count in counts.items()), key=lambda each: (-each[2], each)))


def _agreement(pairs: Iterable[_Pair]) -> Share:
    """Who asks the same again gets the same again: these are as few callers as any calls."""
    alike, every = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for pair in pairs:
        caller = pair.issuer, pair.subject
        every[caller] += pair.rows
        alike[caller] += pair.rows * (pair.control == pair.candidate)
    spread = design_effect([(alike[caller], count) for caller, count in every.items()])
    return Share(alike.total(), every.total(), spread)
