"""A policy as it was written: plain values, each with the place where it stands."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct, field

from ext_authz.policy.faults import Position, Step

Value = str | int | float | bool | None


class ScalarNode(Struct, frozen=True, gc=False):
    """One value that holds no others."""

    position: Position
    value: Value
    variables: tuple[str, ...] = ()
    """Names of the environment variables that the value was made from."""
    broken: bool = False
    """A fault was told about it; the value means nothing."""


class SequenceNode(Struct, frozen=True, gc=False):
    """A list."""

    position: Position
    items: list[Node] = field(default_factory=list)


class MappingNode(Struct, frozen=True, gc=False):
    """A mapping; `keys` has the places of what `entries` has the values of."""

    position: Position
    entries: dict[str, Node] = field(default_factory=dict)
    keys: dict[str, Position] = field(default_factory=dict)


Node = ScalarNode | SequenceNode | MappingNode


def child(node: Node, step: Step) -> Node | None:
    """What stands under one step of a path."""
    if isinstance(node, MappingNode) and isinstance(step, str):
        return node.entries.get(step)
    if isinstance(node, SequenceNode) and isinstance(step, int) and 0 <= step < len(node.items):
        return node.items[step]
    return None


def plain(node: Node) -> object:
    """The data alone. The reader has bounded the depth."""
    if isinstance(node, MappingNode):
        return {key: plain(value) for key, value in node.entries.items()}
    if isinstance(node, SequenceNode):
        return [plain(item) for item in node.items]
    return node.value


def scalars(node: Node, path: tuple[Step, ...] = ()) -> Iterator[tuple[tuple[Step, ...], ScalarNode]]:
    """Every scalar with its path."""
    if isinstance(node, MappingNode):
        for key, value in node.entries.items():
            yield from scalars(value, (*path, key))
    elif isinstance(node, SequenceNode):
        for index, item in enumerate(node.items):
            yield from scalars(item, (*path, index))
    else:
        yield path, node


def kind(node: Node) -> str:
    """What an author calls it."""
    if isinstance(node, MappingNode):
        return "a mapping"
    if isinstance(node, SequenceNode):
        return "a list"
    return _kind_of_value(node.value)


def _kind_of_value(value: Value) -> str:
    if value is None:
        return "an empty value"
    if isinstance(value, bool):
        return "true or false"
    return "text" if isinstance(value, str) else "a number"
