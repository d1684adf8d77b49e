"""The metrics about signals, of the console. `serve` does not import this module."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

UNKNOWN = "unknown"
UNREAD = "event"
"""A security event that was refused before anybody knew what it is about."""
KINDS = (
    *("logout", "k_logout", "k_push_not_before"),
    *("session_revoked", "credential_change", "account_disabled", "account_purged", "credential_compromise"),
    *("verification", "stream_updated", UNKNOWN, UNREAD),
)
RESULTS = ("obeyed", "repeated", "ignored", "refused", "failed")

SIGNALS = Counter(
    "tollgate_signals",
    "Signals that identity providers sent, by kind (event: a security event that could not be read) and result: obeyed "
    "(what it revokes is in force), repeated (it was obeyed before), ignored (nothing follows from it), refused (not "
    "valid), failed (a store did not confirm the revocation).",
    ["kind", "result"],
)
for kind in KINDS:
    for result in RESULTS:
        SIGNALS.labels(kind, result)
SIGNAL_LAG = Histogram(
    "tollgate_signal_lag_seconds",
    "Time from when a signal was issued, in whole seconds, until what it revokes is in force everywhere.",
    ["kind"],
    buckets=(1, 2, 3, 5, 10, 30, 60, 300),
)
SIGNALS_POLLED = Gauge(
    "tollgate_signals_polled_timestamp_seconds",
    "When the stream of security events of this issuer was last asked with success; 0 where another process asks.",
    ["issuer"],
)
