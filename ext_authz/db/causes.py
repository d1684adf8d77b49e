"""What is wrong with Postgres or Redis, in one sentence that says what to do: for the log, /readyz and the commands.

Every state has one sentence, whichever statement or command met it, so that one outage is one cause and is logged once.
Postgres is known by SQLSTATE, since its texts are in the language of the server; Redis by its texts, of every server
from Redis 6.2 to 8 and Valkey. No sentence holds a credential, a key or a caller's value.
"""

from __future__ import annotations

import re

import psycopg
from redis.exceptions import RedisError

from ext_authz.errors import Unavailable

LONGEST = 200
"""Characters kept of what no sentence is known for."""

MIGRATE = "run tollgate migrate"
_POSTGRES_SENTENCES = {
    "25006": "it is read-only: a standby, or default_transaction_read_only is on",
    "3F000": f"no tables: {MIGRATE}",
    "42P01": f"no tables: {MIGRATE}",
    "42703": f"its tables are of an older Tollgate: {MIGRATE}",
    "42883": f"its tables are of an older Tollgate: {MIGRATE}",
    "42P10": f"its tables are of an older Tollgate: {MIGRATE}",
    "53100": "its disk is full: make room there",
    "53200": "it is out of memory",
    "53300": "it accepts no more connections: raise max_connections, or put a pooler in front of it",
    "55P03": "another session holds a lock for too long: see pg_stat_activity",
    "57014": "it cancelled a statement: statement_timeout of the role or the database is too short",
    "57P01": "it is shutting down",
    "57P02": "it has crashed and is restarting",
    "57P03": "it is starting, or in recovery: wait",
}


_TLS = {
    "does not support SSL": "it does not support TLS, which sslmode in TOLLGATE_DATABASE_URL requires",
    "certificate verify failed": "its certificate is signed by an unknown authority: name the CA with ?sslrootcert=",
    "root certificate file": "its certificate cannot be verified without its CA: name that with ?sslrootcert=",
    "does not match host name": "its certificate is for another host: put the name of the certificate into the URL",
}
"""Detected by libpq, so in one language: part of its text, to the sentence."""


def postgres_cause(failure: BaseException) -> str:
    """The sentence for a failure of psycopg, its pool, or the network; or one that is known already."""
    if isinstance(failure, Unavailable):
        return failure.detail
    state = (failure.sqlstate if isinstance(failure, psycopg.Error) else None) or ""
    if state in _POSTGRES_SENTENCES:
        return _POSTGRES_SENTENCES[state]
    if tls := _tls(failure):
        return tls
    if state == "42501":
        return f"{_line(failure)}: grant it to the role of TOLLGATE_DATABASE_URL"
    if isinstance(failure, TimeoutError):
        return "no answer in time"
    return _line(failure)


def _tls(failure: BaseException) -> str:
    return next((sentence for part, sentence in _TLS.items() if part in str(failure)), "")


def _line(failure: BaseException) -> str:
    return " ".join(str(failure).partition("\n")[0].split())[:LONGEST] or type(failure).__name__


_REFUSAL = re.compile(r": \S+:  |failed to resolve host")
"""By the server (libpq writes its severity like this, in any language: "FATAL:  ..."), or by DNS."""
_AWAY = re.compile("server_login_retry|cannot connect to server|query_wait_timeout|starting up|shutting down|recovery")
"""From a pooler, or from Postgres, for an outage."""


def unavailable(failure: BaseException) -> Unavailable:
    """A server that refuses, and a host name that does not exist, count as answering: that is no outage to wait for."""
    text = str(failure)
    refused = _REFUSAL.search(text) and not _AWAY.search(text)
    answers = bool(getattr(failure, "sqlstate", None) or refused or _tls(failure))
    return Unavailable("postgres", postgres_cause(failure), answers=answers)


_REDIS_SENTENCES = (
    ("READONLY|ReadOnly", "it is a read-only replica (READONLY): name the primary in TOLLGATE_REDIS_URL"),
    ("OOM|OutOfMemory", "it is full (OOM): see that the usage worker drains the ledger, or raise maxmemory"),
    ("NOREPLICAS", "too few replicas follow it (NOREPLICAS): bring them back, or lower min-replicas-to-write"),
    ("MISCONF", "it cannot save to disk and refuses writes (MISCONF): see its log, or its disk"),
    ("LOADING|BusyLoading", "it is still loading its data (LOADING): wait"),
    ("MASTERDOWN|MasterDown", "it is a replica that has lost its primary (MASTERDOWN): name the primary"),
    (
        "CLUSTERDOWN|ClusterDown",
        "the cluster is down or its slot has no node (CLUSTERDOWN): see `redis-cli --cluster check`",
    ),
    ("TRYAGAIN|TryAgain|AskError|^ASK ", "its slot is being migrated (ASK): it serves again when that is done"),
    (
        "NOPERM|NoPermission|can't run this command|ACL failure",
        "its ACL forbids {} (NOPERM): see ADR 3",
    ),
    ("NOAUTH|Authentication required|without any password", "it requires a password: put it into TOLLGATE_REDIS_URL"),
    ("WRONGPASS|invalid username-password|invalid password", "it refuses the user or password in TOLLGATE_REDIS_URL"),
    ("DB index|SELECT is not allowed", "it has no such database: see the number at the end of TOLLGATE_REDIS_URL"),
    ("DENIED|protected mode", "it is in protected mode and takes local connections only: give it a password and bind"),
    ("max number of clients", "it accepts no more connections: raise maxclients"),
    (
        "WRONGTYPE|wrong kind of value",
        "one of our keys has another type (WRONGTYPE): use a database that nothing else writes to",
    ),
    ("unknown command", "it lacks a command: use Redis 6.2 or newer, and rename none of the commands of ADR 3"),
    (
        "mismatch, certificate|match either",
        "its certificate is for another host: put the name of the certificate into the URL",
    ),
    ("certificate has expired|not yet valid", "its certificate has expired, or is not valid yet: see both clocks"),
    ("CERTIFICATE_VERIFY", "its certificate is signed by an unknown authority: name the CA with ?ssl_ca_certs="),
    (r"WRONG_VERSION|SSL|\\x15", "one side uses TLS and the other does not: rediss:// is with TLS, redis:// without"),
    (
        "closed by server|closed the connection|reset by peer|Broken pipe",
        "it closed the connection: it stopped, speaks TLS only (rediss://), or wants a certificate (?ssl_certfile=)",
    ),
    ("InvalidResponse|Protocol [Ee]rror", "the server does not speak the Redis protocol: see TOLLGATE_REDIS_URL"),
    ("TLS: no answer", "no answer in time to TLS: rediss:// is with TLS, redis:// without"),
    ("TimeoutError|Timeout|timed out", "no answer in time"),
)
_KNOWN = tuple((re.compile(pattern), sentence) for pattern, sentence in _REDIS_SENTENCES)
_COMMAND = re.compile(r"the '([a-z|]{1,30})' command")


def redis_cause(failure: BaseException) -> str:
    """The sentence for a failure of redis-py, of our own connection, or of the network."""
    text = f"{type(failure).__name__}: {failure}"
    for pattern, sentence in _KNOWN:
        if pattern.search(text):
            command = _COMMAND.search(text)
            return sentence.format(command[1].upper() if command else "a command or key")
    return _line(failure)


def cause_of(failure: BaseException) -> str:
    """The sentence for a failure of either store."""
    return redis_cause(failure) if isinstance(failure, RedisError) else postgres_cause(failure)
