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


def test_it_is_called_by_its_address_or_by_an_accepted_name() -> None:
    port = free_port()
    serve_metrics("127.0.0.1", port, CollectorRegistry(), dict, frozenset({"usage.example"}))
    statuses = {
        host: httpx.get(f"http://127.0.0.1:{port}/readyz", headers={"host": host}).status_code
        for host in ("usage.example", "other.example", f"127.0.0.1:{port}")
    }
    assert statuses == {"usage.example": 200, "other.example": 403, f"127.0.0.1:{port}": 200}
