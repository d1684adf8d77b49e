"""One sentence per state of Postgres, by SQLSTATE; and whether it is an outage or a refusal."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.errors import lookup

from ext_authz.db.causes import LONGEST, postgres_cause, unavailable
from ext_authz.errors import Unavailable


@pytest.mark.parametrize(
    ("state", "said", "cause"),
    [
        ("42P01", "Relation »revocations« existiert nicht\nLINE 1", "no tables: run tollgate migrate"),
        ("42703", "column does not exist", "its tables are of an older Tollgate: run tollgate migrate"),
        ("25006", "cannot execute INSERT", "it is read-only: a standby, or default_transaction_read_only is on"),
        ("53100", "could not extend file", "its disk is full: make room there"),
        ("57P03", "the database system is starting up", "it is starting, or in recovery: wait"),
        (
            "42501",
            "permission denied for table revocations",
            "permission denied for table revocations: grant it to the role of TOLLGATE_DATABASE_URL",
        ),
        ("22021", "invalid byte\nCONTEXT: a caller's name", "invalid byte"),
    ],
)
def test_what_postgres_says(state: str, said: str, cause: str) -> None:
    failure = lookup(state)(said)
    assert postgres_cause(failure) == cause
    assert unavailable(failure).answers


@pytest.mark.parametrize(
    ("said", "answers"),
    [
        ('connection failed: connection to server at "127.0.0.1", port 1 failed: Connection refused\n\tIs', False),
        ("connection timeout expired", False),
        ("couldn't get a connection after 0.45 sec", False),
        ('connection failed: connection to server failed: FATAL:  password authentication failed for user "u"', True),
        ('connection failed: connection to server failed: FATAL:  database "x" does not exist', True),
        ("connection failed: connection to server failed: ВАЖНО:  роль не существует", True),
        ("connection failed: connection to server failed: FATAL:  the database system is starting up", False),
        ("connection failed: connection to server failed: FATAL:  server_login_retry", False),
        ("failed to resolve host 'no.such.host': [Errno -2] Name or service not known", True),
    ],
)
def test_a_failure_to_connect_is_an_outage_or_a_refusal(said: str, *, answers: bool) -> None:
    failure = unavailable(psycopg.OperationalError(said))
    assert (failure.dependency, failure.answers) == ("postgres", answers)


def test_a_failure_without_a_text_is_named_by_its_type() -> None:
    assert postgres_cause(TimeoutError()) == "no answer in time"
    assert postgres_cause(psycopg.OperationalError()) == "OperationalError"
    assert postgres_cause(Unavailable("postgres", "known already")) == "known already"
    assert len(postgres_cause(psycopg.OperationalError("x" * 10_000))) == LONGEST
