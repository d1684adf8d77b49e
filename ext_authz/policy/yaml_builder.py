"""From the parser's events to a tree: what YAML offers beyond plain data is a fault with its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, cast

import yaml
from msgspec import Struct

from ext_authz.policy.bounds import Budget
from ext_authz.policy.faults import Fault, Position, Step, fault_at, shown
from ext_authz.policy.variables import WrongReference, substituted
from ext_authz.policy.yaml_scalars import resolved
from ext_authz.policy.yaml_tree import MappingNode, Node, ScalarNode, SequenceNode, kind


class Unreadable(Exception):
    """What follows in the file cannot be read; a fault says why."""


class _Open(Struct):
    """A list or mapping that is not yet closed; for a mapping the key that waits for its value."""

    node: SequenceNode | MappingNode
    key: str = ""
    has_key: bool = False


class TreeBuilder:
    """Takes the parser's events one by one; `_open` holds what is not yet closed, so that nothing recurses."""

    def __init__(self, file: Path, environ: Mapping[str, str], budget: Budget, faults: list[Fault]) -> None:
        self._file = file
        self._environ = environ
        self._budget = budget
        self._faults = faults
        self._root: Node | None = None
        self._open: list[_Open] = []
        self._handlers: dict[type[yaml.Event], Callable[[Any], None]] = {  # Any: each takes its own kind of event
            yaml.DocumentStartEvent: self._document,
            yaml.ScalarEvent: self._scalar,
            yaml.AliasEvent: self._alias,
            yaml.SequenceStartEvent: self._sequence,
            yaml.MappingStartEvent: self._mapping,
            yaml.SequenceEndEvent: self._close,
            yaml.MappingEndEvent: self._close,
        }

    def take(self, event: yaml.Event) -> None:
        if handler := self._handlers.get(type(event)):
            handler(event)

    def root(self) -> MappingNode | None:
        if isinstance(self._root, MappingNode):
            return self._root
        if self._root is None or (isinstance(self._root, ScalarNode) and self._root.value in (None, "")):
            self._tell(Position(self._file), "empty_file", "the file is empty", "begin with version: 1")
        else:
            what = f"the file holds {kind(self._root)}, not a mapping"
            self._tell(self._root.position, "not_a_mapping", what, "begin with keys, such as version: 1")
        return None

    def _document(self, event: yaml.DocumentStartEvent) -> None:
        if self._root is not None:
            hint = "write one document per file, without ---"
            self._stop(self._position(event), "several_documents", "a second document begins", hint)

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        self._count(event)
        if (mapping := self._awaits_key()) is not None:
            self._key(event, mapping)
        else:
            self._put(self._value(event))

    def _alias(self, event: yaml.AliasEvent) -> None:
        position = self._position(event)
        if self._awaits_key():
            self._stop(position, "alias", "a key is an alias", "write keys as plain text")
        hint = "write it out; a text that begins with * stands in quotes"
        self._tell(position, "alias", "an alias refers to another place", hint)
        self._put(ScalarNode(position, None, broken=True))

    def _sequence(self, event: yaml.SequenceStartEvent) -> None:
        self._count(event)
        self._begin(SequenceNode(self._position(event)))

    def _mapping(self, event: yaml.MappingStartEvent) -> None:
        self._count(event)
        self._begin(MappingNode(self._position(event)))

    def _begin(self, node: SequenceNode | MappingNode) -> None:
        if self._awaits_key():
            self._stop(node.position, "key_not_text", f"a key is {kind(node)}", "write keys as plain text")
        most = self._budget.bounds.depth
        if len(self._open) >= most:
            hint = f"at most {most} lists and mappings stand inside each other"
            self._stop(node.position, "too_deep", "the nesting is too deep", hint)
        self._open.append(_Open(node))

    def _close(self, _: yaml.Event) -> None:
        self._put(self._open.pop().node)

    def _put(self, node: Node) -> None:
        if not self._open:
            self._root = node
            return
        parent = self._open[-1]
        if isinstance(parent.node, SequenceNode):
            parent.node.items.append(node)
        else:
            parent.node.entries[parent.key] = node
            parent.has_key = False

    def _awaits_key(self) -> MappingNode | None:
        if not self._open or self._open[-1].has_key:
            return None
        node = self._open[-1].node
        return node if isinstance(node, MappingNode) else None

    def _key(self, event: yaml.ScalarEvent, mapping: MappingNode) -> None:
        position, key = self._position(event), str(event.value)
        self._open[-1].key, self._open[-1].has_key = key, True
        first = mapping.keys.setdefault(key, position)
        if first is not position:
            hint = f"it stands in line {first.line} already: keep one of them"
            self._tell(position, "duplicate_key", f"key {shown(key)} stands twice in one mapping", hint)
        elif key in ("", "<<"):
            self._tell(position, "wrong_key", f"key {shown(key)} has no meaning here", "merge keys are not taken")
        elif "${" in key:
            self._tell(position, "wrong_key", f"key {shown(key)} refers to the environment", "only values may")

    def _value(self, event: yaml.ScalarEvent) -> ScalarNode:
        position, text = self._position(event), str(event.value)
        try:
            if "${" in text:
                return ScalarNode(position, *substituted(text, self._environ, self._budget))
            return ScalarNode(position, text if event.style else resolved(text))
        except WrongReference as wrong:
            self._tell(position, *wrong.args)
        except ValueError as wrong:
            self._tell(position, "wrong_number", str(wrong), "a text of digits stands in quotes")
        return ScalarNode(position, None, broken=True)

    def _count(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent) -> None:
        self._budget.nodes_left -= 1
        if self._budget.nodes_left < 0:
            hint = f"at most {self._budget.bounds.nodes} keys and values make a policy"
            self._stop(self._position(event), "too_many_nodes", "the policy is too large", hint)
        if event.anchor is not None:
            hint = "leave it out; a text that begins with & stands in quotes"
            self._tell(self._position(event), "anchor", "an anchor has no meaning here", hint)
        if event.tag is not None:
            hint = "leave it out; a text that begins with ! stands in quotes"
            self._tell(self._position(event), "tag", "a tag has no meaning here", hint)

    def _position(self, event: yaml.Event) -> Position:
        mark = cast("yaml.Mark", event.start_mark)  # the parser sets it always
        return Position(self._file, mark.line + 1, mark.column + 1)

    def _tell(self, position: Position, code: str, what: str, hint: str) -> None:
        path = [step for at in self._open for step in _step(at)]
        self._faults.append(fault_at(position, path, code, what, hint))
        if len(self._faults) >= self._budget.bounds.faults:
            what = f"after {len(self._faults)} faults the file is read no further"
            self._faults.append(fault_at(position, (), "more_faults", what))
            raise Unreadable

    def _stop(self, position: Position, code: str, what: str, hint: str) -> NoReturn:
        self._tell(position, code, what, hint)
        raise Unreadable


def _step(at: _Open) -> list[Step]:
    if isinstance(at.node, SequenceNode):
        return [len(at.node.items)]
    return [at.key] if at.has_key else []
