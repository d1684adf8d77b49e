"""The outcomes that a decision can have for a bill, and which of them are billed. One name each, without an overlap.

`usage_outcome` (db/migrations/0017) names the outcome of a row, and the view `billable` has what it counts for: tests
compare both with this table, and the table in docs/usage.md too.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct


class Outcome(Struct, frozen=True):
    """What one name stands for."""

    when: str
    """In words, for people who read a bill."""
    billed: bool = False
    """Whether it counts as a request, with its units; if not, both are 0."""


OUTCOMES: Mapping[str, Outcome] = {
    "served": Outcome("the model, or another upstream, answered: 1xx, 2xx, 3xx, or gRPC's 0", billed=True),
    "client_gone": Outcome("the caller hung up, or cancelled, after the upstream had been asked", billed=True),
    "client_error": Outcome("the call was wrong: any other 4xx, or a status of gRPC that says so"),
    "server_error": Outcome("the upstream failed: 5xx, another status of gRPC, or an answer that broke off"),
    "timeout": Outcome("no answer in time: 504, or gRPC's 4"),
    "unreached": Outcome("no upstream was asked: none answered its port, or the caller was gone before"),
    "denied": Outcome("refused: no route, no valid credential, no right, revoked, malformed"),
    "rate_limited": Outcome("refused: a limit of the policy was used up"),
    "unavailable": Outcome("no verdict: a dependency of the authorizer did not answer, or a bug"),
    "answered": Outcome("answered by Tollgate itself: the index of the models"),
    "unsettled": Outcome("allowed, and Envoy's access log does not say (yet) what became of it"),
}
"""In the order in which a bill lists them."""
BILLED = tuple(name for name, outcome in OUTCOMES.items() if outcome.billed)
