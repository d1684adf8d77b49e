"""A cache bounded in bytes: what a caller can make large must not make this process large."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

ENTRY_BYTES = 300
"""What an entry costs beside its contents: keys, sizes, small objects."""


class BoundedCache(Generic[K, V]):
    """The oldest goes first. `get` is the hot path, and is the dictionary's own."""

    def __init__(self, max_bytes: int, max_entries: float = math.inf) -> None:
        # Unlike a dict, it finds its oldest entry in constant time after a million deletions.
        self._values: OrderedDict[K, V] = OrderedDict()
        self._sizes: dict[K, int] = {}
        self._max_bytes = max_bytes
        self._max_entries = max_entries
        self.bytes = 0
        """What its entries say that they take."""
        self.get = self._values.get

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: K) -> bool:
        return key in self._values

    def put(self, key: K, value: V, size: int) -> None:
        """`size` in bytes, of key and value; what is larger than the whole cache is not kept."""
        self.pop(key)
        size += ENTRY_BYTES
        if size > self._max_bytes:
            return
        self._values[key], self._sizes[key] = value, size
        self.bytes += size
        while self.bytes > self._max_bytes or len(self._values) > self._max_entries:
            oldest, _ = self._values.popitem(last=False)
            self.bytes -= self._sizes.pop(oldest)

    def drop(self, condition: Callable[[V], bool]) -> None:
        """Remove every entry for whose value the condition holds."""
        for key in [key for key, value in self._values.items() if condition(value)]:
            self.pop(key)

    def pop(self, key: K) -> V | None:
        """What was kept under the key, which is gone then."""
        self.bytes -= self._sizes.pop(key, 0)
        return self._values.pop(key, None)
