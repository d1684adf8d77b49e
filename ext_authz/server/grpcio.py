"""The portable server: grpc.aio, for Pythons that pyvoy cannot run in. One process per worker, one port."""

from __future__ import annotations

import sys
from collections.abc import Mapping


class Grpcio:
    """Ready with its first report: the port is bound by then. It drains by itself on SIGTERM."""

    def command(self) -> list[str]:
        return [sys.executable, "-m", "ext_authz.server.grpcio_worker"]

    def environment(self) -> Mapping[str, str]:
        return {}

    async def accepts(self) -> bool:
        return True

    async def drain(self, seconds: float) -> None:
        """Nothing to do before SIGTERM."""
