"""Every metric, in one file. Label sets are closed: their values come from the policy, never from a caller.

Workers are processes: with PROMETHEUS_MULTIPROC_DIR set before this module is imported, the values live in files
there, and the admin listener adds them up.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from threading import Lock
from typing import Any

from prometheus_client import Counter, Gauge, Histogram, values
from prometheus_client.core import GaugeMetricFamily

if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
    from ext_authz.observability.metric_files import MetricFile

    values.MmapedDict = MetricFile  # type: ignore[attr-defined, assignment]
    _Value: Any = values.MultiProcessValue()  # type: ignore[no-untyped-call]

    class _ProcessValue(_Value):  # type: ignore[misc]
        """Bound to the process that creates it: the library checks at every increment whether the process has forked,
        which ours never does, and takes three times as long."""

        _lock = Lock()

        def inc(self, amount: float) -> None:
            with self._lock:
                self._value += amount
                self._file.write_value(self._key, self._value, 0.0)

    values.ValueClass = _ProcessValue

CHECKS = Counter("tollgate_checks", "Decisions, by route and reason.", ["route", "reason"])
CHECK_SECONDS = Histogram(
    "tollgate_check_seconds",
    "Time from message in to message out.",
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0),
)
REVOKED = Counter("tollgate_revoked", "Checks refused because of a revocation, by its kind.", ["kind"])
TOKENS_REFUSED = Counter("tollgate_tokens_refused", "Tokens refused, by cause.", ["code"])
TOKEN_CACHE = Counter("tollgate_token_cache", "Token cache lookups: hit, miss or bad (known bad token).", ["result"])
JWKS_FETCHES = Counter(
    "tollgate_jwks_fetches",
    "Key set fetches, by issuer (candidate:NAME: of the candidate policy) and result (ok, error).",
    ["issuer", "result"],
)
JWKS_AGE = Gauge("tollgate_jwks_age_seconds", "Age of the key set in use.", ["issuer"], multiprocess_mode="livemax")
DEPENDENCY_UP = Gauge(
    "tollgate_dependency_up", "1 if the dependency answers, by name.", ["dependency"], multiprocess_mode="livemin"
)
RESTARTS = Counter(
    "tollgate_restarts", "Workers and background tasks that ended and were started again, by name.", ["what"]
)
DEGRADED = Gauge(
    "tollgate_degraded",
    "1 while a dependency does not answer and some route has this failure mode (deny, local, allow).",
    ["dependency", "mode"],
    multiprocess_mode="livemax",
)
DEGRADED_LEFT = Gauge(
    "tollgate_degraded_seconds_left",
    "Seconds until no route is served without a dependency that does not answer.",
    ["dependency"],
    multiprocess_mode="livemax",
)
SETTLEMENT_BATCH = Histogram(
    "tollgate_settlement_batch", "Checks per Redis call.", buckets=(1, 2, 4, 8, 16, 32, 64, 128)
)
SETTLEMENT_SECONDS = Histogram(
    "tollgate_settlement_seconds",
    "Duration of one Redis call.",
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.005, 0.025, 0.1, 0.25),
)
OVERLOADED = Counter(
    "tollgate_overloaded",
    "Checks refused because of overload, by place: in the queue before Redis (queue), or in the call to Redis (late). "
    "Calls that the server refuses unread are counted by Envoy: ext_authz.error.",
    ["where"],
)
LEDGER_DROPPED = Counter("tollgate_ledger_dropped", "Events that never reached the ledger.")
LEDGER_DEPTH = Gauge("tollgate_ledger_depth", "Events in the Redis stream.", multiprocess_mode="livemostrecent")
LEDGER_FILLED = Gauge(
    "tollgate_ledger_filled_ratio",
    "Events in the Redis stream as a share of the maximum; at 1 all checks are refused.",
    ["shard"],
    multiprocess_mode="livemax",
)
REDIS_MEMORY_USED = Gauge(
    "tollgate_redis_memory_used_ratio",
    "Memory of Redis as a share of maxmemory; near 1 all checks are refused. 0 without maxmemory.",
    ["shard"],
    multiprocess_mode="livemax",
)
LEDGER_LAG = Gauge(
    "tollgate_ledger_lag_seconds", "Age of the oldest event not yet in Postgres.", multiprocess_mode="livemostrecent"
)
USAGE_MOVED = Counter(
    "tollgate_usage_moved", "Events moved into Postgres, by result (inserted, duplicate, broken).", ["result"]
)
REVOCATIONS = Gauge(
    "tollgate_revocations",
    "Revocations in force, at the last comparison of all rows.",
    multiprocess_mode="livemostrecent",
)
REVOCATION_REBUILDS = Counter("tollgate_revocation_rebuilds", "Rebuilds of an incomplete Redis from Postgres.")
REVOCATION_SYNCED = Gauge(
    "tollgate_revocation_synced_timestamp_seconds",
    "When Redis last held all revocations of Postgres.",
    multiprocess_mode="livemostrecent",
)
REVOCATION_KNOWN = Gauge(
    "tollgate_revocation_known_timestamp_seconds",
    "When the workers' own list of revocations was last equal to Postgres; 0 if no route uses it.",
    multiprocess_mode="livemostrecent",
)
POLICY_RELOADED = Gauge(
    "tollgate_policy_last_reload_timestamp_seconds",
    "When the input of the workers (policy, candidate, tls, settings) last changed.",
    ["role"],
    multiprocess_mode="livemostrecent",
)
POLICY_RELOAD_FAILURES = Counter(
    "tollgate_policy_reload_failures",
    "Rejected changes of the policy, candidate, tls or settings.",
    ["role"],
)
GENERATION = Gauge(
    "tollgate_generation",
    "Number of the generation of workers in force; 1 until a file is changed.",
    multiprocess_mode="livemostrecent",
)
CANDIDATE_COMPARED = Counter(
    "tollgate_candidate_compared",
    "Decisions compared with the candidate policy: same, different, incomparable, skipped, failed.",
    ["result"],
)
CANDIDATE_DIFFERENCES = Counter(
    "tollgate_candidate_differences",
    "Decisions that differ under the candidate policy.",
    ["route", "reason", "candidate_reason"],
)


def policy_info(workers: Mapping[tuple[str, str], int]) -> GaugeMetricFamily:
    """Made for each scrape: a gauge of hashes that are gone would stay for ever."""
    info = GaugeMetricFamily("tollgate_policy_info", "Workers that hold a policy.", labels=["role", "hash"])
    for labels, count in workers.items():
        info.add_metric(labels, count)
    return info


LIMIT_DRY_RUN = Counter("tollgate_limit_dry_run", "Requests that a limit in dry run would have refused.", ["limit"])
FLOOD_REFUSED = Counter(
    "tollgate_flood_refused", "Requests refused by the flood guard: their address was refused too often."
)
