"""The steps of the tour: what is called, and what changes meanwhile. Each returns what it saw beside the expected."""

from __future__ import annotations

import base64
import threading
import time
from collections import Counter
from collections.abc import Callable

import httpx
import psycopg
from msgspec import Struct

from devstack.demo.participants import EXAMPLES, Caller, Operator, Provider, Seen, Token
from devstack.stack.stack import Stack
from devstack.stack.triton import installed
from ext_authz.decision import Reason

PER_USER = 10
PER_PATH = 100
"""The limits of the demo policy, a minute each."""
_ROTATIONS = 3
_LEDGER_SECONDS = 15.0
_CROWD = [f"load{number:02}" for number in range(1, 13)]


class Tour(Struct):
    """What the steps share."""

    caller: Caller
    provider: Provider
    operator: Operator
    stack: Stack
    tokens: dict[str, Token] = {}

    def token(self, user: str) -> Token:
        """One session per user for the whole tour."""
        if user not in self.tokens:
            self.tokens[user] = self.provider.login(user)
        return self.tokens[user]


class Outcome(Struct, frozen=True):
    """What a step saw, to be compared, and a note."""

    seen: str
    note: str = ""
    shown: str = ""
    """Lines to print below."""


class Step(Struct, frozen=True):
    """One line of the tour."""

    title: str
    expected: str
    run: Callable[[Tour], Outcome]


def no_token(tour: Tour) -> Outcome:
    seen = tour.caller.rest("sentiment", None, Reason.NO_CREDENTIAL)
    challenge, _, where = seen.headers.get("www-authenticate", "no challenge").partition(", resource_metadata=")
    return Outcome(f"{seen}, {challenge}, resource_metadata {'given' if where else 'missing'}", where.strip('"'))


def predicts_over_rest(tour: Tour) -> Outcome:
    seen = tour.caller.rest("sentiment", tour.token("alice"))
    return Outcome(f"{seen}, label {seen.outputs.get('label')}", f"score {float(seen.outputs.get('score', 'nan')):.2f}")


def predicts_over_grpc(tour: Tour) -> Outcome:
    seen = tour.caller.grpc("cancer", tour.token("alice"))
    return Outcome(f"{seen}, model {seen.outputs.get('model_name')}")


def every_model(tour: Tour) -> Outcome:
    """That is installed (`make models FRAMEWORKS=all` installs all of them), over gRPC."""
    frameworks = installed(tour.stack.settings.models)
    if unknown := frameworks.keys() - EXAMPLES:
        return Outcome(f"there is no example for {', '.join(sorted(unknown))}")
    seen = {name: tour.caller.grpc(name, tour.token("frank")) for name in EXAMPLES if name in frameworks}
    wrong = [f"{name} {answer}" for name, answer in seen.items() if answer.status != "OK"]
    found = [
        f"{name} ({frameworks[name]}): {answer.outputs.get('label') or answer.outputs.get('mpg')}"
        for name, answer in seen.items()
    ]
    told = f"{len(seen)} models of {len({frameworks[name] for name in seen})} frameworks: {', '.join(found)}"
    return Outcome(", ".join(wrong) or ("each answers" if seen else "none is installed"), told)


def without_the_role(tour: Tour) -> Outcome:
    rest = tour.caller.rest("sentiment", tour.token("carol"), Reason.FORBIDDEN)
    return Outcome(f"{rest}; gRPC {tour.caller.grpc('sentiment', tour.token('carol'), Reason.FORBIDDEN)}")


def expired(tour: Tour) -> Outcome:
    token = tour.provider.login("alice", "short-lived")
    tour.provider.wait_until_expired(token)
    return Outcome(str(tour.caller.rest("sentiment", token, Reason.INVALID_CREDENTIAL)))


def wrong_audience(tour: Tour) -> Outcome:
    token = tour.provider.login("alice", "archive-app")
    return Outcome(str(tour.caller.rest("sentiment", token, Reason.INVALID_CREDENTIAL)))


def id_token(tour: Tour) -> Outcome:
    token = tour.token("alice")
    return Outcome(str(tour.caller.rest("sentiment", Token(token.id_token, token.client), Reason.INVALID_CREDENTIAL)))


def tampered(tour: Tour) -> Outcome:
    header, payload, signature = tour.token("alice").text.split(".")
    claims = base64.urlsafe_b64decode(payload + "==").replace(b'"alice"', b'"admin"')
    forged = f"{header}.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.{signature}"
    return Outcome(str(tour.caller.rest("sentiment", Token(forged, ""), Reason.INVALID_CREDENTIAL)))


def forged_user(tour: Tour) -> Outcome:
    seen = tour.caller.rest("sentiment", tour.token("alice"), x_user_id="admin", X_User_Id="root")
    caller, alice = seen.outputs.get("caller", ""), tour.provider.subject(tour.token("alice"))
    return Outcome(f"{seen}, the model saw {'alice' if caller == alice else caller}")


def eleventh_over_rest(tour: Tour) -> Outcome:
    passed = sum(tour.caller.rest("sentiment", tour.token("bob")).status == "200" for _ in range(PER_USER))
    seen = tour.caller.rest("sentiment", tour.token("bob"), Reason.OVER_LIMIT)
    return _limited(passed, seen, "retry-after")


def eleventh_over_grpc(tour: Tour) -> Outcome:
    token = tour.provider.service("batch-job")
    passed = sum(tour.caller.grpc("sentiment", token).status == "OK" for _ in range(PER_USER))
    seen = tour.caller.grpc("sentiment", token, Reason.OVER_LIMIT)
    return _limited(passed, seen, "grpc-retry-pushback-ms")


def hundred_and_first(tour: Tour) -> Outcome:
    turns = [user for _ in range(PER_USER) for user in _CROWD][:PER_PATH]
    passed = sum(tour.caller.rest("cancer", tour.token(user)).status == "200" for user in turns)
    seen = tour.caller.rest("cancer", tour.token(_CROWD[-1]), Reason.OVER_LIMIT)
    return _limited(passed, seen, "retry-after")


def revoked_user(tour: Tour) -> Outcome:
    token = tour.token("alice")
    started = time.perf_counter()
    tour.operator.revoke_user(tour.provider.subject(token))
    returned = time.perf_counter()
    seen = tour.caller.rest("sentiment", token, Reason.REVOKED)
    waited = f"the call took {(returned - started) * 1000:.0f} ms, the next request was refused"
    return Outcome(str(seen), waited)


def logged_out(tour: Tour) -> Outcome:
    first = tour.provider.login("erin")
    second = tour.provider.refresh(first)
    before = tour.caller.rest("sentiment", second)
    tour.provider.logout(second)
    tour.operator.revoke_session(tour.provider.session_of(first))
    after = [tour.caller.rest("sentiment", token, Reason.REVOKED) for token in (first, second)]
    return Outcome(f"{before}; then both its tokens {', '.join(map(str, after))}")


def rotated_keys(tour: Tour) -> Outcome:
    """A thread calls with old and new tokens while the provider changes its key."""
    old = tour.token("frank")
    answers: list[int] = []
    stop = threading.Event()

    def keep_calling() -> None:
        while not stop.is_set():
            answers.append(_ready(tour, tour.token("frank")))

    calls = threading.Thread(target=keep_calling)
    calls.start()
    try:
        for _ in range(_ROTATIONS):
            tour.provider.rotate_keys()
            tour.tokens["frank"] = tour.provider.login("frank")
            answers.append(_ready(tour, old))
    finally:
        stop.set()
        calls.join()
    return Outcome(f"{sum(answer != 200 for answer in answers)} calls failed", f"of {len(answers)}")


def _ready(tour: Tour, token: Token) -> int:
    """0: no answer at all, which a thread must not die of unseen."""
    try:
        return tour.caller.ready("sentiment", token)
    except httpx.HTTPError:
        return 0


def usage(tour: Tour) -> Outcome:
    """Calls sent against events in the ledger, per client and reason. Waits until as many have arrived."""
    sent, deadline = tour.caller.sent, time.monotonic() + _LEDGER_SECONDS
    with psycopg.connect(tour.stack.addresses.database_url, autocommit=True) as connection:
        while sum((ledger := _in_ledger(connection)).values()) < sum(sent.values()) and time.monotonic() < deadline:
            time.sleep(0.05)
    differences = {key: (sent[key], ledger[key]) for key in sent | ledger if sent[key] != ledger[key]}
    if differences:
        return Outcome(f"(client, reason): (sent, in the ledger) {differences}")
    return Outcome("equal to what was sent", f"{sum(ledger.values())} events: {_readable(ledger)}")


def _in_ledger(connection: psycopg.Connection[tuple[object, ...]]) -> Counter[tuple[str, str]]:
    rows = connection.execute("SELECT client, reason, count(*) FROM usage_events GROUP BY 1, 2").fetchall()
    return Counter({(str(client), str(reason)): int(str(count)) for client, reason, count in rows})


def _readable(ledger: Counter[tuple[str, str]]) -> str:
    return ", ".join(f"{client or 'unknown'} {reason} {count}" for (client, reason), count in sorted(ledger.items()))


def _limited(passed: int, seen: Seen, header: str) -> Outcome:
    value = seen.headers.get(header, "")
    return Outcome(
        f"{passed} pass, then {seen}, {header} {'given' if value.isdigit() else 'missing'}", f"{header}: {value}"
    )


CALLS = (
    Step("no token", '401 credential_missing, Bearer realm="tollgate", resource_metadata given', no_token),
    Step("a user with the role predicts over REST", "200, label positive", predicts_over_rest),
    Step("the same over gRPC", "OK, model cancer", predicts_over_grpc),
    Step("every model that is installed", "each answers", every_model),
    Step("a user without the role", "403 model_forbidden; gRPC PERMISSION_DENIED", without_the_role),
    Step("an expired token", "401 token_expired", expired),
    Step("a token for another audience", "401 audience_mismatch", wrong_audience),
    Step("an ID token", "401 token_type", id_token),
    Step("a tampered token", "401 signature_invalid", tampered),
    Step("a forged x-user-id", "200, the model saw alice", forged_user),
    Step("the 11th request of a user, REST", "10 pass, then 429 over_limit, retry-after given", eleventh_over_rest),
    Step(
        "the 11th request of a user, gRPC",
        "10 pass, then RESOURCE_EXHAUSTED, grpc-retry-pushback-ms given",
        eleventh_over_grpc,
    ),
    Step("the 101st on a path by twelve users", "100 pass, then 429 over_limit, retry-after given", hundred_and_first),
)

CHANGES = (
    Step("a user's tokens revoked", "401 invalid_token", revoked_user),
    Step("a session logged out", "200; then both its tokens 401 invalid_token, 401 invalid_token", logged_out),
    Step("the signing key rotated three times", "0 calls failed", rotated_keys),
    Step("the usage per client, read from Postgres", "equal to what was sent", usage),
)
