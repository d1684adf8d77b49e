"""`tollgate gitlab`: asks GitLab, and listens to its webhooks, until SIGTERM."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from functools import partial

import uvicorn

from ext_authz.clock import SystemClock
from ext_authz.db.postgres import Pool
from ext_authz.db.tables import ensure_usable
from ext_authz.errors import ConfigError
from ext_authz.gitlab import entry_store, store
from ext_authz.gitlab.api import SECONDS, GitlabApi
from ext_authz.gitlab.entries import Entries
from ext_authz.gitlab.hooks import application
from ext_authz.gitlab.listed import ListedProjects
from ext_authz.gitlab.rights import Rights
from ext_authz.gitlab.rounds import Rounds
from ext_authz.gitlab_settings import GitlabSettings
from ext_authz.identity.fetch import http_client
from ext_authz.observability import log
from ext_authz.policy.issuers import Issuer, ProjectRights
from ext_authz.policy.load import load_policy
from ext_authz.policy.model import Policy
from ext_authz.web.bodies import BoundedBodies, configuration

_POSTGRES = 5.0
"""Longest wait for an answer, in seconds."""


async def serve(settings: GitlabSettings) -> None:
    """Until SIGTERM or SIGINT.

    Raises:
        ConfigError: the policy has no such GitLab, or the port is taken.
        Unavailable: Postgres cannot be used.
    """
    log.configure(settings.log_level)
    issuer, rights = issuer_of(load_policy(settings.policy, os.environ), settings.gitlab_issuer)
    stop, pool = asyncio.Event(), Pool(settings.database_url.get_secret_value(), timeout=_POSTGRES)
    for number in (signal.SIGTERM, signal.SIGINT):  # which uvicorn raises once more when it has ended
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await pool.open()
    try:
        for needs, begun in ((store.NEEDS, store.begun), (entry_store.NEEDS, entry_store.begun)):
            await pool.run(partial(ensure_usable, needs=needs, ask=partial(begun, issuer=issuer.name)))
        async with http_client(SECONDS, settings.jwks_ca_file) as http:
            api = GitlabApi(
                settings.gitlab_url or issuer.issuer, settings.gitlab_token.get_secret_value(), http, SystemClock()
            )
            learned = Rights(issuer.name, rights.projects, api.project, pool)
            listed = Entries(issuer.name, ListedProjects(api, rights.catalogue), pool)
            rounds = [Rounds(each.learn, period=settings.gitlab_poll) for each in (learned, listed)]
            async with asyncio.TaskGroup() as tasks:
                for each in rounds:
                    tasks.create_task(each.run(stop))
                await _listen(settings, rounds, stop)
                stop.set()
    finally:
        await pool.close()


def issuer_of(policy: Policy, name: str) -> tuple[Issuer, ProjectRights]:
    """The one with this name, or the only one with rights of projects.

    Raises:
        ConfigError
    """
    known = {each.name: (each, each.gitlab.rights) for each in policy.issuers if each.gitlab and each.gitlab.rights}
    if name in known:
        return known[name]
    if not name and len(known) == 1:
        return next(iter(known.values()))
    names = ", ".join(sorted(known)) or "it has none with gitlab.rights"
    raise ConfigError(f"TOLLGATE_GITLAB_ISSUER: write which GitLab of the policy it is: {names}")


async def _listen(settings: GitlabSettings, rounds: Sequence[Rounds], stop: asyncio.Event) -> None:
    told = application(settings.gitlab_hook_token.get_secret_value(), *(each.complete for each in rounds))
    told.add_middleware(BoundedBodies)
    host, _, port = settings.gitlab_listen.rpartition(":")
    config = configuration(told, host=host.strip("[]"), port=int(port))
    try:
        bound = config.bind_socket()
    except SystemExit:
        raise ConfigError(f"TOLLGATE_GITLAB_LISTEN: cannot listen on {settings.gitlab_listen}") from None
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[bound]))
    await asyncio.wait({serving, asyncio.create_task(stop.wait())}, return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    await serving
