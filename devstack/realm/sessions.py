"""Logins: sessions, refresh tokens that work once, and authorization codes.

What must outlive a restart is in one SQLite file: keys, sessions, refresh chains, revoked tokens. Codes are in memory:
a restart only ends logins that are under way.
"""

from __future__ import annotations

import secrets
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from authlib.oauth2.rfc6749 import AuthorizationCodeMixin
from msgspec import Struct
from msgspec.structs import replace

from devstack.realm.export import RealmExport, User
from ext_authz.clock import Clock

# WAL with NORMAL: a killed process loses nothing, a power cut perhaps the last logins.
_SCHEMA = """
PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON;
CREATE TABLE IF NOT EXISTS key_ring (serial INTEGER PRIMARY KEY, jwk TEXT NOT NULL);
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


def open_database(state: Path) -> sqlite3.Connection:
    """The file in the state directory, for the server's event loop alone; made on first use."""
    path = state / "devrealm.sqlite"
    path.touch(mode=0o600)  # private keys inside
    # The server is built on one thread and may run on another, never on two at once.
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    database.executescript(_SCHEMA)
    return database


class Session(Struct, frozen=True):
    """One login of one user; it may serve several clients."""

    sid: str
    user_id: str
    started: int
    used: int
    """When it was last started or refreshed."""
    auth_time: int | None
    """When the user typed the password into our page; None for the password grant, as in Keycloak."""


class Sessions:
    """Sessions under the realm's two lifetimes: idle since the last refresh, and at most since the login."""

    def __init__(self, database: sqlite3.Connection, export: RealmExport, clock: Clock) -> None:
        self._db = database
        self._idle = export.sso_session_idle_timeout
        self._longest = export.sso_session_max_lifespan
        self._single_use = export.revoke_refresh_token
        self._clock = clock

    def begin(self, user: User, *, at_login_page: bool) -> Session:
        """A new session, not stored before `keep`: a request that fails later leaves nothing behind."""
        now = self.now()
        return Session(secrets.token_urlsafe(18), user.id, now, now, now if at_login_page else None)

    def keep(self, session: Session) -> Session:
        """Store a new session, or record that an old one was used. Forgets what has expired."""
        now = self.now()
        self._db.execute("DELETE FROM sessions WHERE started < ? OR used < ?", (now - self._longest, now - self._idle))
        self._db.execute("DELETE FROM revoked_tokens WHERE expires < ?", (now,))
        values = (session.sid, session.user_id, session.started, now, session.auth_time)
        upsert = "INSERT INTO sessions VALUES (?, ?, ?, ?, ?) ON CONFLICT (sid) DO UPDATE SET used = excluded.used"
        self._db.execute(upsert, values)
        return replace(session, used=now)

    def active(self, sid: str) -> Session | None:
        row = self._db.execute("SELECT * FROM sessions WHERE sid = ?", (sid,)).fetchone()
        session = Session(*row) if row else None
        return session if session and self.expires_at(session) > self.now() else None

    def active_for(self, sid: str, client_id: str) -> Session | None:
        """The session, while it has a refresh chain of this client."""
        query = "SELECT 1 FROM refresh_chains WHERE sid = ? AND client = ?"
        return self.active(sid) if self._db.execute(query, (sid, client_id)).fetchone() else None

    def expires_at(self, session: Session) -> int:
        return min(session.used + self._idle, session.started + self._longest)

    def end(self, sid: str) -> None:
        self._db.execute("DELETE FROM sessions WHERE sid = ?", (sid,))

    def clients_of(self, sid: str) -> list[str]:
        """Those that have tokens of this session."""
        rows = self._db.execute("SELECT DISTINCT client FROM refresh_chains WHERE sid = ? ORDER BY client", (sid,))
        return [client for (client,) in rows]

    def of_user(self, user_id: str) -> list[Session]:
        rows = self._db.execute(
            "SELECT sid FROM sessions WHERE user_id = ? ORDER BY started, sid", (user_id,)
        ).fetchall()
        return [session for (sid,) in rows if (session := self.active(sid))]

    def end_all(self) -> None:
        self._db.execute("DELETE FROM sessions")

    def detach(self, sid: str, client_id: str) -> None:
        """This client's part of the session ends; other clients keep theirs."""
        self._db.execute("DELETE FROM refresh_chains WHERE sid = ? AND client = ?", (sid, client_id))

    def link(self, session: Session, client_id: str, chain: str, refresh_id: str) -> None:
        """From now on `refresh_id` is the newest refresh token of this chain."""
        upsert = (
            "INSERT INTO refresh_chains VALUES (?, ?, ?, ?) ON CONFLICT (chain) DO UPDATE SET newest = excluded.newest"
        )
        self._db.execute(upsert, (chain, session.sid, client_id, refresh_id))

    def may_refresh(self, chain: str, refresh_id: str) -> bool:
        """Only the newest refresh token of a chain, where the realm allows each only once."""
        row = self._db.execute("SELECT newest FROM refresh_chains WHERE chain = ?", (chain,)).fetchone()
        return row is not None and (row[0] == refresh_id or not self._single_use)

    def revoke_token(self, jti: str, expires: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO revoked_tokens VALUES (?, ?)", (jti, expires))

    def is_revoked(self, jti: str) -> bool:
        return self._db.execute("SELECT 1 FROM revoked_tokens WHERE jti = ?", (jti,)).fetchone() is not None

    def now(self) -> int:
        return int(self._clock.now())


@dataclass(frozen=True)
class Code(AuthorizationCodeMixin):
    """What the user agreed to, until the client comes for its tokens. Authlib reads the two challenge fields."""

    session: Session
    client_id: str
    redirect_uri: str
    scope: str
    nonce: str | None
    code_challenge: str | None
    code_challenge_method: str | None

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope


class Codes:
    """Hands each code out once and remembers it as used until it would have expired."""

    def __init__(self, lifespan: int, clock: Clock) -> None:
        self._lifespan = lifespan
        self._clock = clock
        self._codes: dict[str, tuple[float, Code]] = {}
        self._used: set[str] = set()

    def add(self, text: str, code: Code) -> None:
        self._forget_expired()
        self._codes[text] = (self._clock.monotonic() + self._lifespan, code)

    def take(self, text: str) -> tuple[Code | None, bool]:
        """The code, and whether it was used before (RFC 6749 section 4.1.2: then all that it gave is void)."""
        self._forget_expired()
        known = self._codes.get(text)
        used_before = text in self._used
        if known:
            self._used.add(text)
        return (known[1] if known else None), used_before

    def _forget_expired(self) -> None:
        now = self._clock.monotonic()
        self._codes = {text: entry for text, entry in self._codes.items() if entry[0] > now}
        self._used &= self._codes.keys()
