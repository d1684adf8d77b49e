"""The steps about the experiment: who gets version 2 of `sentiment`, the copies, the report, and the next weight."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import psycopg

from devstack.demo.steps import Outcome, Step, Tour

PART = "triton-canary"
"""Of the stack: serves version 2, where it is trained."""
_EXPERIMENT = "sentiment-v2"
_CALLERS = [f"load{number}" for number in range(13, 25)]
"""Three of them get version 2, by the hash of who they are."""
_TEXTS = (
    "What a wonderful day, I love it!",
    "The screen is bright, and the battery lasts for two days.",
    "I would not buy this again.",
    "It is a table.",
    "The plot is dull and the actors are worse.",
)
_SECONDS = 20.0
"""Until what was recorded is in Postgres."""
_LENIENT = ("--callers", "3", "--tolerance", "0.5", "--slower", "1000", "--confidence", "0.5")
"""A rule that so few calls can meet: of 30, nothing is an upper bound of the 95th percentile with more confidence."""
_COMMAND_SECONDS = 30.0


def one_version_each(tour: Tour) -> Outcome:
    """Each text over REST and gRPC: what a caller gets depends on nothing but who it is."""
    found = {user: _versions(tour, user) for user in _CALLERS}
    changing = [user for user, versions in found.items() if len(versions) > 1]
    counts = {version: sum(versions == {version} for versions in found.values()) for version in ("1", "2")}
    seen = f"{', '.join(changing)} got several" if changing else "each keeps one"
    return Outcome(
        f"{seen}, {'both are' if all(counts.values()) else 'only one is'} served",
        f"version 1 for {counts['1']} callers, version 2 for {counts['2']}, {2 * len(_TEXTS)} calls each",
    )


def _versions(tour: Tour, user: str) -> set[str]:
    found: set[str] = set()
    for text in _TEXTS:
        found |= tour.caller.rest("sentiment", tour.token(user), text=text).versions
        found |= tour.caller.grpc("sentiment", tour.token(user), text=text).versions
    return found


def who_chooses(tour: Tour) -> Outcome:
    heidi, alice = tour.token("heidi"), tour.token("alice")
    chosen = tour.caller.rest("sentiment", heidi, x_experiment="canary")
    over_grpc = tour.caller.grpc("sentiment", heidi, x_experiment="canary")
    ignored = tour.caller.rest("sentiment", alice, x_experiment="canary")
    both = " and ".join(sorted(chosen.versions | over_grpc.versions))
    return Outcome(f"version {both}; without the role version {' and '.join(sorted(ignored.versions))}")


def copies(tour: Tour) -> Outcome:
    """Waits until the prediction log has a row of every call that a model answered."""
    answered, deadline = tour.caller.answered["sentiment"], time.monotonic() + _SECONDS
    with psycopg.connect(tour.stack.addresses.database_url, autocommit=True) as database:
        while (found := _predictions(database))[0] != answered or not found[1]:
            if time.monotonic() > deadline:
                return Outcome(f"{found[0]} of {answered} answers, {found[1]} copies in the prediction log")
            time.sleep(0.1)
        events = database.execute("SELECT count(*) FROM usage_events WHERE model = 'sentiment' AND reason = 'allowed'")
        ledger = int(str((events.fetchone() or (0,))[0]))
    events_of = "as many events as answers" if ledger == answered else f"{ledger} events for {answered} answers"
    return Outcome(f"some; {events_of}", f"{answered} answers, and {found[1]} that nobody got")


def _predictions(database: psycopg.Connection[tuple[object, ...]]) -> tuple[int, int]:
    """Rows of calls, and of copies."""
    query = "SELECT count(*) FILTER (WHERE NOT mirrored), count(*) FILTER (WHERE mirrored) FROM predictions"
    calls, copied = database.execute(query).fetchone() or (0, 0)
    return int(str(calls)), int(str(copied))


def report(tour: Tour) -> Outcome:
    """Of what was recorded of the calls above."""
    found = json.loads(_tollgate(tour, "report", "--format", "json"))
    canary, copied = found["variants"]["canary"], found["copies"]["agreement"]
    calls = f"{canary['callers']} callers with {canary['calls']} calls, {canary['errors']['hits']} errors"
    compared = "copies compared" if copied["total"] else "no copies"
    verdict = "promoted" if found["decision"] == "promote" else "not promoted"
    return Outcome(f"{calls}, {compared}, {verdict}", f"decision: {found['decision']}", _tollgate(tour, "report"))


def next_weight(tour: Tour) -> Outcome:
    """Dry runs."""
    policy = tour.stack.settings.policy
    before = policy.read_bytes()
    kept, proposed = _tollgate(tour, "step"), _tollgate(tour, "step", *_LENIENT)
    first = "not by this rule" if "canary keeps the weight 10" in kept else kept
    second = "by another 25" if "canary: 25}" in proposed else proposed
    file = "as it was" if policy.read_bytes() == before else "changed"
    return Outcome(f"{first}, {second}; the file is {file}", "--write changes it", proposed)


def _tollgate(tour: Tour, command: str, *options: str) -> str:
    """`tollgate experiment COMMAND`, as an operator beside this stack types it."""
    done = subprocess.run(
        [sys.executable, "-m", "ext_authz", "experiment", command, _EXPERIMENT, *options],
        env=os.environ | tour.stack.variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=_COMMAND_SECONDS,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return done.stdout


STEPS = (
    Step("a version for each of twelve callers, REST and gRPC", "each keeps one, both are served", one_version_each),
    Step("x-experiment: canary, by an experimenter", "version 2; without the role version 1", who_chooses),
    Step("copies of calls to version 2", "some; as many events as answers", copies),
    Step(
        "tollgate experiment report",
        f"3 callers with {3 * 2 * len(_TEXTS)} calls, 0 errors, copies compared, not promoted",
        report,
    ),
    Step("tollgate experiment step", "not by this rule, by another 25; the file is as it was", next_weight),
)
