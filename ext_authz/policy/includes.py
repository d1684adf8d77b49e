"""Which files make one policy, in which order, each read once and from inside one directory."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from ext_authz.policy.bounds import Bounds, Budget
from ext_authz.policy.faults import Fault, Position, Step, fault_at, shown
from ext_authz.policy.yaml_parser import parsed
from ext_authz.policy.yaml_tree import MappingNode, Node, ScalarNode, SequenceNode, kind

_SUFFIXES = (".yaml", ".yml")
INCLUDE = "include"


class PolicyFile(Struct, frozen=True):
    """One file as it was read."""

    path: Path
    content: bytes
    tree: MappingNode


class PolicyFiles:
    """Reads a file, or all of a directory, and what they include: each file before the files that it includes."""

    def __init__(self, environ: Mapping[str, str], bounds: Bounds) -> None:
        self.read: list[PolicyFile] = []
        self.faults: list[Fault] = []
        self.whole = True
        """Every file was found and read to its end: what is missing from the policy is not just unread."""
        self._environ = environ
        self._budget = Budget(bounds)
        self._root = Path()
        self._first: dict[Path, Position | None] = {}
        """Resolved path to where the file was included; None for those that nothing includes."""
        self._chain: list[Path] = []

    def read_all(self, path: Path) -> None:
        if path.is_dir():
            self._root = _real(path)
            self._read_directory(path)
        else:
            self._root = _real(path.parent)
            self._read(path, _real(path), None)

    def _read_directory(self, directory: Path) -> None:
        # Names with a leading dot are an editor's, or Kubernetes' own: a mounted ConfigMap links through `..data`.
        try:
            found = sorted(path for path in directory.iterdir() if path.suffix in _SUFFIXES and path.name[0] != ".")
        except OSError as error:
            self._tell(Position(directory), "unreadable_file", f"cannot read the directory: {_cause(error)}")
            return
        if not found:
            self._tell(Position(directory), "empty_directory", "the directory holds no *.yaml or *.yml file")
        for path in self._few(found, Position(directory)):
            self._read_inside(path, None)

    def _few(self, paths: list[Path], told_at: Position) -> list[Path]:
        most = self._budget.bounds.files
        if len(paths) > most:
            self._tell(told_at, "too_many_files", "the policy has too many files", f"at most {most} are taken")
        return paths[:most]

    def _read_inside(self, path: Path, origin: Position | None) -> None:
        resolved = _real(path)
        told_at = origin or Position(path)
        if not resolved.is_relative_to(self._root):
            what = f"{shown(str(path))} leads out of the directory of the policy"
            self._tell(told_at, "include_escapes", what, f"keep all files inside {self._root}")
        elif resolved in self._chain:
            self._tell(told_at, "include_cycle", f"{shown(str(path))} includes itself in the end", _OWN_DIRECTORY)
        elif resolved in self._first:
            first = self._first[resolved]
            by = f"included at {first}" if first else "read for itself"
            self._tell(told_at, "included_twice", f"{shown(str(path))} is {by} already", _OWN_DIRECTORY)
        else:
            self._read(path, resolved, origin)

    def _read(self, path: Path, resolved: Path, origin: Position | None) -> None:
        self._first[resolved] = origin
        content = self._content(path, resolved, origin)
        if content is None:
            return
        text = self._text(path, content)
        tree = None if text is None else parsed(text, path, self._environ, self._budget, self.faults)
        if tree is None:
            self.whole = False
            return
        self.read.append(PolicyFile(path, content, tree))
        if INCLUDE in tree.entries:
            self._chain.append(resolved)
            self._read_included(path.parent, tree.entries[INCLUDE])
            self._chain.pop()

    def _content(self, path: Path, resolved: Path, origin: Position | None) -> bytes | None:
        bounds, told_at = self._budget.bounds, origin or Position(path)
        self._budget.files_left -= 1
        if self._budget.files_left < 0:
            self._tell(told_at, "too_many_files", "the policy has too many files", f"at most {bounds.files} are taken")
            return None
        try:
            content = _bytes(resolved, min(bounds.file_bytes, self._budget.bytes_left))
        except OSError as error:
            self._tell(told_at, "unreadable_file", f"cannot read {shown(str(path))}: {_cause(error)}")
            return None
        if content is None:
            most = f"at most {bounds.file_bytes} bytes each and {bounds.total_bytes} in all are taken"
            self._tell(Position(path), "too_large", "the file is too large", most)
            return None
        self._budget.bytes_left -= len(content)
        return content

    def _text(self, path: Path, content: bytes) -> str | None:
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            start = content.rfind(b"\n", 0, error.start) + 1
            column = len(content[start : error.start].decode("utf-8-sig")) + 1
            self._tell(Position(path, line, column), "not_utf8", "the file is not UTF-8 text", "save it as UTF-8")
            return None

    def _read_included(self, directory: Path, node: Node) -> None:
        if len(self._chain) > self._budget.bounds.nesting:
            most = f"at most {self._budget.bounds.nesting} files include each other in a row"
            self._tell(node.position, "include_too_deep", "the includes are nested too deep", most, (INCLUDE,))
            return
        if not isinstance(node, SequenceNode):
            self._tell(node.position, "wrong_include", f"include is {kind(node)}, not a list", _LIST, (INCLUDE,))
            return
        for index, item in enumerate(node.items):
            for path in self._matches(directory, item, (INCLUDE, index)):
                self._read_inside(path, item.position)
            if len(self.faults) >= self._budget.bounds.faults:
                return

    def _matches(self, directory: Path, item: Node, path: tuple[Step, ...]) -> Iterator[Path]:
        if not isinstance(item, ScalarNode) or not isinstance(item.value, str) or item.variables:
            self._tell(item.position, "wrong_include", "an include is plain text without variables", _LIST, path)
            return
        pattern = Path(item.value)
        if pattern.is_absolute() or {"..", "**"}.intersection(pattern.parts) or not item.value.isprintable():
            what = f"the include {shown(item.value)} may lead anywhere"
            hint = "write it relative to this file, without .. and **"
            self._tell(item.position, "include_escapes", what, hint, path)
            return
        found = sorted(glob.glob(item.value, root_dir=directory))  # noqa: PTH207 - Path.glob takes hidden files too
        if not found:
            hint = "patterns are relative to this file"
            self._tell(item.position, "missing_include", f"no file matches {shown(item.value)}", hint, path)
        yield from self._few([directory / name for name in found], item.position)

    def _tell(self, position: Position, code: str, what: str, hint: str = "", path: tuple[Step, ...] = ()) -> None:
        self.whole = False
        self.faults.append(fault_at(position, path, code, what, hint))


_LIST = "write a list of files or patterns, such as include: [teams/*.yaml]"
_OWN_DIRECTORY = "keep included files in a directory of their own, and include each once"


def _bytes(path: Path, most: int) -> bytes | None:
    if path.exists() and not path.is_file():
        raise OSError(0, "not a regular file")  # a pipe would never end
    with path.open("rb") as file:
        content = file.read(most + 1)
    return None if len(content) > most else content


def _cause(error: OSError) -> str:
    return str(error.strerror).lower()


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve raises on a loop of links
