"""The bill of random callers, while every process is killed, is what the callers counted themselves."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import LiteralString

import psycopg
import pytest
import redis
from click.testing import CliRunner

from devstack.demo.participants import Provider, Token
from devstack.stack.settings import load_stack_settings
from devstack.stack.stack import Stack, running_stack
from ext_authz.ledger.commands import usage
from tests.e2e.billing.world import Books
from tests.recount.callers import Caller, Seen
from tests.recount.recounting import Billed, ensure_equal, figures
from tests.services import wait_for

pytestmark = pytest.mark.timeout(1200)

SEED = 12
KILLED = ("authorizer", "usage-worker", "triton", "envoy", "postgres", "redis")
ACCOUNTS = {"acme": "web-app", "bolt": "batch-job"}
WRONG_BILLS: tuple[LiteralString, ...] = (
    "UPDATE usage_daily SET requests = calls, billed = true WHERE outcome = 'denied'",
    "UPDATE usage_daily SET requests = calls, billed = true WHERE outcome = 'rate_limited'",
    "UPDATE usage_daily SET requests = calls, billed = true WHERE outcome = 'client_error'",
    "UPDATE usage_daily SET requests = 0 WHERE outcome = 'served' AND model = 'cancer'",
    "UPDATE usage_daily SET requests = 2 * requests",
)
"""Of bills that have calls that were refused or wrong, or have some not, or have them twice."""
PATIENCE = 300.0
"""Seconds that a slow machine has for each step."""
MEANWHILE = 8
"""Calls that each caller begins between two kills."""
_SETTLED = """
SELECT decision_id::text FROM usage_events JOIN call_outcomes USING (decision_id) WHERE decision_id = ANY(%s::uuid[])
"""
_SUMS: LiteralString = "SELECT sum(requests), sum(units), sum(bytes_in), sum(bytes_out), sum(seconds) FROM"
_SUMMED, _BILLABLE = f"{_SUMS} usage_daily", f"{_SUMS} billable"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """As `tollgate up`, with limits that callers reach, but not with all calls; without an experiment."""
    directory = tmp_path_factory.mktemp("recount")
    text = re.sub(r"^experiments:\n(?: .*\n)+", "", load_stack_settings().policy.read_text(), flags=re.MULTILINE)
    text = text.replace("rate: 10/m", "rate: 60/m").replace("rate: 100/m", "rate: 9000/m")
    (directory / "policy.yaml").write_text(text)
    with running_stack(directory / "state", policy=directory / "policy.yaml") as running:
        yield running


@pytest.fixture
def callers(stack: Stack) -> Iterator[list[Caller]]:
    provider = Provider(stack.addresses.issuer, stack.identity_admin_token)
    tokens = [provider.login(user) for user in ("load01", "load02", "load03")] + [provider.service("batch-job")]
    others = [Token("", ""), provider.login("grace"), provider.login("alice", "archive-app")]
    places = stack.addresses.envoy, stack.addresses.envoy_grpc
    found = [Caller(*places, token, others, f"{SEED} {number}") for number, token in enumerate(tokens)]
    yield found
    end(found)
    for caller in found:
        caller.close()


@pytest.fixture
def books(stack: Stack, tmp_path: Path) -> Books:
    """An account for each client, from yesterday on: the period does not end meanwhile."""
    made, since = Books(stack.addresses.database_url, tmp_path), str(datetime.now(UTC).date() - timedelta(1))
    made.publish()
    for name, client in ACCOUNTS.items():
        made.tollgate("accounts", "create", name, "--title", name, "--anchor", since)
        made.tollgate("accounts", "subscribe", name, "default", "--prices", "standard", "--since", since)
        made.tollgate("accounts", "add-client", name, client, "--issuer", stack.addresses.issuer, "--since", since)
    return made


def test_the_bill_is_what_the_callers_counted_whatever_is_killed(
    stack: Stack, callers: Sequence[Caller], books: Books
) -> None:
    durable(stack)
    for caller in callers:
        caller.start()
    for name in Random(SEED).sample(KILLED, len(KILLED)):
        more(callers)
        stack.child(name).kill()
        more(callers[:1], 3)
        stack.child(name).start()
        durable(stack)
    with psycopg.connect(stack.addresses.database_url, autocommit=True) as database:
        settled = Settled(database)
        settled.wait_for_streams(callers)
        end(callers)
        settled.wait_for_last(callers)
        wait_for(lambda: database.execute(_SUMMED).fetchone() == database.execute(_BILLABLE).fetchone(), PATIENCE)

    books_of, unsettled = seen_by_account(callers), reconciled(stack)
    for account, seen in books_of.items():
        bill = Billed.of(books, account)
        ensure_equal(seen, bill, unsettled)
        print(f"{account}: {figures(seen, bill, unsettled)}")  # noqa: T201
    for wrong in WRONG_BILLS:
        with changed_sums(books, wrong), pytest.raises(AssertionError):
            ensure_equal(books_of["acme"], Billed.of(books, "acme"), unsettled)


def seen_by_account(callers: Sequence[Caller]) -> dict[str, list[Seen]]:
    return {
        account: [each for caller in callers for each in caller.seen if each.client == client]
        for account, client in ACCOUNTS.items()
    }


@contextmanager
def changed_sums(books: Books, wrong: LiteralString) -> Iterator[None]:
    """That bills are made of."""
    books.sql("CREATE TABLE right_sums AS SELECT * FROM usage_daily")
    books.sql(wrong)
    try:
        yield
    finally:
        with psycopg.connect(books.database_url) as database:
            database.execute("TRUNCATE usage_daily")
            database.execute("INSERT INTO usage_daily SELECT * FROM right_sums")
            database.execute("DROP TABLE right_sums")


def durable(stack: Stack) -> None:
    """Redis writes to the disk before it answers, until it is started again."""
    with redis.Redis.from_url(stack.addresses.redis_url) as client:
        client.config_set("appendfsync", "always")


def end(callers: Iterable[Caller]) -> None:
    for caller in callers:
        caller.over.set()
        if caller.is_alive():
            caller.join()


def more(callers: Sequence[Caller], number: int = MEANWHILE) -> None:
    """Wait until each of them has called so often."""
    targets = [len(caller.seen) + number for caller in callers]
    wait_for(lambda: all(len(caller.seen) >= target for caller, target in zip(callers, targets, strict=True)), PATIENCE)


class Settled:
    """Whether both the ledger and the access log have calls. Each thread of Envoy has a stream of its access log, which
    it opens again when it has something to write: entries come in the order of its calls, or not at all."""

    def __init__(self, database: psycopg.Connection) -> None:
        self._database = database

    def has(self, calls: Iterable[Seen]) -> set[str]:
        """Which of the decisions."""
        wanted = [seen.decision for seen in calls if seen.is_answered]
        return {found for (found,) in self._database.execute(_SETTLED, (wanted,)).fetchall()}

    def wait_for_streams(self, callers: Sequence[Caller]) -> None:
        """While the callers call: until an entry has come of each of their connections."""
        begin = [len(caller.seen) for caller in callers]

        def are_open() -> bool:
            new = [caller.seen[start:] for caller, start in zip(callers, begin, strict=True)]
            protocols = [[seen for seen in calls if seen.status == status] for calls in new for status in ("200", "OK")]
            return all(map(self.has, protocols))

        wait_for(are_open, PATIENCE)

    def wait_for_last(self, callers: Sequence[Caller]) -> None:
        """When the callers have ended: until an entry has come of one more call of each connection."""
        last = [seen for caller in callers for seen in caller.last()]
        assert all(seen.is_answered for seen in last)
        wait_for(lambda: len(self.has(last)) == len(last), PATIENCE)


def reconciled(stack: Stack) -> set[str]:
    """What `tollgate usage reconcile` lists."""
    arguments = ("reconcile", "--grace", "1s", "--limit", "10000", "--format", "json")
    environ = {"TOLLGATE_DATABASE_URL": stack.addresses.database_url}
    found = CliRunner().invoke(usage, arguments, env=environ)
    assert found.exit_code == 0, found.output
    rows = json.loads(found.stdout)
    assert {row["kind"] for row in rows} <= {"unsettled"}
    return {row["decision_id"] for row in rows}
