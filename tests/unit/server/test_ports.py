"""A port belongs to one `serve`, whose workers share it."""

from __future__ import annotations

import pytest

from ext_authz.errors import ConfigError
from ext_authz.server import ports
from tests.services import free_port


def test_a_port_is_claimed_by_one_before_any_worker_listens() -> None:
    port = free_port()
    with ports.claimed("LISTEN", "127.0.0.1", port):
        with pytest.raises(ConfigError, match=f"TOLLGATE_LISTEN_PORT: cannot listen on 127.0.0.1:{port}"):
            ports.claimed("LISTEN", "127.0.0.1", port)
        with (
            ports.bound("LISTEN", "127.0.0.1", port, shared=True),
            ports.bound("LISTEN", "127.0.0.1", port, shared=True),
            pytest.raises(ConfigError),
        ):
            ports.claimed("LISTEN", "127.0.0.1", port)
    ports.claimed("LISTEN", "127.0.0.1", port).close()
