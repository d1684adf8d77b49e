"""The revocations that a worker knows by itself, for while neither Redis nor Postgres can be asked.

Only for policies that go on without Postgres (`failure: {postgres: local}` or `allow`). The workers of one machine
share a file, which `keeper.py` keeps equal to Postgres while one of them wants it; a worker opens it when it has to
look, and holds nothing in its memory. What was revoked between the keeper's last look and the end of Postgres is not
there; `local` bounds how long that may matter.

The file is a hash table of the first 8 bytes of each id's BLAKE2b: at n revocations one good token in 2^64 / 5n is
taken for a revoked one (at 10 million, one in 3 * 10^11), and only while nobody can be asked.
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
from contextlib import suppress
from pathlib import Path

from ext_authz.clock import Clock
from ext_authz.observability import multiprocess
from ext_authz.revocation.entry import Kind, first_hit

HEADER = struct.Struct("<dd")
"""Monotonic times: of the last look at Postgres that left nothing unknown, of its last answer."""
SLOT = 12
"""Bytes: digest of an id (zeros: a free slot), then up to when what was issued is revoked, in seconds (0: lifted)."""
DIGEST = 8
FREE = bytes(DIGEST)
EVER = 2**32 - 1
TAIL = 1024
"""Slots behind the last one that an id can begin at; the very last one is always free."""

_WINDOW = 16 * SLOT
_MAX_SEEN = 10_000
_NEVER: tuple[float, Kind | None] = (-math.inf, None)
_LATE = 3.0


def digest_of(entry_id: str) -> bytes:
    return hashlib.blake2b(entry_id.encode(errors="surrogatepass"), digest_size=DIGEST).digest()


def slot_of(digest: bytes, slots: int) -> int:
    """Where to begin to look; a taken slot sends on to the next one."""
    return int.from_bytes(digest) % slots


def path() -> Path:
    return multiprocess.directory() / "known-revocations"


def wanted_path() -> Path:
    """Touched for as long as some worker wants the file."""
    return multiprocess.directory() / "known-revocations.wanted"


class KnownRevocations:
    """Belongs to one worker."""

    def __init__(self, clock: Clock, *, poll: float) -> None:
        """`poll`: how often the keeper looks at Postgres at least, in seconds."""
        self._clock = clock
        self._late = _LATE + 2 * poll
        self._seen: dict[str, tuple[float, Kind]] = {}
        """Tokens that Redis refused, and when: the last look at Postgres may have missed them."""
        self._wanted = False
        self._file = -1
        self._inode = -1
        self._slots = 0

    def want(self) -> None:
        """Say this at least every few seconds; else the file goes away."""
        self._wanted = True
        wanted_path().touch()

    def stop(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = self._inode = -1

    def lost(self) -> dict[str, float | None]:
        """Whether Postgres answers, if anybody asked to follow it: None, or since when nothing new was heard."""
        if not self._wanted:
            return {}
        whole_at, answered_at = self._times()
        return {"postgres": None if self._clock.monotonic() - answered_at < self._late else whole_at}

    def whole_at(self) -> float:
        """Monotonic time of the last moment at which nothing in Postgres was unknown here."""
        return self._times()[0]

    def revokes(self, ids: tuple[str, str, str, str, str], issued_at: int) -> Kind | None:
        """By which of these ids a token is revoked, as `settle.lua` decides."""
        whole_at, (seen_at, by) = self.whole_at(), self._seen.get(ids[0], _NEVER)
        found = first_hit([self._revoked_until(entry_id) if entry_id else None for entry_id in ids], issued_at)
        return found or (by if seen_at >= whole_at else None)

    def saw_revoked(self, ids: tuple[str, str, str, str, str], by: Kind) -> None:
        """Redis refused this token: it is not let in again, though the next look at Postgres may never come."""
        if len(self._seen) >= _MAX_SEEN:
            whole_at = self.whole_at()
            self._seen = {token: seen for token, seen in self._seen.items() if seen[0] >= whole_at}
        if len(self._seen) < _MAX_SEEN:
            self._seen[ids[0]] = self._clock.monotonic(), by

    def _revoked_until(self, entry_id: str) -> int | None:
        if self._file < 0:
            return None
        digest = digest_of(entry_id)
        at = HEADER.size + slot_of(digest, self._slots) * SLOT
        while window := os.pread(self._file, _WINDOW, at):
            for place in range(0, len(window), SLOT):
                held = window[place : place + DIGEST]
                if held == digest:
                    return int.from_bytes(window[place + DIGEST : place + SLOT]) or None
                if held == FREE:
                    return None
            at += _WINDOW
        return None

    def _times(self) -> tuple[float, float]:
        self._open()
        return HEADER.unpack(os.pread(self._file, HEADER.size, 0)) if self._file >= 0 else (-math.inf, -math.inf)

    def _open(self) -> None:
        """The file that is there now: the keeper puts a new one in its place when it is full."""
        with suppress(FileNotFoundError):
            inode = path().stat().st_ino if self._wanted else -1
            if inode != self._inode:
                self.stop()
                self._file, self._inode = os.open(path(), os.O_RDONLY), inode
                self._slots = (os.fstat(self._file).st_size - HEADER.size) // SLOT - TAIL
