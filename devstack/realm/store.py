"""What must outlive a restart, in one SQLite file: keys, login sessions, refresh chains, revoked tokens."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from msgspec import Struct

_SCHEMA = """
CREATE TABLE IF NOT EXISTS keys (
    serial INTEGER PRIMARY KEY, kid TEXT NOT NULL UNIQUE, alg TEXT NOT NULL, active INTEGER NOT NULL, jwk TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS sessions (
    sid TEXT PRIMARY KEY, user_id TEXT NOT NULL, started INTEGER NOT NULL, used INTEGER NOT NULL, auth_time INTEGER
);
CREATE TABLE IF NOT EXISTS refresh_chains (
    chain TEXT PRIMARY KEY, sid TEXT NOT NULL REFERENCES sessions ON DELETE CASCADE,
    client TEXT NOT NULL, newest TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS refresh_chains_of_session ON refresh_chains (sid, client);
CREATE TABLE IF NOT EXISTS revoked_tokens (jti TEXT PRIMARY KEY, expires INTEGER NOT NULL);
"""


class Session(Struct, frozen=True):
    """One login of one user; it may serve several clients."""

    sid: str
    user_id: str
    started: int
    used: int
    """When it was last started or refreshed."""
    auth_time: int | None
    """When the user typed the password into our page; None for the password grant, as in Keycloak."""


class StoredKey(Struct, frozen=True):
    """A key as it lies on disk; one per algorithm is active."""

    kid: str
    alg: str
    active: bool
    jwk: str


class Store:
    """One connection, used by one thread: the server's event loop."""

    def __init__(self, path: Path) -> None:
        path.touch(mode=0o600)  # private keys inside
        # The server is built on one thread and may run on another, never on two at once.
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        # WAL with NORMAL: a killed process loses nothing, a power cut perhaps the last logins.
        self._db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON;" + _SCHEMA)

    def close(self) -> None:
        self._db.close()

    def stored_keys(self) -> list[StoredKey]:
        """Newest first."""
        rows = self._db.execute("SELECT kid, alg, active, jwk FROM keys ORDER BY serial DESC")
        return [StoredKey(kid, alg, bool(active), jwk) for kid, alg, active, jwk in rows]

    def add_active_key(self, kid: str, alg: str, jwk: str) -> None:
        """The new key takes over; older ones of the same algorithm become passive."""
        with self._db:
            self._db.execute("BEGIN")
            self._db.execute("UPDATE keys SET active = 0 WHERE alg = ?", (alg,))
            self._db.execute("INSERT INTO keys (kid, alg, active, jwk) VALUES (?, ?, 1, ?)", (kid, alg, jwk))

    def delete_key(self, kid: str) -> None:
        self._db.execute("DELETE FROM keys WHERE kid = ?", (kid,))

    def session(self, sid: str) -> Session | None:
        row = self._db.execute("SELECT * FROM sessions WHERE sid = ?", (sid,)).fetchone()
        return Session(*row) if row else None

    def save_session(self, session: Session) -> None:
        """Insert, or move `used` forward."""
        values = (session.sid, session.user_id, session.started, session.used, session.auth_time)
        upsert = "INSERT INTO sessions VALUES (?, ?, ?, ?, ?) ON CONFLICT (sid) DO UPDATE SET used = excluded.used"
        self._db.execute(upsert, values)

    def end_session(self, sid: str) -> None:
        self._db.execute("DELETE FROM sessions WHERE sid = ?", (sid,))

    def forget_before(self, *, started: int, used: int, now: int) -> None:
        """Drop sessions started or last used before these times, and revocations of tokens that have expired."""
        self._db.execute("DELETE FROM sessions WHERE started < ? OR used < ?", (started, used))
        self._db.execute("DELETE FROM revoked_tokens WHERE expires < ?", (now,))

    def save_chain(self, chain: str, sid: str, client: str, newest: str) -> None:
        """`newest` is the only refresh token of this chain that is still good."""
        upsert = (
            "INSERT INTO refresh_chains VALUES (?, ?, ?, ?) ON CONFLICT (chain) DO UPDATE SET newest = excluded.newest"
        )
        self._db.execute(upsert, (chain, sid, client, newest))

    def newest_in_chain(self, chain: str) -> str | None:
        row = self._db.execute("SELECT newest FROM refresh_chains WHERE chain = ?", (chain,)).fetchone()
        return str(row[0]) if row else None

    def serves(self, sid: str, client: str) -> bool:
        """Whether the session still stands for this client."""
        found = self._db.execute("SELECT 1 FROM refresh_chains WHERE sid = ? AND client = ?", (sid, client))
        return found.fetchone() is not None

    def detach(self, sid: str, client: str) -> None:
        """This client's part of the session ends; other clients keep theirs."""
        self._db.execute("DELETE FROM refresh_chains WHERE sid = ? AND client = ?", (sid, client))

    def revoke_token(self, jti: str, expires: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO revoked_tokens VALUES (?, ?)", (jti, expires))

    def is_revoked(self, jti: str) -> bool:
        return self._db.execute("SELECT 1 FROM revoked_tokens WHERE jti = ?", (jti,)).fetchone() is not None
