"""The service of API tokens over the stores of the settings, for commands."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from ext_authz.clock import SystemClock
from ext_authz.console_settings import TokenCommandSettings
from ext_authz.db.postgres import Pool
from ext_authz.environment import policy_variables
from ext_authz.policy.load import load_policy
from ext_authz.revocation.operations import PATIENCE, opened
from ext_authz.settings import load_settings
from ext_authz.tokens.cipher import Cipher
from ext_authz.tokens.keys import SigningKeys
from ext_authz.tokens.service import TokenService


@asynccontextmanager
async def beside_stores() -> AsyncGenerator[tuple[TokenService, SigningKeys]]:
    """Raises ConfigError for what the settings lack."""
    settings = load_settings(TokenCommandSettings)
    policy, clock = load_policy(settings.policy, policy_variables()), SystemClock()
    pool = Pool(settings.database_url.get_secret_value(), timeout=PATIENCE, size=2)
    await pool.open()
    try:
        async with opened(settings, policy.issuers) as operations:
            keys = SigningKeys(pool, Cipher(settings.console_keys.get_secret_value()), clock)
            yield TokenService(policy, pool, keys, operations, clock), keys
    finally:
        await pool.close()
