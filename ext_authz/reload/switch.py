"""The policy in force in one worker, and how another takes its place while checks go on.

A check is bound to the parts of one policy when it begins and finishes there. What lives on from one policy to the
next - Redis, the keys and the verified callers of unchanged issuers, the metrics - is not part of any.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import Struct

from ext_authz.edge.authorizer import Authorizer
from ext_authz.errors import ConfigError
from ext_authz.policy.model import Policy
from ext_authz.reload.authenticator import PolicyAuthenticator
from ext_authz.reload.calm import Calm
from ext_authz.reload.compiled import read
from ext_authz.reload.rollout import Holding, Order

logger = logging.getLogger(__name__)


class Parts(Struct, frozen=True, eq=False):
    """What belongs to one policy."""

    policy: Policy
    authenticator: PolicyAuthenticator
    authorizer: Authorizer


Build = Callable[[Policy, PolicyAuthenticator], Authorizer]


class Switch:
    """Holds the policy in force. For one event loop."""

    def __init__(self, policy: Policy, authenticator: PolicyAuthenticator, build: Build, calm: Calm) -> None:
        self._build = build
        self._calm = calm
        self._parts = Parts(policy, authenticator, build(policy, authenticator))
        self.holding = Holding(policy.hash)

    @property
    def policy(self) -> Policy:
        return self._parts.policy

    @property
    def authenticator(self) -> PolicyAuthenticator:
        """Of the policy in force."""
        return self._parts.authenticator

    def check(self, message: bytes) -> Coroutine[Any, Any, bytes]:
        """Decide by the policy that is in force now."""
        return self._parts.authorizer.check(message)

    async def start(self) -> None:
        """Fetch keys."""
        await self.authenticator.start()

    async def stop(self) -> None:
        await self.authenticator.stop()

    async def obey(self, order: Order) -> None:
        """Put another policy in force, or keep this one and say why in `holding`. Never raises."""
        try:
            await self._replace(order)
        except Exception as wrong:
            logger.exception("policy not taken", extra={"policy": order.hash})
            self.holding = Holding(self._parts.policy.hash, order.number, f"{type(wrong).__name__}: {wrong}")
        else:
            self.holding = Holding(self._parts.policy.hash, order.number)

    async def _replace(self, order: Order) -> None:
        policy = await self._calm.run(partial(read, Path(order.file)))
        if policy.hash != order.hash:
            raise ConfigError(f"the file holds the policy {policy.hash}")
        if policy.hash == self._parts.policy.hash:
            return
        before = self._parts
        authenticator = before.authenticator.beside(policy.issuers)
        await authenticator.fetch_keys()
        authenticator.ensure_no_worse_than(before.authenticator)
        authorizer = await self._calm.run(partial(self._build, policy, authenticator))
        # No await from here on: between two checks everything changes at once.
        authenticator.take_over(before.authenticator)
        self._parts = Parts(policy, authenticator, authorizer)
        self._calm.free(before.policy, before.authorizer)
