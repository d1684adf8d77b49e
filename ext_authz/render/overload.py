"""What Envoy holds in memory at most; its bootstrap has that, so in a mesh it is Istio's."""

from __future__ import annotations

from ext_authz.render.endpoints import Json, Timeouts
from ext_authz.render.filters import named

OWN_HEAP = 256 * 1024 * 1024
"""Bytes of Envoy's memory without messages."""
MOST_HELD = 32
"""Of the largest messages, at once."""


def overload(timeouts: Timeouts) -> Json:
    """A gRPC message is held before it is checked, so anybody can have many held: of more than fit, those calls that
    hold the most are reset. One that holds less than a MiB never is."""
    heap = "envoy.resource_monitors.fixed_heap"
    limit = {"max_heap_size_bytes": OWN_HEAP + MOST_HELD * timeouts.grpc_bytes}
    return {
        "refresh_interval": "0.1s",
        "buffer_factory_config": {"minimum_account_to_track_power_of_two": 20},
        "resource_monitors": [named(heap, "resource_monitors.fixed_heap.v3.FixedHeapConfig", limit)],
        "actions": [
            {
                "name": "envoy.overload_actions.reset_high_memory_stream",
                "triggers": [{"name": heap, "scaled": {"scaling_threshold": 0.8, "saturation_threshold": 0.95}}],
            }
        ],
    }
