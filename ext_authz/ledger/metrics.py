"""The metrics of the usage worker. `serve` does not import this module, so that it does not export their zeros."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector

from ext_authz.observability.metrics import DEPENDENCY_UP, RESTARTS

USAGE_WORKER = CollectorRegistry()
"""What `tollgate usage-worker --metrics-port` exports."""

for shared in (DEPENDENCY_UP, RESTARTS):
    USAGE_WORKER.register(shared)
ProcessCollector(registry=USAGE_WORKER)

LEDGER_PENDING = Gauge(
    "tollgate_ledger_pending_events", "Events in the Redis stream, not yet in Postgres.", registry=USAGE_WORKER
)
LEDGER_LAG = Gauge("tollgate_ledger_lag_seconds", "Age of the oldest event not yet in Postgres.", registry=USAGE_WORKER)
LEDGER_MOVED = Counter(
    "tollgate_ledger_moved_events",
    "Events read from the stream: new in Postgres (inserted), there before (duplicate), or not readable (broken).",
    ["result"],
    registry=USAGE_WORKER,
)
for result in ("inserted", "duplicate", "broken"):
    LEDGER_MOVED.labels(result)

LEDGER_OUTCOMES = Counter(
    "tollgate_ledger_outcomes",
    "Entries of Envoy's access log about allowed calls: new in Postgres (inserted), there before (duplicate), not "
    "readable or without a decision (broken), or lost because too many waited (dropped).",
    ["result"],
    registry=USAGE_WORKER,
)
for result in ("inserted", "duplicate", "broken", "dropped"):
    LEDGER_OUTCOMES.labels(result)

LEDGER_UNSETTLED = Gauge(
    "tollgate_ledger_unsettled_decisions",
    "Allowed calls of ten minutes, until fifteen minutes ago, of which no access log says what became of them.",
    registry=USAGE_WORKER,
)
LEDGER_UNDECIDED = Gauge(
    "tollgate_ledger_undecided_outcomes",
    "Entries of access logs of ten minutes, until fifteen minutes ago, whose call was allowed by no decision in the "
    "ledger.",
    registry=USAGE_WORKER,
)

LEDGER_UNSUMMED = Gauge(
    "tollgate_ledger_unsummed_changes",
    "Changes of the ledger that are not in the sums by hour and by day yet; counted up to a million.",
    registry=USAGE_WORKER,
)

LEDGER_UNPUBLISHED = Gauge(
    "tollgate_ledger_unpublished_changes",
    "Changes of the ledger that wait to be published, those of calls under way among them; counted up to a million. 0 "
    "where nobody publishes.",
    registry=USAGE_WORKER,
)
LEDGER_UNPUBLISHED_AGE = Gauge(
    "tollgate_ledger_unpublished_seconds",
    "Age of the oldest decision that should have been published; 0: there is none.",
    registry=USAGE_WORKER,
)

PREDICTIONS_WAITING = Gauge(
    "tollgate_predictions_waiting_rows", "Rows in finished files of models, not yet in Postgres.", registry=USAGE_WORKER
)
PREDICTIONS_MOVED = Counter(
    "tollgate_predictions_moved_rows",
    "Rows of files of models: new in Postgres (inserted), there before or deleted by an owner (left_out), older than "
    "they are kept (expired), of a model whose predictions are not kept (not_kept), without an allowed call in the "
    "ledger (unknown), or not readable (broken).",
    ["result"],
    registry=USAGE_WORKER,
)
for result in ("inserted", "left_out", "expired", "not_kept", "unknown", "broken"):
    PREDICTIONS_MOVED.labels(result)
