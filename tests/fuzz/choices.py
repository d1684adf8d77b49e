"""Reads decisions out of bytes, so that a fuzzer that flips a bit changes one decision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

_T = TypeVar("_T")


class Choices:
    """When the bytes are used up, every answer is the first one."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        """Whether there are bytes left."""
        return self._at < len(self._data)

    def byte(self) -> int:
        taken = self.take(1)
        return taken[0] if taken else 0

    def take(self, size: int) -> bytes:
        taken = self._data[self._at : self._at + size]
        self._at += size
        return taken

    def below(self, bound: int) -> int:
        """0 to bound - 1."""
        number = self.byte() if bound <= 256 else int.from_bytes(self.take(4), "big")
        return number % bound

    def of(self, items: Sequence[_T]) -> _T:
        return items[self.below(len(items))]

    def one_in(self, often: int) -> bool:
        """Never true when the bytes are used up."""
        return bool(self) and self.below(often) == often - 1

    def text(self, most: int) -> str:
        """Any characters that can be encoded."""
        return self.take(self.below(most + 1)).decode("utf-8", "replace")
