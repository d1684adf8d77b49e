"""Up to where the changes of a table have been read, by a copy that is to be equal to it.

The table has a column `xid` with the transaction that wrote the row last, and an index on it.
"""

from __future__ import annotations

from typing import LiteralString, Self

from msgspec import Struct

# Another database, or the same one on another timeline (a standby was promoted, a backup was restored), counts
# transactions differently.
HISTORY: LiteralString = (
    "(SELECT system_identifier FROM pg_control_system()) || '-' || left(pg_walfile_name(pg_current_wal_lsn()), 8)"
)
POSITION: LiteralString = f"SELECT {HISTORY}, pg_current_snapshot()::text"
"""The fields of a `Position`."""


class Position(Struct, frozen=True):
    """Everything that was visible in this snapshot has been read. What has not is found by transaction, not by time
    or sequence number, by which a transaction that begins early and commits late would be missed."""

    history: str
    snapshot: str
    """`pg_snapshot` as text: xmin:xmax:transactions in progress."""

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls(*text.split(" "))

    def __str__(self) -> str:
        return f"{self.history} {self.snapshot}"

    def precedes(self, other: Position) -> bool:
        """False where `other` is on another timeline, or earlier: the database was restored."""
        return self.history == other.history and int(self._next) <= int(other._next)

    @property
    def _next(self) -> str:
        return self.snapshot.split(":")[1]

    def unseen(self, most: int | None = None) -> dict[str, object]:
        """The transactions that had not been read, as parameters of the queries; `most`: rows of each branch."""
        _, after, in_progress = self.snapshot.split(":")
        return {"next": after, "open": f"{{{in_progress}}}", "most": most}
