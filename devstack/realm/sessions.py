"""Login sessions: how long they last, which clients they stand for, and refresh tokens that work once."""

from __future__ import annotations

import uuid

from msgspec.structs import replace

from devstack.realm.export import RealmExport, User
from devstack.realm.store import Session, Store
from ext_authz.clock import Clock


class Sessions:
    """Sessions under the realm's two lifetimes: idle since the last refresh, and at most since the login."""

    def __init__(self, store: Store, export: RealmExport, clock: Clock) -> None:
        self._store = store
        self._idle = export.sso_session_idle_timeout
        self._longest = export.sso_session_max_lifespan
        self._single_use = export.revoke_refresh_token
        self._clock = clock

    def begin(self, user: User, *, at_login_page: bool) -> Session:
        """A new session, not stored before `keep`: a request that fails later leaves nothing behind."""
        now = self.now()
        return Session(str(uuid.uuid4()), user.id, now, now, now if at_login_page else None)

    def keep(self, session: Session) -> Session:
        """Store a new session, or note that an old one was used."""
        now = self.now()
        self._store.forget_before(started=now - self._longest, used=now - self._idle, now=now)
        used = replace(session, used=now)
        self._store.save_session(used)
        return used

    def active(self, sid: str) -> Session | None:
        session = self._store.session(sid)
        return session if session and self.expires_at(session) > self.now() else None

    def active_for(self, sid: str, client_id: str) -> Session | None:
        """The session, while it still stands for this client."""
        return self.active(sid) if self._store.serves(sid, client_id) else None

    def end(self, sid: str) -> None:
        self._store.end_session(sid)

    def detach(self, sid: str, client_id: str) -> None:
        self._store.detach(sid, client_id)

    def expires_at(self, session: Session) -> int:
        return min(session.used + self._idle, session.started + self._longest)

    def link(self, session: Session, client_id: str, chain: str, refresh_id: str) -> None:
        """From now on `refresh_id` is the refresh token of this chain."""
        self._store.save_chain(chain, session.sid, client_id, refresh_id)

    def may_refresh(self, chain: str, refresh_id: str) -> bool:
        """Whether this refresh token is still the chain's newest, where the realm says that each works once."""
        newest = self._store.newest_in_chain(chain)
        return newest == refresh_id or (newest is not None and not self._single_use)

    def now(self) -> int:
        return int(self._clock.now())
