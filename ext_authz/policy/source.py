"""A policy as written, from one file or many, as one tree that knows the position of every value."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from ext_authz.policy.faults import Fault, Position, Step, fault_at, quoted, shown
from ext_authz.policy.includes import INCLUDE, PolicyFile, PolicyFiles
from ext_authz.policy.tree import Node
from ext_authz.policy.variables import masked


class Source:
    """One policy as written. Its `data` may hold secrets from the environment: never print it."""

    def __init__(self, tree: Node, files: PolicyFiles, environ: Mapping[str, str], whole: Node | None = None) -> None:
        self.tree = tree
        self.data = {key: node.plain() for key, node in tree.entries.items()}
        self.files = tuple(file.path for file in files.read)
        self.digest = _digest(files.read)
        self.substituted = {path: scalar.variables for path, scalar in tree.scalars() if scalar.variables}
        """The paths whose value comes from the environment, and the names of the variables."""
        self.complete = files.complete
        """All files were read to their end: what seems to be missing is not in one of the others."""
        self._whole = whole or tree
        self._read = files
        self._broken = frozenset(path for path, scalar in tree.scalars() if scalar.broken)
        self._above_broken = frozenset(path[:end] for path in self._broken for end in range(len(path)))
        self._environ = environ

    def __repr__(self) -> str:
        return f"Source({', '.join(map(str, self.files))}; {self.digest})"

    def without(self, paths: Collection[Sequence[Step]]) -> Source:
        """The rest, whose paths `written` translates."""
        return Source(self.tree.without(paths), self._read, self._environ, self._whole)

    def is_partial(self, *path: Step) -> bool:
        """Something was removed from the value at the path, or files that could add to it were not read."""
        node, is_there = self.tree.nearest(path)
        return not self.complete or not is_there or node.partial

    def written(self, path: Sequence[Step]) -> tuple[Step, ...]:
        """The path in the files."""
        nodes = [self.tree.nearest(path[: end + 1])[0] for end in range(len(path))]
        return tuple(step if node.index is None else node.index for step, node in zip(path, nodes, strict=True))

    def names(self, section: str) -> tuple[str, ...]:
        """All that the files define in this section, right or wrong."""
        found = self._whole.entries.get(section)
        return tuple(found.entries) if found else ()

    def kept_claims(self) -> frozenset[str]:
        """The claims that any issuer keeps."""
        found = self._whole.entries.get("issuers")
        scalars = found.scalars() if found else ()
        return frozenset(str(node.value) for path, node in scalars if path[1:3] == ("claims", "keep"))

    def position(self, path: Sequence[Step]) -> Position:
        """Where the value at the path begins, or the nearest above it that exists."""
        node, _ = self.tree.nearest(path)
        return node.position

    def key_position(self, path: Sequence[Step]) -> Position:
        """Where the key at the end of the path begins; for an item of a list, where the item begins."""
        node, is_there = self.tree.nearest(path)
        return node.key if is_there and node.key else node.position

    def position_inside(self, path: Sequence[Step], offset: int) -> Position | None:
        """Of one character of a text; None where the file does not have the text as it is, as with escapes."""
        node, _ = self.tree.nearest(path)
        before, at = str(node.value)[:offset].split("\n"), node.position
        lines = self._read.texts[str(at.file)].split("\n")[at.line - 1 :]
        is_block = lines[0][at.column - 1 : at.column] in ("|", ">")
        row = len(before) - 1 + is_block
        text = str(node.value).split("\n")[len(before) - 1]
        found = lines[row].find(text, 0 if row else at.column - 1) if row < len(lines) else -1
        return Position(at.file, at.line + row, found + len(before[-1]) + 1) if found >= 0 else None

    def is_broken(self, path: Sequence[Step]) -> bool:
        """The value at the path, in it or around it has a fault already and means nothing in `data`."""
        whole = tuple(path)
        return whole in self._above_broken or any(whole[:end] in self._broken for end in range(len(whole) + 1))

    def masked(self, text: str, path: Sequence[Step]) -> str:
        """A message about the path, with all that it shows of values from the environment masked."""
        node, _ = self.tree.nearest(path)
        names = {name for _, scalar in node.scalars() for name in scalar.variables}
        return masked(text, [self._environ[name] for name in sorted(names)])

    def quoted(self, faults: Iterable[Fault]) -> tuple[Fault, ...]:
        """In order, each with its line of the file."""
        return quoted(faults, self._read.texts)


def read_source(path: Path, environ: Mapping[str, str]) -> tuple[Source | None, tuple[Fault, ...]]:
    """Read a file or a directory with all includes, put the environment in, and list what is wrong.

    The source is None when no file could be read to its end, and incomplete when one of several could not.
    """
    files = PolicyFiles(environ)
    files.read_all(path)
    faults, source = files.faults.found, None
    if files.read:
        source = Source(_merged([file.tree for file in files.read], faults), files, environ)
    return source, quoted(faults, files.texts)


def _digest(files: Sequence[PolicyFile]) -> str:
    """Of one file its SHA-256, as `sha256sum` prints it; of several that over theirs, in the order of reading."""
    digests = [hashlib.sha256(file.content).digest() for file in files]
    whole = digests[0] if len(digests) == 1 else hashlib.sha256(b"".join(digests)).digest()
    return whole.hex()[:16]


def _merged(trees: Sequence[Node], faults: list[Fault]) -> Node:
    """Lists are joined, mappings united; what two files define is a fault, so no file can change another's values."""
    entries: dict[str, Node] = {}
    for tree in trees:
        for key, node in tree.entries.items():
            if key not in entries:
                entries[key] = _copied(node)
            elif key != INCLUDE:
                faults.extend(_joined(key, entries[key], node))
    entries.pop(INCLUDE, None)
    return Node(trees[0].position, entries)


def _copied(node: Node) -> Node:
    value = node.value
    return replace(node, value=value.copy()) if isinstance(value, dict | list) else node


def _joined(key: str, first: Node, node: Node) -> Iterator[Fault]:
    if isinstance(first.value, list) and isinstance(node.value, list):
        first.value.extend(node.value)
    elif isinstance(first.value, dict) and isinstance(node.value, dict):
        for name, below in node.value.items():
            if first.value.setdefault(name, below) is not below:
                yield _defined_twice((key, name), below, first.value[name])
    else:
        yield _defined_twice((key,), node, first)


def _defined_twice(path: tuple[str, ...], node: Node, first: Node) -> Fault:
    what = f"{shown(path[-1])} is defined twice, first at {first.key}"
    hint = "keep one of them: files add to each other, none overrides"
    return fault_at(node.key or node.position, path, "defined_twice", what, hint)
