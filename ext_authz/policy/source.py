"""Reads a policy, from one file or many, into one plain tree that knows where everything stands."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from ext_authz.policy.bounds import Bounds
from ext_authz.policy.faults import Fault, PolicyFaults, Position, Step, fault_at, in_order, shown
from ext_authz.policy.includes import INCLUDE, PolicyFile, PolicyFiles
from ext_authz.policy.variables import masked
from ext_authz.policy.yaml_tree import MappingNode, Node, SequenceNode, child, plain, scalars

_BOUNDS = Bounds()


class Source:
    """One policy as written. Its `data` may hold secrets from the environment: never print it."""

    def __init__(self, tree: MappingNode, files: Sequence[PolicyFile], environ: Mapping[str, str]) -> None:
        self.tree = tree
        self.data: dict[str, object] = {key: plain(value) for key, value in tree.entries.items()}
        self.files = tuple(file.path for file in files)
        self.digest = _digest(files)
        self.substituted = {path: scalar.variables for path, scalar in scalars(tree) if scalar.variables}
        """The places whose value comes from the environment, and the names of the variables."""
        self._broken = frozenset(path for path, scalar in scalars(tree) if scalar.broken)
        self._above_broken = frozenset(path[:end] for path in self._broken for end in range(len(path)))
        self._secrets = {name: environ[name] for names in self.substituted.values() for name in names}

    def __repr__(self) -> str:
        return f"Source({', '.join(map(str, self.files))}; {self.digest})"

    def node(self, path: Sequence[Step]) -> Node:
        """What stands at the path, or at the nearest place above it that exists."""
        node: Node = self.tree
        for step in path:
            below = child(node, step)
            if below is None:
                break
            node = below
        return node

    def position(self, path: Sequence[Step]) -> Position:
        """Where the value at the path begins, or that of the nearest place above it that exists."""
        return self.node(path).position

    def key_position(self, path: Sequence[Step]) -> Position:
        """Where the key at the end of the path stands; for an item of a list, where the item begins."""
        parent = self.node(path[:-1])
        if isinstance(parent, MappingNode) and path and path[-1] in parent.keys:
            return parent.keys[str(path[-1])]
        return self.position(path)

    def is_broken(self, path: Sequence[Step]) -> bool:
        """What stands at, below or right above the path has a fault already and means nothing in `data`."""
        whole = tuple(path)
        return whole in self._above_broken or any(whole[:end] in self._broken for end in range(len(whole) + 1))

    def masked(self, text: str, path: Sequence[Step]) -> str:
        """A message that others wrote about the path, with all that it tells of values from the environment hidden."""
        names = {name for _, scalar in scalars(self.node(path)) for name in scalar.variables}
        return masked(text, [self._secrets[name] for name in sorted(names)])


class Examined(Struct, frozen=True):
    """What could be read, and what is wrong with it. Without faults the source is whole."""

    source: Source | None
    """None when a file could not be read to its end, so that whatever seems to be missing may stand there."""
    faults: tuple[Fault, ...]


def read_policy(path: Path, environ: Mapping[str, str], bounds: Bounds = _BOUNDS) -> Source:
    """Read a file or a directory with all includes, and put the environment in.

    Raises:
        PolicyFaults: everything that is wrong.
    """
    examined = examine_policy(path, environ, bounds)
    if examined.source is None or examined.faults:
        raise PolicyFaults(examined.faults)
    return examined.source


def examine_policy(path: Path, environ: Mapping[str, str], bounds: Bounds = _BOUNDS) -> Examined:
    """As `read_policy`, for a checker that goes on to tell what else is wrong with a policy that has faults."""
    files = PolicyFiles(environ, bounds)
    files.read_all(path)
    source = None
    if files.whole:
        tree = _merged([file.tree for file in files.read], files.faults)
        source = Source(tree, files.read, environ)
    return Examined(source, in_order(files.faults))


def _digest(files: Sequence[PolicyFile]) -> str:
    """Of one file its SHA-256, as `sha256sum` prints it; of several that over theirs, in the order of reading."""
    digests = [hashlib.sha256(file.content).digest() for file in files]
    whole = digests[0] if len(digests) == 1 else hashlib.sha256(b"".join(digests)).digest()
    return whole.hex()[:16]


def _merged(trees: Sequence[MappingNode], faults: list[Fault]) -> MappingNode:
    """Lists follow each other, mappings join; nothing is said twice, so no file can change what another says."""
    whole = MappingNode(trees[0].position)
    for tree in trees:
        for key, node in tree.entries.items():
            if key not in whole.keys:
                whole.entries[key] = _copied(node)
                whole.keys[key] = tree.keys[key]
            elif key != INCLUDE:
                faults.extend(_joined(whole, key, node, tree.keys[key]))
    whole.entries.pop(INCLUDE, None)
    return whole


def _copied(node: Node) -> Node:
    if isinstance(node, MappingNode):
        return MappingNode(node.position, dict(node.entries), dict(node.keys))
    return SequenceNode(node.position, list(node.items)) if isinstance(node, SequenceNode) else node


def _joined(whole: MappingNode, key: str, node: Node, position: Position) -> Iterator[Fault]:
    first = whole.entries[key]
    if isinstance(first, SequenceNode) and isinstance(node, SequenceNode):
        first.items.extend(node.items)
    elif isinstance(first, MappingNode) and isinstance(node, MappingNode):
        for name in node.entries:
            if name in first.keys:
                yield _defined_twice((key, name), node.keys[name], first.keys[name])
            else:
                first.entries[name] = node.entries[name]
                first.keys[name] = node.keys[name]
    else:
        yield _defined_twice((key,), position, whole.keys[key])


def _defined_twice(path: tuple[str, ...], position: Position, first: Position) -> Fault:
    what = f"{shown(path[-1])} is defined twice, first at {first}"
    return fault_at(position, path, "defined_twice", what, "keep one of them: files add to each other, none overrides")
