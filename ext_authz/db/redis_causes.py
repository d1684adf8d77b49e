"""What is wrong with Redis, in one sentence that says what to do: for the log, /readyz and the ledger.

Every state has one sentence, whatever command met it and whichever server says it (Redis 6.2 to 8, Valkey), so that
one outage is one cause and is logged once. No sentence holds a credential, a key or a caller's value.
"""

from __future__ import annotations

import re

LONGEST = 200
"""Characters kept of what no sentence is known for."""

_SENTENCES = (
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
        "the ACL forbids us {} (NOPERM): see ADR 3",
    ),
    ("NOAUTH|Authentication required|without any password", "it asks for a password: put it into TOLLGATE_REDIS_URL"),
    ("WRONGPASS|invalid username-password|invalid password", "it refuses user or password: see TOLLGATE_REDIS_URL"),
    ("DB index|SELECT is not allowed", "it has no such database: see the number at the end of TOLLGATE_REDIS_URL"),
    ("DENIED|protected mode", "it is in protected mode and takes local connections only: give it a password and bind"),
    ("max number of clients", "it takes no more connections: raise maxclients"),
    ("WRONGTYPE|wrong kind of value", "a key of ours holds something else (WRONGTYPE): is the database shared?"),
    ("unknown command", "it lacks a command: Redis 6.2 or newer is needed, with none of ADR 3's renamed"),
    (
        "mismatch, certificate|match either",
        "its certificate is for another host: name it in the URL as it calls itself",
    ),
    ("certificate has expired|not yet valid", "its certificate has expired, or is not valid yet: see both clocks"),
    ("CERTIFICATE_VERIFY", "its certificate is signed by nobody known: name the CA with ?ssl_ca_certs="),
    (r"WRONG_VERSION|SSL|\\x15", "only one side speaks TLS: rediss:// is with TLS, redis:// without"),
    (
        "closed by server|closed the connection|reset by peer|Broken pipe",
        "it closed the connection: it stopped, speaks TLS only (rediss://), or wants a certificate (?ssl_certfile=)",
    ),
    ("InvalidResponse|Protocol [Ee]rror", "what answers there does not speak Redis' protocol: see TOLLGATE_REDIS_URL"),
    ("TLS: no answer", "no answer in time to TLS: rediss:// is with TLS, redis:// without"),
    ("TimeoutError|Timeout|timed out", "no answer in time"),
)
_KNOWN = tuple((re.compile(pattern), sentence) for pattern, sentence in _SENTENCES)
_COMMAND = re.compile(r"the '([a-z|]{1,30})' command")


def cause_of(failure: BaseException) -> str:
    """The sentence for a failure of redis-py, of our own connection, or of the network."""
    said = f"{type(failure).__name__}: {failure}"
    for pattern, sentence in _KNOWN:
        if pattern.search(said):
            command = _COMMAND.search(said)
            return sentence.format(command[1].upper() if command else "a command or key")
    return " ".join(str(failure).split())[:LONGEST] or type(failure).__name__
