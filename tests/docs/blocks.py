"""The command blocks of a page, as one script of bash that runs them all in order, in one folder.

Every `sh` block is run, unless a comment above it says why not: `<!-- not run: REASON -->`. Two more comments, each
above a block: `<!-- file: NAME -->` (the block is written to this file) and `<!-- output -->` (the `sh` block before
prints this; `...` stands for anything). On top of a page, `<!-- run beside: servers -->` names the fixture that is
there when it runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

_BESIDE = re.compile(r"^<!-- run beside: (\w+) -->$", re.MULTILINE)
_BLOCK = re.compile(
    r"(?:^<!-- (?P<kind>[a-z ]+)(?:: (?P<value>[^\n]+?))? -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)
_MARK = "\x1e"


class Block(Struct, frozen=True):
    line: int
    language: str
    kind: str
    """Of the comment above."""
    value: str
    text: str


class Page(Struct, frozen=True):
    beside: str
    blocks: tuple[Block, ...]

    @property
    def commands(self) -> tuple[Block, ...]:
        return tuple(block for block in self.blocks if block.language == "sh" and block.kind != "not run")


def read(file: Path) -> Page:
    text = file.read_text()
    beside = _BESIDE.search(text)
    return Page(beside[1] if beside else "nothing", tuple(_blocks(text)))


def _blocks(text: str) -> Iterator[Block]:
    for found in _BLOCK.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        yield Block(line, found["language"], found["kind"] or "", found["value"] or "", found["text"])


def script(page: Page, instead: Mapping[str, str]) -> str:
    """`instead`: what is written in the page to what is there in the test."""
    parts = ["set -euo pipefail\n"]
    for block in page.blocks:
        if block.kind == "file":
            parts.append(f"cat > {block.value} <<'END_OF_FILE'\n{block.text}END_OF_FILE\n")
        elif block in page.commands:
            parts.append(f"printf '\\n{_MARK}{block.line}\\n'\n{block.text}")
    return _replaced("".join(parts), instead)


def _replaced(text: str, instead: Mapping[str, str]) -> str:
    for written, there in instead.items():
        text = text.replace(written, there)
    return text


def printed(output: str) -> dict[int, str]:
    """Line of a block to what it printed."""
    parts = (part.partition("\n") for part in output.split(f"\n{_MARK}")[1:])
    return {int(line): text for line, _, text in parts}


def expected(page: Page, instead: Mapping[str, str]) -> dict[int, str]:
    """Line of a block to what the page says that it prints."""
    found, before = {}, 0
    for block in page.blocks:
        if block.kind == "output":
            found[before] = _replaced(block.text, instead)
        before = block.line
    return found


def matches(text: str, pattern: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.strip().split("..."))), text.strip(), re.DOTALL) is not None
