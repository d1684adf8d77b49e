"""The metrics of the authorizer; those of the usage worker alone are in `ledger/metrics.py`. `docs/metrics.md` is
generated from both. Label values are known at start: they come from the policy, never from a caller.

Workers are processes: with PROMETHEUS_MULTIPROC_DIR set before this module is imported, the values live in files
there, and the admin listener adds them up.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from threading import Lock
from typing import Any

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics, values
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

disable_created_metrics()  # type: ignore[no-untyped-call]


def _zero(counter: Counter, *known: str) -> Counter:
    """Every series of a counter is there from the start: the first increase of one that appears is not a rate."""
    for value in known:
        counter.labels(value)
    return counter


class SummedHistogram(Histogram):
    """Observes many at once: each by itself costs a check as much as all else that is measured of it."""

    def observe_all(self, amounts: Iterable[float]) -> None:
        total, counts = 0.0, [0] * len(self._upper_bounds)
        for amount in amounts:
            total += amount
            counts[bisect_left(self._upper_bounds, amount)] += 1
        self._sum.inc(total)
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)


CHECKS = Counter(
    "tollgate_checks",
    "Decisions, by route (empty: none matched) and reason (allowed, or why it was refused). Published once a second.",
    ["route", "reason"],
)
CHECK_SECONDS = SummedHistogram(
    "tollgate_check_duration_seconds",
    "Time from reading a check to its answer. Published once a second.",
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0),
)
PHASES = ("read", "route", "identity", "permission", "settlement", "response")
CHECK_PHASE_SECONDS = Histogram(
    "tollgate_check_phase_duration_seconds",
    "Time of each phase of a check: reading the message, the four phases of the decision, building the response. "
    "Of one check in 64, and of those that are traced.",
    ["phase"],
    buckets=(0.000005, 0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.01, 0.05, 0.25),
)
for phase in PHASES:
    CHECK_PHASE_SECONDS.labels(phase)
MODEL_CHECKS = Counter(
    "tollgate_model_checks",
    "Decisions about calls of a model, by its name in the policy (a pattern where a pattern gives access; empty: not "
    "in the policy), variant of its experiment, the caller's plan, and outcome: allowed, refused, limited (a quota is "
    "used up, or the flood guard refuses), unavailable (no verdict). Published once a second; a series appears with "
    "its first decision.",
    ["model", "variant", "plan", "outcome"],
)
REVOKED = _zero(
    Counter("tollgate_revoked_checks", "Checks refused because of a revocation, by what was revoked.", ["kind"]),
    *("token", "session", "user", "client", "issuer"),
)
TOKENS_REFUSED = Counter("tollgate_tokens_refused", "Tokens refused, by error code.", ["code"])
TOKEN_CACHE = _zero(
    Counter(
        "tollgate_token_cache_lookups",
        "Lookups in the cache of tokens: verified before (hit), refused before (bad), or neither (miss).",
        ["result"],
    ),
    *("hit", "miss", "bad"),
)
TOKEN_CACHE_ENTRIES = Gauge(
    "tollgate_token_cache_entries",
    "Tokens in the caches of all workers: verified, or refused shortly before.",
    ["kind"],
    multiprocess_mode="livesum",
)
JWKS_FETCHES = Counter(
    "tollgate_jwks_fetches",
    "Fetches of key sets, by issuer (candidate:NAME for the candidate policy) and result (ok, error).",
    ["issuer", "result"],
)
JWKS_AGE = Gauge(
    "tollgate_jwks_age_seconds",
    "Age of the key set in use, by issuer; +Inf until the first fetch.",
    ["issuer"],
    multiprocess_mode="livemax",
)
OWNERS_KNOWN = Gauge(
    "tollgate_owners_known",
    "Owners of tokens that a worker knows, in the copy that holds most; 0 without `tokens:` in the policy.",
    multiprocess_mode="livemax",
)
OWNERS_AGE = Gauge(
    "tollgate_owners_age_seconds",
    "Since when what is known of the owners of tokens may be out of date: the time since Postgres last answered, in "
    "the worker that has waited longest; +Inf until it first did.",
    multiprocess_mode="livemax",
)
INTROSPECTIONS = Counter(
    "tollgate_introspections",
    "Questions to issuers about tokens, by issuer (candidate:NAME for the candidate policy) and result (active, "
    "inactive, error).",
    ["issuer", "result"],
)
DEPENDENCY_UP = Gauge(
    "tollgate_dependency_up",
    "1 if the dependency works: redis, postgres, ledger, owners (what is known of the owners of tokens is up to date), "
    "projects (so is what a GitLab says of its projects), "
    "jwks:ISSUER (its tokens can be verified, if need be with keys "
    "that were fetched before).",
    ["dependency"],
    multiprocess_mode="livemin",
)
RESTARTS = Counter(
    "tollgate_restarts",
    "Ended and started again: worker, generations, revocation_mirror, revocation_list; of the usage worker its tasks.",
    ["what"],
)
DEGRADED = Gauge(
    "tollgate_degraded",
    "1 while a dependency does not work and some route has this failure mode (deny, local, allow).",
    ["dependency", "mode"],
    multiprocess_mode="livemax",
)
DEGRADED_LEFT = Gauge(
    "tollgate_degraded_remaining_seconds",
    "Seconds until no route is served without a dependency that does not work.",
    ["dependency"],
    multiprocess_mode="livemax",
)
SETTLEMENT_BATCH = Histogram(
    "tollgate_settlement_batch_checks", "Checks per Redis call.", buckets=(1, 2, 4, 8, 16, 32, 64, 128)
)
SETTLEMENT_SECONDS = Histogram(
    "tollgate_settlement_duration_seconds",
    "Duration of one Redis call.",
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.005, 0.025, 0.1, 0.25),
)
OVERLOADED = _zero(
    Counter(
        "tollgate_overloaded_checks",
        "Checks refused because of overload, by place: in the queue before Redis (queue), or in the call to Redis "
        "(late). Calls that the server refuses unread are counted by Envoy: ext_authz.error.",
        ["where"],
    ),
    *("queue", "late"),
)
LEDGER_DROPPED = Counter("tollgate_ledger_dropped_events", "Events that never reached the ledger.")
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
POLICY_RELOAD_FAILURES = _zero(
    Counter("tollgate_policy_reload_failures", "Rejected changes of the input of the workers.", ["role"]),
    *("policy", "candidate", "tls", "settings"),
)
POLICY_CHANGE_REJECTED = Gauge(
    "tollgate_policy_change_rejected",
    "1 from a rejected change of the input of the workers until what is there is in force.",
    ["role"],
    multiprocess_mode="livemostrecent",
)
GENERATION = Gauge(
    "tollgate_generation",
    "Number of the generation of workers in force; 1 until a file is changed.",
    multiprocess_mode="livemostrecent",
)
CANDIDATE_COMPARED = _zero(
    Counter(
        "tollgate_candidate_compared_decisions",
        "Decisions compared with the candidate policy: same, different, incomparable, skipped, failed.",
        ["result"],
    ),
    *("same", "different", "incomparable", "skipped", "failed"),
)
CANDIDATE_DIFFERENCES = Counter(
    "tollgate_candidate_differences",
    "Decisions that differ under the candidate policy; a series appears with its first difference.",
    ["route", "reason", "candidate_reason"],
)


def policy_info(workers: Mapping[tuple[str, str], int]) -> GaugeMetricFamily:
    """Made for each scrape: a gauge of hashes that are gone would stay for ever."""
    info = GaugeMetricFamily("tollgate_policy_info", "Workers that hold a policy.", labels=["role", "hash"])
    for labels, count in workers.items():
        info.add_metric(labels, count)
    return info


LIMIT_REFUSED = Counter(
    "tollgate_limit_refused_checks", "Checks refused because a limit was used up, by the limit.", ["limit"]
)
LIMIT_USED = Histogram(
    "tollgate_limit_used_ratio",
    "Used share of each limit of a check, after the check. Of one check in 64, and of those that are traced.",
    ["limit"],
    buckets=(0.25, 0.5, 0.75, 0.9, 0.99, 1.0),
)
LIMIT_DRY_RUN = Counter(
    "tollgate_limit_dry_run_checks", "Checks that a limit with dry_run would have refused.", ["limit"]
)
FLOOD_REFUSED = Counter(
    "tollgate_flood_refused_checks", "Checks refused by the flood guard: their address was refused too often."
)
