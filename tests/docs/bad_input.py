"""The tables of docs/bad-input.md: what tests expect is written there, and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from tests.docs.codes import ROOT

_ROW = re.compile(r"^\| (.+?) \| (REST|gRPC|stream) \| (.+?) \| (?:`(.*?)` )?\| (\w+) \| (.+?) \|$", re.MULTILINE)


class Row(NamedTuple):
    """What is answered to one bad request."""

    what: str
    """What is sent, in words."""
    over: str
    answer: str
    """`400 code`, or the status of gRPC; of a stream, `message`: the stream goes on."""
    sentence: str
    by: str
    """Who decided it."""
    ledger: str
    """`REASON` of a refusal, `answered STATUS` of an allowed call, or `nothing`."""

    @property
    def key(self) -> tuple[str, str]:
        return self.what, self.over


def _rows() -> Iterator[Row]:
    text = (ROOT / "docs/bad-input.md").read_text()
    for found in _ROW.findall(text):
        what, over, answer, *rest = found
        yield Row(what.replace("`", ""), over, answer.replace("`", ""), *rest)


ROWS = {row.key: row for row in _rows()}
