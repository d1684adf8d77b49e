"""Which files make one policy, in which order: each is read once, and from inside one directory."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from ext_authz.policy.faults import Faults, Position, Step, TooManyFaults, shown
from ext_authz.policy.tree import Node
from ext_authz.policy.yaml_reader import read_yaml

INCLUDE = "include"
MAX_BYTES = 4 << 20
"""All files of a policy together."""
STANDARD_INPUT = Path("-")
"""In the place of a file; what it includes is relative to the working directory."""
MAX_INCLUDES = 8
"""Files that include files."""

_SUFFIXES = (".yaml", ".yml")
_LIST = "write a list of files or patterns, such as include: [teams/*.yaml]"
_OWN_DIRECTORY = "keep included files in a directory of their own, and include each once"


class PolicyFile(Struct, frozen=True):
    """One file as it was read."""

    path: Path
    content: bytes
    tree: Node


class PolicyFiles:
    """Reads a file, or all of a directory, and what they include: each file before the files that it includes."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.read: list[PolicyFile] = []
        self.texts: dict[str, str] = {}
        """By file: also of those that could not be read to their end."""
        self.faults = Faults()
        self.complete = True
        """Every file was found and read to its end: what is missing from the policy is not just unread."""
        self._environ = environ
        self._bytes_left = MAX_BYTES
        self._root = Path()
        self._first: dict[Path, Position | None] = {}
        """Resolved path to where the file was included; None for those that nothing includes."""
        self._chain: list[Path] = []

    def read_all(self, path: Path) -> None:
        try:
            if path.is_dir():
                self._root = _real(path)
                self._read_directory(path)
            else:
                self._root = _real(path.parent)
                self._read(path, _real(path), None)
        except TooManyFaults:
            self.complete = False

    def _read_directory(self, directory: Path) -> None:
        # Names with a leading dot are an editor's, or Kubernetes' own: a mounted ConfigMap links through `..data`.
        try:
            found = sorted(path for path in directory.iterdir() if path.suffix in _SUFFIXES and path.name[0] != ".")
        except OSError as error:
            self._report(Position(directory), "unreadable_file", f"cannot read the directory: {_cause(error)}")
            return
        if not found:
            self._report(Position(directory), "empty_directory", "the directory contains no *.yaml or *.yml file")
        for path in found:
            self._read_inside(path, None)

    def _read_inside(self, path: Path, origin: Position | None) -> None:
        resolved, at = _real(path), origin or Position(path)
        if not resolved.is_relative_to(self._root):
            what = f"{shown(str(path))} is outside of the directory of the policy"
            self._report(at, "include_escapes", what, f"keep all files inside {self._root}")
        elif resolved in self._chain:
            self._report(at, "include_cycle", f"{shown(str(path))} includes itself through others", _OWN_DIRECTORY)
        elif resolved in self._first:
            first = self._first[resolved]
            by = f"included at {first}" if first else "read for itself"
            self._report(at, "included_twice", f"{shown(str(path))} is {by} already", _OWN_DIRECTORY)
        else:
            self._read(path, resolved, origin)

    def _read(self, path: Path, resolved: Path, origin: Position | None) -> None:
        self._first[resolved] = origin
        tree = None
        if (content := self._content(path, resolved, origin)) is not None:
            text = self._text(path, content)
            tree = None if text is None else read_yaml(text, path, self._environ, self.faults)
            self.texts[str(path)] = text or ""
        if content is None or tree is None:
            self.complete = False
            return
        self.read.append(PolicyFile(path, content, tree))
        if include := tree.entries.get(INCLUDE):
            self._chain.append(resolved)
            self._read_included(path.parent, include)
            self._chain.pop()

    def _content(self, path: Path, resolved: Path, origin: Position | None) -> bytes | None:
        try:
            content = _bytes(STANDARD_INPUT if path == STANDARD_INPUT else resolved, self._bytes_left + 1)
        except OSError as error:
            what = f"cannot read {shown(str(path))}: {_cause(error)}"
            self._report(origin or Position(path), "unreadable_file", what)
            return None
        self._bytes_left -= len(content)
        if self._bytes_left < 0:
            self._bytes_left = 0
            hint = f"all files of a policy may have {MAX_BYTES} bytes together"
            self._report(Position(path), "too_large", "the policy is too large", hint)
            return None
        return content

    def _text(self, path: Path, content: bytes) -> str | None:
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            start = content.rfind(b"\n", 0, error.start) + 1
            column = len(content[start : error.start].decode("utf-8-sig")) + 1
            self._report(Position(path, line, column), "not_utf8", "the file is not UTF-8 text", "save it as UTF-8")
            return None

    def _read_included(self, directory: Path, node: Node) -> None:
        if len(self._chain) > MAX_INCLUDES:
            hint = f"at most {MAX_INCLUDES} files may include each other in a row"
            self._report(node.position, "include_too_deep", "the includes are nested too deep", hint, (INCLUDE,))
        elif not isinstance(node.value, list):
            self._report(node.position, "wrong_include", f"include is {node.kind}, not a list", _LIST, (INCLUDE,))
        else:
            for index, item in enumerate(node.value):
                for path in self._matches(directory, item, (INCLUDE, index)):
                    self._read_inside(path, item.position)

    def _matches(self, directory: Path, item: Node, path: tuple[Step, ...]) -> Iterator[Path]:
        if not isinstance(item.value, str) or item.variables:
            self._report(item.position, "wrong_include", "an include must be text without variables", _LIST, path)
            return
        pattern = Path(item.value)
        if pattern.is_absolute() or {"..", "**"}.intersection(pattern.parts) or not item.value.isprintable():
            what = f"the include {shown(item.value)} may lead out of the directory of the policy"
            self._report(
                item.position, "include_escapes", what, "write it relative to this file, without .. and **", path
            )
            return
        found = sorted(glob.glob(item.value, root_dir=directory))  # noqa: PTH207 - Path.glob takes hidden files too
        if not found:
            hint = "patterns are relative to this file"
            self._report(item.position, "missing_include", f"no file matches {shown(item.value)}", hint, path)
        yield from (directory / name for name in found)

    def _report(self, position: Position, code: str, what: str, hint: str = "", path: tuple[Step, ...] = ()) -> None:
        self.complete = False
        self.faults.report(position, path, code, what, hint)


def _bytes(path: Path, most: int) -> bytes:
    if path == STANDARD_INPUT:
        return sys.stdin.buffer.read(most)
    if path.exists() and not path.is_file():
        raise OSError(0, "not a regular file")  # a pipe would never end
    with path.open("rb") as file:
        return file.read(most)


def _cause(error: OSError) -> str:
    return str(error.strerror).lower()


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve raises on a loop of links
