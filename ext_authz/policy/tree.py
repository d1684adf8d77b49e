"""A policy as it was written: plain values, each with its position in a file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from ext_authz.policy.faults import Position, Step

Scalar = str | int | float | bool | None


class Node(Struct, gc=False):
    """One value: a scalar, a list or a mapping."""

    position: Position
    value: Scalar | list[Node] | dict[str, Node]
    key: Position | None = None
    """In a mapping the position of its key."""
    variables: tuple[str, ...] = ()
    """The environment variables that the value was made from."""
    broken: bool = False
    """There is a fault about it already, and the value means nothing."""
    partial: bool = False
    """Something in it was removed by `without`."""
    index: int | None = None
    """In a list from which others were removed: where it was before."""

    @property
    def entries(self) -> dict[str, Node]:
        """Of a mapping; empty for anything else."""
        return self.value if isinstance(self.value, dict) else {}

    def child(self, step: Step) -> Node | None:
        """The value under one step of a path."""
        if isinstance(self.value, dict) and isinstance(step, str):
            return self.value.get(step)
        if isinstance(self.value, list) and isinstance(step, int) and 0 <= step < len(self.value):
            return self.value[step]
        return None

    def nearest(self, path: Sequence[Step]) -> tuple[Node, bool]:
        """The value at the path, or that of the nearest place above it that exists; and whether it is the former."""
        node = self
        for step in path:
            below = node.child(step)
            if below is None:
                return node, False
            node = below
        return node, True

    def without(self, paths: Collection[Sequence[Step]]) -> Node:
        """A copy without the values at these paths."""
        if not paths:
            return self
        gone = {path[0] for path in paths if len(path) == 1}
        below: defaultdict[Step, list[Sequence[Step]]] = defaultdict(list)
        for path in paths:
            below[path[0]].append(path[1:])
        if isinstance(self.value, dict):
            kept = {key: node.without(below[key]) for key, node in self.value.items() if key not in gone}
            return replace(self, value=kept, partial=True)
        items = self.value if isinstance(self.value, list) else []
        left = [
            replace(node.without(below[at]), index=at if node.index is None else node.index)
            for at, node in enumerate(items)
            if at not in gone
        ]
        return replace(self, value=left, partial=True)

    def plain(self) -> object:
        """The data alone. The reader has bounded the depth."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        return [node.plain() for node in self.value] if isinstance(self.value, list) else self.value

    def scalars(self, path: tuple[Step, ...] = ()) -> Iterator[tuple[tuple[Step, ...], Node]]:
        """Every scalar with its path."""
        if isinstance(self.value, dict):
            for key, node in self.value.items():
                yield from node.scalars((*path, key))
        elif isinstance(self.value, list):
            for index, node in enumerate(self.value):
                yield from node.scalars((*path, index))
        else:
            yield path, self

    @property
    def kind(self) -> str:
        """What an author calls it."""
        match self.value:
            case dict():
                return "a mapping"
            case list():
                return "a list"
            case None:
                return "an empty value"
            case bool():
                return "true or false"
        return "text" if isinstance(self.value, str) else "a number"
