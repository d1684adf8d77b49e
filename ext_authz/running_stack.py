"""The stack that `tollgate up` runs on this machine, as a source of settings for commands that ask or change it."""

from __future__ import annotations

from collections.abc import Mapping


def running_stack() -> Mapping[str, str]:
    """Its settings by variable, such as TOLLGATE_REDIS_URL; empty if none runs."""
    return {}
