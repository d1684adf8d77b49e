"""What a child may know. Programs of others get no more than they need: no secret travels to where it has no use."""

from __future__ import annotations

import os

from devstack.stack.directory import MARK, StateDirectory

_HARMLESS = ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "USER")


_PROXIES = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "grpc_proxy")
_OURS = "localhost,127.0.0.1"


def reach_loopback_directly() -> None:
    """Keep this process and its children from asking a proxy for what runs on this machine."""
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), _OURS)))


def has_proxy() -> bool:
    """Whether programs are told to go through one."""
    return any(os.environ.get(name) for name in _PROXIES)


def bare(state: StateDirectory) -> dict[str, str]:
    """For Postgres, Redis, Triton and Envoy. No LD_LIBRARY_PATH: it would reach into the models' Python."""
    kept = {name: os.environ[name] for name in _HARMLESS if name in os.environ}
    return {"PATH": os.defpath, **kept, MARK: state.mark}


def full(state: StateDirectory, **settings: str) -> dict[str, str]:
    """For our own programs: everything that the operator set, and what only the stack knows."""
    return {**os.environ, **{f"TOLLGATE_{name.upper()}": value for name, value in settings.items()}, MARK: state.mark}
