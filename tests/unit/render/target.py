"""`target.lua` in the engine that Envoy runs it in."""

from __future__ import annotations

from collections.abc import Callable

from lupa.luajit21 import LuaRuntime

from ext_authz.policy.kserve import Kind
from ext_authz.render.exposed_paths import exposed_paths
from ext_authz.render.filters import target_reader
from tests.e2e.server.raw import frame
from tests.unit.render.policies import of_kinds

SERVICE = "/inference.GRPCInferenceService/"

# Of Envoy's Lua API what the script uses, no more forgiving than Envoy.
_ENVOY = """
function read(path, content)
  local extracted, reads, body = {}, 0, {}
  function body:length() return #content end
  function body:getBytes(index, length)
    assert(index >= 0 and length > 0 and index + length <= #content)
    reads = reads + 1
    return content:sub(index + 1, index + length)
  end
  local headers = { get = function(_, name) return name == ":path" and path end }
  local metadata = { set = function(_, space, what, text) extracted[space .. ":" .. what] = text end }
  local info = { dynamicMetadata = function() return metadata end }
  local handle = { headers = function() return headers end, streamInfo = function() return info end }
  function handle:body()
    assert(not path:find("Stream"), "would wait for the end of a stream")
    return content and body
  end
  envoy_on_request(handle)
  return extracted["tollgate.target:model"], extracted["tollgate.target:version"], reads
end
"""


def _script() -> Callable[[str, str | None], tuple[str | None, str | None, int]]:
    reader = target_reader(exposed_paths(of_kinds(*Kind)))
    lua = LuaRuntime(encoding="latin-1", register_eval=False)
    lua.execute(reader["typed_config"]["default_source_code"]["inline_string"])
    lua.execute(_ENVOY)
    run: Callable[[str, str | None], tuple[str | None, str | None, int]] = lua.globals()["read"]
    return run


_RUN = _script()


def extracted(body: bytes | None, rpc: str = "ModelInfer") -> dict[str, str]:
    """What the filter extracts from a whole body."""
    model, version, _ = _RUN(f"{SERVICE}{rpc}", None if body is None else body.decode("latin-1"))
    return {what: text for what, text in (("model", model), ("version", version)) if text is not None}


def reads(body: bytes) -> int:
    """How often it looks into a body."""
    return _RUN(f"{SERVICE}ModelInfer", body.decode("latin-1"))[2]


def named(message: bytes) -> tuple[str, str] | None:
    """The model and version extracted from a message; None: nothing that could be a name."""
    found = extracted(frame(message))
    return (found["model"], found.get("version", "")) if found.get("model") else None
