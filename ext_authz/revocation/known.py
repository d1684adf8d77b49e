"""The revocations that a worker can look up while neither Redis nor Postgres answers.

Only for policies that continue without Postgres (`failure: {postgres: local}` or `allow`). The workers of one machine
share a file, which `keeper.py` keeps equal to Postgres while one of them wants it; a worker opens it when it has to
look, and holds nothing in its memory. What was revoked between the keeper's last query and the outage of Postgres is
not in it; `local` bounds for how long that may matter.

The file is a hash table of the first 8 bytes of each id's BLAKE2b: at n revocations one good token in 2^64 / 5n is
taken for a revoked one (at 10 million, one in 3 * 10^11), and only during such an outage.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import struct
from contextlib import suppress
from pathlib import Path

from ext_authz.clock import Clock
from ext_authz.observability import multiprocess
from ext_authz.revocation.entry import NEVER, Kind, TokenIds, revoked_by, revoked_until
from ext_authz.revocation.feed import StartOver, rows_of

_HEADER = struct.Struct("<dd")
"""Monotonic times: of the last query of Postgres that left nothing unknown, of its last answer."""
_SLOT = 12
"""Bytes: digest of an id (zeros: a free slot), then up to when tokens are revoked, as `_packed`."""
_DIGEST = 8
_FREE = bytes(_DIGEST)
_EVER = 2**32 - 1
_TAIL = 1024
"""Slots behind the last one that an id can begin at; the very last one is always free."""

_ROOM = 2
"""Slots per row when a table is made."""
_CROWDED = 0.75
_SPARE = 4096
_WINDOW = 16 * _SLOT
_MAX_SEEN = 10_000
_NOT_SEEN: tuple[float, Kind | None] = (-math.inf, None)
_LATE = 3.0


def _digest_of(entry_id: str) -> bytes:
    return hashlib.blake2b(entry_id.encode(errors="surrogatepass"), digest_size=_DIGEST).digest()


def _slot_of(digest: bytes, slots: int) -> int:
    """The first slot to look at; where it is taken, the next one."""
    return int.from_bytes(digest) % slots


def _packed(until: float) -> bytes:
    """`revoked_until` in 4 bytes: 0 for NEVER, the largest for ever."""
    return int(max(0, min(until, _EVER))).to_bytes(_SLOT - _DIGEST)


def _unpacked(until: bytes) -> float:
    second = int.from_bytes(until)
    return math.inf if second == _EVER else second or NEVER


class Table:
    """The file, as its one writer sees it."""

    def __init__(self, path: Path, rows: int) -> None:
        """Raises OSError when there is no room for it."""
        self._slots = rows * _ROOM + _SPARE
        self._used = 0
        size = _HEADER.size + (self._slots + _TAIL) * _SLOT
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(file, 0, size)  # a full disk now is an error, later it would be a signal
            self._bytes = mmap.mmap(file, size)
        finally:
            os.close(file)
        self.set_times(-math.inf, -math.inf)

    def close(self) -> None:
        self._bytes.close()

    def set_times(self, whole_at: float, answered_at: float) -> None:
        _HEADER.pack_into(self._bytes, 0, whole_at, answered_at)

    def learn(self, chunk: str) -> None:
        """Raises StartOver: there is no room left, make a larger one."""
        for entry_id, held, _ in rows_of(chunk):
            self._set(_digest_of(entry_id), _packed(revoked_until(held)))
        self._bytes.madvise(mmap.MADV_DONTNEED)  # the kernel keeps it, this process need not
        if self._used > _CROWDED * self._slots:
            raise StartOver

    def _set(self, digest: bytes, until: bytes) -> None:
        held, at = self._bytes, _HEADER.size + _slot_of(digest, self._slots) * _SLOT
        while (there := held[at : at + _DIGEST]) not in (digest, _FREE):
            at += _SLOT
        if there == _FREE and not any(until):
            return
        if at + 2 * _SLOT > len(held):
            raise StartOver
        held[at + _DIGEST : at + _SLOT] = until
        if there == _FREE:
            held[at : at + _DIGEST] = digest
            self._used += 1


def path() -> Path:
    return multiprocess.directory() / "known-revocations"


def wanted_path() -> Path:
    """Touched for as long as some worker wants the file."""
    return multiprocess.directory() / "known-revocations.wanted"


class KnownRevocations:
    """Belongs to one worker."""

    def __init__(self, clock: Clock, *, poll: float) -> None:
        """`poll`: longest time between two queries of the keeper, in seconds."""
        self._clock = clock
        self._late = _LATE + 2 * poll
        self._seen: dict[str, tuple[float, Kind]] = {}
        """Tokens that Redis refused, and when: the keeper may have missed them."""
        self._wanted = False
        self._file = -1
        self._inode = -1
        self._slots = 0

    def want(self) -> None:
        """Call this at least every few seconds; else the file goes away."""
        self._wanted = True
        wanted_path().touch()

    def stop(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = self._inode = -1

    def lost(self) -> dict[str, float | None]:
        """Once wanted: None while Postgres answers, else the time up to which everything is known."""
        if not self._wanted:
            return {}
        whole_at, answered_at = self._times()
        return {"postgres": None if self._clock.monotonic() - answered_at < self._late else whole_at}

    def whole_at(self) -> float:
        """Monotonic time up to which every revocation in Postgres is known here."""
        return self._times()[0]

    def revokes(self, ids: TokenIds, issued_at: int) -> Kind | None:
        """By which kind a token is revoked."""
        whole_at, (seen_at, by) = self.whole_at(), self._seen.get(ids[0], _NOT_SEEN)
        found = revoked_by(ids, issued_at, self._revoked_until)
        return found or (by if seen_at >= whole_at else None)

    def saw_revoked(self, ids: TokenIds, by: Kind) -> None:
        """Redis refused this token: it stays refused, although the keeper may never read its revocation."""
        if len(self._seen) >= _MAX_SEEN:
            whole_at = self.whole_at()
            self._seen = {token: seen for token, seen in self._seen.items() if seen[0] >= whole_at}
        if len(self._seen) < _MAX_SEEN:
            self._seen[ids[0]] = self._clock.monotonic(), by

    def _revoked_until(self, entry_id: str) -> float:
        if self._file < 0:
            return NEVER
        digest = _digest_of(entry_id)
        at = _HEADER.size + _slot_of(digest, self._slots) * _SLOT
        while window := os.pread(self._file, _WINDOW, at):
            for place in range(0, len(window), _SLOT):
                held = window[place : place + _DIGEST]
                if held == digest:
                    return _unpacked(window[place + _DIGEST : place + _SLOT])
                if held == _FREE:
                    return NEVER
            at += _WINDOW
        return NEVER

    def _times(self) -> tuple[float, float]:
        self._open()
        return _HEADER.unpack(os.pread(self._file, _HEADER.size, 0)) if self._file >= 0 else (-math.inf, -math.inf)

    def _open(self) -> None:
        """The present file: the keeper replaces it when it is full."""
        with suppress(FileNotFoundError):
            inode = path().stat().st_ino if self._wanted else -1
            if inode != self._inode:
                self.stop()
                self._file, self._inode = os.open(path(), os.O_RDONLY), inode
                self._slots = (os.fstat(self._file).st_size - _HEADER.size) // _SLOT - _TAIL
