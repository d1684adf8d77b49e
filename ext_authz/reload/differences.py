"""What a candidate policy would have decided otherwise, and the file in which a worker leaves it for the supervisor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct


class Difference(Struct, frozen=True):
    """One decision that the candidate would have taken otherwise. No credential is in it."""

    at: float
    decision_id: str
    subject: str
    client: str
    route: str
    model: str
    reason: str
    code: str
    policy: str
    candidate_route: str
    candidate_reason: str
    candidate_code: str
    candidate_policy: str


def write(file: Path, differences: Sequence[Difference]) -> None:
    """All that the worker remembers. Blocking."""
    partial_file = file.with_suffix(".partial")
    partial_file.write_bytes(msgspec.json.encode(differences))
    partial_file.replace(file)


def differences_in(directory: Path) -> list[Difference]:
    """Of all workers, the latest first. Blocking."""
    found: list[Difference] = []
    for file in directory.glob("shadow-*.json"):
        found += msgspec.json.decode(file.read_bytes(), type=list[Difference])
    return sorted(found, key=lambda difference: -difference.at)
