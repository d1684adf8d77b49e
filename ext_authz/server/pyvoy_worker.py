"""The module that pyvoy loads inside the worker's Envoy: `ext_authz.server.pyvoy_worker:app`."""

from __future__ import annotations

import os
import signal

from ext_authz.errors import ConfigError
from ext_authz.server.asgi import Receive, Rpc, Send
from ext_authz.server.rpc import CHECK, HEALTH
from ext_authz.server.worker import Worker


async def live(rpc: Rpc, receive: Receive, send: Send) -> None:
    """The ASGI lifespan is the worker's lifetime."""
    await receive()
    try:
        worker = Worker.from_environment(leave=_terminate)
        service, health = await worker.start()
    except ConfigError as wrong:
        await send({"type": "lifespan.startup.failed", "message": str(wrong)})
        return
    rpc.answer({CHECK: service.check, HEALTH: health.check}, worker.settings.max_message_bytes)
    worker.attend(service, health)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await service.stop()
    await send({"type": "lifespan.shutdown.complete"})


def _terminate() -> None:
    """Envoy owns this process and its signals; SIGTERM ends both."""
    os.kill(os.getpid(), signal.SIGTERM)


app = Rpc(live)
