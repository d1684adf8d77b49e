"""What was recorded about two variants of a model: calls, errors, latency, labels, and agreement on copies.

From the ledger (`usage_events`, `call_outcomes`) and the prediction log (`predictions`). A call counts if its caller
has the variant by the present weights: who chose it by a header, or had it under other weights, is left aside.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import chain
from math import ceil
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
SELECT coalesce(facts->>'issuer_name', ''), subject, coalesce(facts->>'variant', ''), count(*),
    count(status), count(*) FILTER (WHERE {_FAILED}), count(*) FILTER (WHERE status = 0),
    coalesce(array_agg(duration_ms) FILTER (WHERE NOT {_FAILED}), '{{}}')
{_CALLS} GROUP BY 1, 2, 3
"""
_OF_MODEL: LiteralString = "model = %(model)s AND at >= %(since)s AND at < %(until)s"
_LABELS: LiteralString = f"""
SELECT variant, mirrored, outputs->>'label', count(*) FROM predictions
WHERE {_OF_MODEL} AND outputs->>'label' IS NOT NULL GROUP BY 1, 2, 3 ORDER BY 3
"""  # noqa: S608 - constants
# A copy has the decision id of its call.
_PAIRS: LiteralString = f"""
SELECT called.outputs->>'label', copied.outputs->>'label', count(*)
FROM (SELECT * FROM predictions WHERE {_OF_MODEL} AND mirrored AND variant = %(candidate)s) AS copied
JOIN (SELECT * FROM predictions WHERE {_OF_MODEL} AND NOT mirrored AND variant = %(control)s) AS called
    USING (decision_id, "row")
WHERE called.outputs->>'label' IS NOT NULL AND copied.outputs->>'label' IS NOT NULL GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2
"""  # noqa: S608 - constants


class Quantile(Struct, frozen=True):
    """In milliseconds, from the first byte of the request to the last one of the answer; and its interval."""

    value: float
    low: float
    high: float


class Variant(Struct, frozen=True):
    """One side."""

    name: str
    version: str
    """Empty: the policy does not say."""
    weight: int
    calls: int = 0
    callers: int = 0
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
    """Calls that are not compared: their callers chose the variant, or had it under other weights."""
    unrecorded: int
    """Calls of the model without a decision record: nobody knows their variant."""
    copies: Mapping[str, int]
    """Labels of the candidate for copied calls."""
    pairs: tuple[tuple[str, str, int], ...]
    """Label of the control, label of the candidate for the copy, and how often."""
    has_log: bool
    """Whether there is a prediction log."""

    @property
    def agreement(self) -> Share:
        """Rows that both gave one label to. As calls are copied by chance, they count as independent."""
        alike = sum(count for control, candidate, count in self.pairs if control == candidate)
        return Share(alike, sum(count for _, _, count in self.pairs))


class _Row(NamedTuple):
    """Calls of one caller to one variant."""

    issuer_name: str
    subject: str
    variant: str
    calls: int
    logged: int
    failed: int
    gone: int
    times: list[float]
    """In milliseconds, of those without an error."""


async def gathered(
    connection: Connection,
    experiment: Experiment,
    candidate: str,
    since: datetime,
    until: datetime,
    confidence: float,
) -> Evidence:
    """`candidate`: the variant that is compared with the first one."""
    names = next(iter(experiment.weights)), candidate
    values = {"model": experiment.model, "since": since, "until": until, "control": names[0], "candidate": candidate}
    rows = [_Row(*row) for row in await (await connection.execute(_BY_CALLER, values)).fetchall()]
    counted = [row for row in rows if row.variant == assigned(experiment, row.issuer_name, row.subject)]
    others = [row for row in rows if row.variant != assigned(experiment, row.issuer_name, row.subject)]
    labels = await _labels(connection, values)
    control, compared = (_variant(experiment, name, counted, labels or (), z_of(confidence)) for name in names)
    return Evidence(
        experiment=experiment.name,
        model=experiment.model,
        since=since,
        until=until,
        control=control,
        candidate=compared,
        aside=sum(row.calls for row in others if row.variant in names),
        unrecorded=sum(row.calls for row in others if not row.variant),
        copies={label: count for name, copied, label, count in labels or () if copied and name == candidate},
        pairs=await _pairs(connection, values) if labels else (),
        has_log=labels is not None,
    )


def _variant(
    experiment: Experiment,
    name: str,
    counted: Iterable[_Row],
    labels: Iterable[tuple[str, bool, str, int]],
    z: float,
) -> Variant:
    own = [row for row in counted if row.variant == name]
    logged, failed = sum(row.logged for row in own), sum(row.failed for row in own)
    spread = design_effect([(row.failed, row.logged) for row in own if row.logged])
    return Variant(
        name=name,
        version=experiment.versions.get(name, ""),
        weight=experiment.weights[name],
        calls=sum(row.calls for row in own),
        callers=len(own),
        errors=Share(failed, logged, spread),
        gone=sum(row.gone for row in own),
        latency=_latency(sorted(chain.from_iterable(row.times for row in own)), z),
        labels={label: count for of, copied, label, count in labels if of == name and not copied},
    )


def _latency(times: Sequence[float], z: float) -> tuple[Quantile, ...]:
    """`times`: sorted. Order statistics, as `percentile_disc` of Postgres defines them."""
    if not times:
        return ()
    ranks = ((quantile, *quantile_ranks(quantile, len(times), z)) for quantile in QUANTILES)
    return tuple(Quantile(*(times[max(0, ceil(rank * len(times)) - 1)] for rank in of)) for of in ranks)


async def _labels(connection: Connection, values: Mapping[str, Any]) -> Sequence[tuple[str, bool, str, int]] | None:
    """By variant and whether it is of a copy; None: this database has no prediction log yet."""
    ((table,),) = await (await connection.execute("SELECT to_regclass('predictions')")).fetchall()
    if table is None:
        return None
    return await (await connection.execute(_LABELS, values)).fetchall()


async def _pairs(connection: Connection, values: Mapping[str, Any]) -> tuple[tuple[str, str, int], ...]:
    return tuple(await (await connection.execute(_PAIRS, values)).fetchall())
