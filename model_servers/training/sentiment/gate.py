"""When is version 2 worth serving? Asked after training, and again when a model is promoted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def failures(metrics: Mapping[str, Any], gate: Mapping[str, float]) -> list[str]:
    """Why it is not; `metrics` as `evaluate.py` writes them, `gate` from params.toml."""
    first, second = metrics["v1"]["accuracy"], metrics["v2"]["accuracy"]
    found = []
    if second["movie"] - first["movie"] < gate["movie_points"]:
        found.append(f"right in {second['movie']:.1%} of movie sentences, version 1 in {first['movie']:.1%}")
    if second["all"] < gate["overall"]:
        found.append(f"right in {second['all']:.1%} of all sentences, and {gate['overall']:.0%} is asked for")
    return found
