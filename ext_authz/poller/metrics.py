"""The metrics of the poller, of the console. `serve` does not import this module."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

POLL_LAG = Gauge(
    "tollgate_poll_lag_seconds",
    "Since the last complete poll of an issuer's events. Exported by the process that polls.",
    ["issuer"],
)
POLL_EVENTS = Counter(
    "tollgate_poll_events",
    "Events of an issuer that were read, by what they are about (user, roles, group, session, password, logout, client,"
    " realm, token); ignored: nothing that matters here.",
    ["kind"],
)
POLL_REQUESTS = Counter("tollgate_poll_requests", "Requests to issuers for events and the state of users.")
POLL_DUE = Gauge(
    "tollgate_poll_due_owners", "Users and service accounts to look up because something happened.", ["issuer"]
)
POLL_KNOWN = Gauge("tollgate_poll_known_owners", "Users and service accounts that are looked up in turn.", ["issuer"])
SWEEP_AGE = Gauge(
    "tollgate_poll_sweep_age_seconds", "Since the one was looked up that was not for the longest time.", ["issuer"]
)
OF_THE_HOLDER = (POLL_LAG, POLL_DUE, POLL_KNOWN, SWEEP_AGE)
"""Exported by the process that polls, and no longer when another one does."""
