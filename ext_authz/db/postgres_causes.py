"""What is wrong with Postgres, in one sentence that says what to do: for the log, /readyz and the command line.

Every state has one sentence, by SQLSTATE, since the texts of Postgres are in the language of its server. No sentence
holds a credential or a caller's value.
"""

from __future__ import annotations

import re

import psycopg

from ext_authz.errors import Unavailable

LONGEST = 200
"""Characters kept of what no sentence is known for."""

MIGRATE = "run tollgate migrate"
_SENTENCES = {
    "25006": "it is read-only: a standby, or default_transaction_read_only is on",
    "3F000": f"no tables: {MIGRATE}",
    "42P01": f"no tables: {MIGRATE}",
    "42703": f"its tables are of an older Tollgate: {MIGRATE}",
    "42883": f"its tables are of an older Tollgate: {MIGRATE}",
    "42P10": f"its tables are of an older Tollgate: {MIGRATE}",
    "53100": "its disk is full: make room there",
    "53200": "it is out of memory",
    "53300": "it takes no more connections: raise max_connections, or put a pooler in front of it",
    "55P03": "somebody holds a lock for too long: see pg_stat_activity",
    "57014": "it cancelled a statement: statement_timeout of the role or the database is too short",
    "57P01": "it is shutting down",
    "57P02": "it has crashed and comes back",
    "57P03": "it is starting, or in recovery: wait",
}


_TLS = {
    "does not support SSL": "it speaks no TLS, and sslmode in TOLLGATE_DATABASE_URL asks for it",
    "certificate verify failed": "its certificate is signed by nobody known: name the CA with ?sslrootcert=",
    "root certificate file": "to know it by its certificate takes its CA: name that with ?sslrootcert=",
    "does not match host name": "its certificate is for another host: name it in the URL as it calls itself",
}
"""Found out on our side, so in one language: what the text holds, to the sentence."""


def cause_of(failure: BaseException) -> str:
    """The sentence for a failure of psycopg, its pool, or the network; or one that is known already."""
    if isinstance(failure, Unavailable):
        return failure.detail
    state = (failure.sqlstate if isinstance(failure, psycopg.Error) else None) or ""
    if state in _SENTENCES:
        return _SENTENCES[state]
    if tls := _tls(failure):
        return tls
    if state == "42501":
        return f"{_line(failure)}: grant it to the role of TOLLGATE_DATABASE_URL"
    if isinstance(failure, TimeoutError):
        return "no answer in time"
    return _line(failure) or type(failure).__name__


def _tls(failure: BaseException) -> str:
    said = str(failure)
    return next((sentence for part, sentence in _TLS.items() if part in said), "")


def _line(failure: BaseException) -> str:
    return " ".join(str(failure).partition("\n")[0].split())[:LONGEST]


_REFUSAL = re.compile(r": \S+:  |failed to resolve host")
"""By the server (libpq writes its severity so, in whatever language: "FATAL:  ..."), or since nobody is called so."""
_AWAY = re.compile("server_login_retry|cannot connect to server|query_wait_timeout|starting up|shutting down|recovery")
"""Said by a pooler, or by Postgres, for an outage."""


def unavailable(failure: BaseException) -> Unavailable:
    """What refuses us counts as answering, and so does a name that no host has: that is no outage to wait for."""
    said = str(failure)
    refused = _REFUSAL.search(said) and not _AWAY.search(said)
    answers = bool(getattr(failure, "sqlstate", None) or refused or _tls(failure))
    return Unavailable("postgres", cause_of(failure), answers=answers)
