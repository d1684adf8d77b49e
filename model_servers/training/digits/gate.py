"""When is the network worth serving? Asked again when it is promoted or deployed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def failures(metrics: Mapping[str, Any], gate: Mapping[str, float]) -> list[str]:
    """Why it is not; `metrics` as `export.py` writes them, `gate` from params.toml."""
    if metrics["accuracy"] < gate["accuracy"]:
        return [f"right in {metrics['accuracy']:.1%} of the digits, and {gate['accuracy']:.0%} is asked for"]
    return []
