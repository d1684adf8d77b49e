"""`target.lua` in the engine that Envoy runs it in."""

from __future__ import annotations

from collections.abc import Callable

from lupa.luajit21 import LuaRuntime

from ext_authz.policy.operation import Kind
from ext_authz.render.filters import target_reader
from ext_authz.render.surface import surface
from tests.e2e.server.raw import frame
from tests.unit.render.policies import of_kinds

SERVICE = "/inference.GRPCInferenceService/"


class Handle:
    """Of Envoy's Lua API what the script uses, no more forgiving than Envoy."""

    def __init__(self, path: str, body: bytes | None) -> None:
        self._path = path
        self._body = body
        self.told: dict[str, str] = {}
        self.reads = 0

    def headers(self) -> Handle:
        return self

    def get(self, name: str) -> str:
        assert name == ":path"
        return self._path

    def body(self) -> Handle | None:
        assert self._path != f"{SERVICE}ModelStreamInfer", "would wait for the end of a stream"
        return None if self._body is None else self

    def length(self) -> int:
        return len(self._body or b"")

    def getBytes(self, index: int, length: int) -> str:  # noqa: N802 - Envoy's name
        assert 0 <= index <= index + length <= self.length()
        assert length > 0
        self.reads += 1
        return (self._body or b"")[int(index) : int(index + length)].decode("latin-1")

    def streamInfo(self) -> Handle:  # noqa: N802 - Envoy's name
        return self

    def dynamicMetadata(self) -> Handle:  # noqa: N802 - Envoy's name
        return self

    def set(self, space: str, what: str, value: str) -> None:
        assert space == "tollgate.target"
        self.told[what] = value


def _script() -> Callable[[Handle], None]:
    reader = target_reader(surface(of_kinds(*Kind)))
    lua = LuaRuntime(encoding="latin-1", register_eval=False)
    lua.execute(reader["typed_config"]["default_source_code"]["inline_string"])
    run: Callable[[Handle], None] = lua.globals()["envoy_on_request"]
    return run


RUN = _script()


def told(body: bytes | None, rpc: str = "ModelInfer") -> dict[str, str]:
    handle = Handle(f"{SERVICE}{rpc}", body)
    RUN(handle)
    return handle.told


def named(message: bytes) -> tuple[str, str] | None:
    """The model and version that are told of a message; None: nothing that could be a name."""
    found = told(frame(message))
    return (found["model"], found.get("version", "")) if found.get("model") else None
