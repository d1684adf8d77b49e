"""Where the usage worker serves its metrics."""

from __future__ import annotations

import httpx
import pytest
from prometheus_client import CollectorRegistry

from ext_authz.observability.listeners import serve_metrics
from tests.services import free_port


@pytest.mark.parametrize(
    ("host", "reached", "not_reached"),
    [("127.0.0.1", "127.0.0.1", "127.0.0.2"), ("0.0.0.0", "127.0.0.2", "[::1]"), ("::1", "[::1]", "127.0.0.1")],
)
def test_it_is_reached_at_the_address_of_the_setting_only(host: str, reached: str, not_reached: str) -> None:
    port = free_port()
    serve_metrics(host, port, CollectorRegistry(), dict)
    assert httpx.get(f"http://{reached}:{port}/readyz").json() == {"ready": True, "causes": {}}
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://{not_reached}:{port}/readyz")
